import { createReadStream, createWriteStream } from 'node:fs'
import { readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { createGzip } from 'node:zlib'
import { z } from 'zod'
import { file, OutputFile, outputFile } from '../../server/files.js'
import { definePredictor } from '../../server/predictor.js'
import { secret } from '../../server/secret.js'

/** Files in, files and figures out: packs documents, and counts what is in them. */
export const Predictor = definePredictor({
  input: z.object({
    documents: z
      .array(file({ accept: 'text/*' }))
      .min(1)
      .describe('The texts to pack.'),
    level: z.literal([1, 6, 9]).default(6).describe('1 is fast, 9 is small.'),
    token: secret().optional().describe('Only the licensed get level 9.'),
  }),
  output: z.object({
    packed: z.array(outputFile()),
    lines: z.int(),
    ratio: z.number(),
  }),
  streaming: false,

  async predict({ documents, level, token }, _state, { folder, log }) {
    if (level === 9 && token?.reveal() !== 'let me in') throw new Error('Level 9 needs the token.')
    const packed: OutputFile[] = []
    let [lines, sizeIn, sizeOut] = [0, 0, 0]
    for (const [index, document] of documents.entries()) {
      const path = join(await folder(), `${index}.txt.gz`)
      await pipeline(createReadStream(document.path), createGzip({ level }), createWriteStream(path))
      lines += (await readFile(document.path, 'utf8')).split('\n').length
      sizeIn += document.sizeBytes
      sizeOut += (await stat(path)).size
      log(`packed ${document.sizeBytes} bytes of ${document.mediaType}`)
      packed.push(OutputFile.fromPath(path))
    }
    return { packed, lines, ratio: sizeOut / sizeIn }
  },
})
