import { existsSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { z } from 'zod'
import { definePredictor, defineTraining, textStream } from '../../server/predictor.js'

/**
 * The model that Cog's contract was recorded with, as an asynchronous generator: chunk i is word i (cyclic) of the
 * prompt, after one space for i > 0; a prompt without words gives "0", " 1", …
 *
 * A prompt that starts with `log:` logs a line per chunk, `err:` the same as from stderr, `metric:` records three
 * metrics, `late:` sleeps before the first chunk too.
 */
export const Predictor = definePredictor({
  input: z.object({
    prompt: z.string().describe('Text to echo, word by word'),
    n: z.int().min(1).max(100).default(5).describe('Number of chunks'),
    delay: z.number().default(0).describe('Seconds to sleep between chunks'),
    fail_at: z.int().default(-1).describe('Raise an error instead of this chunk; -1 never'),
    mode: z.enum(['plain', 'upper', 'reverse']).default('plain').describe('What to do to each word'),
  }),
  output: textStream(),
  streaming: true,

  async setup(context) {
    await sleep(Number(process.env.ECHO_SETUP_SLEEP ?? '0') * 1000, undefined, { signal: context.signal })
    if (process.env.ECHO_SETUP_FAIL) throw new Error(process.env.ECHO_SETUP_FAIL)
    context.log('setup: ready')
  },

  async *predict(input, _state, context) {
    for (let i = 0; i < input.n; i++) {
      if (input.delay > 0 && (i > 0 || input.prompt.startsWith('late:'))) {
        await sleep(input.delay * 1000, undefined, { signal: context.signal })
      }
      if (i === input.fail_at) throw new Error(`failed at chunk ${i}`)
      const text = chunk(input.prompt, i, input.mode)
      if (input.prompt.startsWith('log:')) context.log(`line ${i}`)
      if (input.prompt.startsWith('err:')) context.log(`error line ${i}`, 'stderr')
      if (input.prompt.startsWith('metric:')) {
        context.metrics.increment('chunks')
        context.metrics.set('last', text.replace(/^ /, ''))
        context.metrics.append('words', text.replace(/^ /, ''))
      }
      yield text
    }
  },

  healthcheck: () => !existsSync(process.env.ECHO_UNHEALTHY_FILE ?? '/nonexistent'),
})

function chunk(prompt: string, i: number, mode: 'plain' | 'upper' | 'reverse'): string {
  const words = prompt.split(/\p{White_Space}+/u).filter((word) => word !== '')
  let word = words.length > 0 ? words[i % words.length]! : String(i)
  if (mode === 'upper') word = word.toUpperCase()
  if (mode === 'reverse') word = [...word].reverse().join('')
  return i === 0 ? word : ` ${word}`
}

/** The same, trained as it predicts: what Cog's server does on the paths of trainings. */
export const Trainable = {
  ...Predictor,
  train: defineTraining({
    input: Predictor.input,
    output: Predictor.output,
    run: (input, _state, context) => Predictor.predict(input, undefined, { ...context, prepared: undefined }),
  }),
}

/** The same without streams. */
export const NoStream = { ...Predictor, streaming: false }
