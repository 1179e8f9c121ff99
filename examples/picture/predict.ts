import { z } from 'zod'
import { OutputFile, outputFile } from '../../server/files.js'
import { definePredictor } from '../../server/predictor.js'
import { encodePng } from './png.js'

/** In the manner of an image model: draws a plane wave from a seed, and returns a PNG. */
export const Predictor = definePredictor({
  input: z.object({
    width: z.int().min(1).max(1024).default(64).describe('Pixels across.'),
    height: z.int().min(1).max(1024).default(64).describe('Pixels down.'),
    seed: z.int().min(0).optional().describe('The same seed draws the same picture; drawn and reported if left out.'),
  }),
  output: outputFile(),
  streaming: false,

  predict({ width, height, seed = Math.floor(Math.random() * 2 ** 32) }, _state, { metrics }) {
    metrics.set('seed', seed)
    const angle = seed % 360
    const [dx, dy] = [Math.cos(angle) / 8, Math.sin(angle) / 8]
    const pixels = new Uint8Array(width * height * 3)
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const phase = x * dx + y * dy
        for (const channel of [0, 1, 2]) {
          pixels[(y * width + x) * 3 + channel] = Math.round(127.5 * (1 + Math.sin(phase + channel)))
        }
      }
    }
    return OutputFile.fromBytes('picture.png', encodePng({ width, height, pixels }))
  },
})
