import { readFile } from 'node:fs/promises'
import { z } from 'zod'
import { file } from '../../server/files.js'
import { definePredictor, textStream } from '../../server/predictor.js'

/** Goes on with a text word by word, by weights that `train.ts` made. */
export const Predictor = definePredictor({
  input: z.object({
    weights: file({ accept: '.json' }).describe('What a training has returned.'),
    prompt: z.string().min(1).describe('Where to begin.'),
    words: z.int().min(1).max(1000).default(20).describe('Most words to add.'),
  }),
  output: textStream(),
  streaming: true,

  async *predict({ weights, prompt, words }) {
    const followers = new Map<string, string>(Object.entries(JSON.parse(await readFile(weights.path, 'utf8'))))
    let word = prompt.trim().split(/\s+/).at(-1)!
    for (let i = 0; i < words; i++) {
      const next = followers.get(word)
      if (next === undefined) return
      yield ` ${next}`
      word = next
    }
  },
})
