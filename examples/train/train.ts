import { readFile } from 'node:fs/promises'
import { z } from 'zod'
import { file, OutputFile, outputFile } from '../../server/files.js'
import { defineTraining } from '../../server/predictor.js'

/** Learns from a text which word follows which most often. */
export const train = defineTraining({
  input: z.object({
    text: file({ accept: 'text/*' }).describe('What to learn from.'),
    rounds: z.int().min(1).max(100).default(1).describe('How often to read it.'),
  }),
  output: z.object({ weights: outputFile() }),

  async run({ text, rounds }, _state, { signal, metrics }) {
    const words = (await readFile(text.path, 'utf8')).split(/\s+/).filter((word) => word !== '')
    const counts = new Map<string, Map<string, number>>()
    for (let round = 1; round <= rounds; round++) {
      signal.throwIfAborted()
      for (const [i, word] of words.slice(0, -1).entries()) {
        const followers = counts.get(word) ?? new Map<string, number>()
        counts.set(word, followers.set(words[i + 1]!, (followers.get(words[i + 1]!) ?? 0) + 1))
      }
      // Goes to the training's logs, and to its webhook.
      console.log(`round ${round} of ${rounds}: ${words.length} words`)
    }
    metrics.set('words', counts.size)
    const likeliest = [...counts].map(([word, followers]) => {
      const [[next]] = [...followers].sort(([, a], [, b]) => b - a) as [[string, number]]
      return [word, next] as const
    })
    return { weights: OutputFile.fromBytes('weights.json', Buffer.from(JSON.stringify(Object.fromEntries(likeliest)))) }
  },
})
