import { z } from 'zod'
import { definePredictor } from '../../server/predictor.js'

/** Ends its process in the ways that a native library or a careless author can. */
export const Predictor = definePredictor({
  input: z.object({ how: z.enum(['answer', 'exit', 'kill', 'throw later']).describe('What to do') }),
  output: z.string(),
  streaming: false,
  async predict(input) {
    if (input.how === 'exit') process.exit(7)
    if (input.how === 'kill') process.kill(process.pid, 'SIGKILL')
    if (input.how === 'throw later') {
      // Outside of any promise that someone awaits, and without a text on stderr.
      process.once('uncaughtException', () => process.exit(1))
      setImmediate(() => {
        throw new Error('thrown later')
      })
    }
    if (input.how !== 'answer') await new Promise(() => {})
    return `answered by ${process.pid}`
  },
})
