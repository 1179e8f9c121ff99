import { z } from 'zod'
import { definePredictor, textStream } from '../../server/predictor.js'

/** Does to its own process what a careless author can do without ending it. */
export const Predictor = definePredictor({
  input: z.object({
    how: z.enum(['answer', 'block', 'flood', 'hold a folder']).describe('What to do'),
    amount: z.number().default(0).describe('Seconds to block the thread; chunks of 100 kB to yield'),
  }),
  output: textStream(),
  streaming: true,
  async *predict(input, _state, context) {
    if (input.how === 'block') Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, input.amount * 1000)
    if (input.how === 'flood') for (let i = 0; i < input.amount; i++) yield 'x'.repeat(100_000)
    if (input.how === 'hold a folder') {
      yield await context.folder()
      await new Promise((resolve) => context.signal.addEventListener('abort', resolve))
    }
    yield 'done'
  },
})

/** Its setup never ends. */
export const Hangs = { ...Predictor, setup: () => new Promise<never>(() => {}) }

/** Its setup keeps the thread for good. */
export const Blocks = {
  ...Predictor,
  setup: () => void Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0),
}

/** Its setup throws. */
export const Throws = {
  ...Predictor,
  setup: () => {
    throw new Error('no weights')
  },
}
