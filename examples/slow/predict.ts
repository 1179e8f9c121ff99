import { setTimeout as sleep } from 'node:timers/promises'
import { z } from 'zod'
import { definePredictor, iterator } from '../../server/predictor.js'

/** A long prediction: tells its progress in its logs, yields a result for each step, and ends soon after a cancel. */
export const Predictor = definePredictor({
  input: z.object({
    steps: z.int().min(1).max(1000).default(10).describe('How many steps to take.'),
    seconds: z.number().min(0).max(60).default(1).describe('How long a step takes.'),
  }),
  output: iterator(z.object({ step: z.int(), of: z.int() })),
  streaming: true,

  async setup({ signal, log }) {
    log('loading weights')
    await sleep(10, undefined, { signal })
    return { loadedAt: new Date() }
  },

  async *predict({ steps, seconds }, { loadedAt }, { signal, metrics }) {
    metrics.set('model.loaded_at', loadedAt.toISOString())
    for (let step = 1; step <= steps; step++) {
      // Throws when the prediction is canceled or its client has left; the server knows what that means.
      await sleep(seconds * 1000, undefined, { signal })
      // Goes to the logs of this prediction, even while others run beside it.
      console.log(`step ${step} of ${steps}`)
      metrics.append('step_seconds', seconds)
      yield { step, of: steps }
    }
  },

  healthcheck: ({ loadedAt }) => loadedAt <= new Date(),
})
