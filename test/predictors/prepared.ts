import { z } from 'zod'
import { definePredictor, InputError } from '../../server/predictor.js'

/** A plain value as output; `check` refuses what only it can know, and hands what it made to `predict`. */
export const Predictor = definePredictor({
  input: z.object({
    words: z.array(z.string()).min(1).describe('The words to count'),
    limit: z.int().optional().describe('Most letters taken'),
    even: z
      .int()
      .default(0)
      .refine((value) => value % 2 === 0, 'must be even'),
  }),
  output: z.string(),
  streaming: false,
  setup: async () => ({ longest: 10 }),
  check(input, state) {
    const letters = input.words.join('').length
    if (letters > state.longest) {
      throw new InputError('words', `${letters} letters are more than ${state.longest}. Send fewer.`)
    }
    return { letters }
  },
  predict: async (input, state, context) =>
    `${context.prepared.letters} of ${input.limit ?? state.longest} letters in ${input.words.length} words`,
  teardown: (state) => {
    state.longest = 0
  },
})
