import { z } from 'zod'
import { definePredictor, textStream } from '../../server/predictor.js'

/** The smallest Predictor that streams: gives a text back, word by word. */
export const Predictor = definePredictor({
  input: z.object({
    text: z.string().min(1).describe('The text to give back.'),
    mode: z.enum(['plain', 'upper']).default('plain').describe('What to do to each word.'),
  }),
  output: textStream(),
  streaming: true,

  *predict({ text, mode }, _state, { metrics }) {
    // Each word with the space before it, so that the pieces joined are the text.
    for (const word of text.match(/\s*\S+\s*$|\s*\S+/g) ?? [text]) {
      metrics.increment('words')
      yield mode === 'upper' ? word.toUpperCase() : word
    }
  },
})
