import t from 'tap'
import { z } from 'zod'
import { PredictorHost } from '../../server/host.js'
import type { FromWorker, RunEvent } from '../../server/messages.js'
import { definePredictor, InputError, type Predictor, textStream } from '../../server/predictor.js'
import { captureStream } from '../../server/run-output.js'
import { Predictor as EchoStream } from '../predictors/echo-stream.js'
import { Predictor as Prepared } from '../predictors/prepared.js'
import { deferred, TEST_FILES } from './fixtures.js'

interface Hosted {
  readonly host: PredictorHost
  readonly messages: FromWorker[]
  /** Every event of every run so far. */
  readonly events: () => RunEvent[]
  /** Resolves with the last event of a run. */
  readonly end: (key: number) => Promise<RunEvent>
}

async function hosted(predictor: Predictor, post?: () => Promise<void> | undefined): Promise<Hosted> {
  const messages: FromWorker[] = []
  const ends = new Map<number, (event: RunEvent) => void>()
  const host = new PredictorHost({
    predictor,
    concurrency: 4,
    folder: '',
    files: TEST_FILES,
    post: (message) => {
      messages.push(message)
      const events = message.type === 'batch' ? message.events : []
      for (const event of events) if (event.kind === 'ended' || event.kind === 'rejected') ends.get(event.key)?.(event)
      return post?.()
    },
  })
  await host.setup()
  return {
    host,
    messages,
    events: () => messages.flatMap((message) => (message.type === 'batch' ? message.events : [])),
    end: (key) => new Promise((resolve) => ends.set(key, resolve)),
  }
}

/** Lets the event loop turn so often. */
async function turns(count: number): Promise<void> {
  for (let i = 0; i < count; i++) await new Promise((resolve) => setImmediate(resolve))
}

const predict = (key: number, input: Record<string, unknown>) =>
  ({ type: 'predict', kind: 'prediction', key, id: `p${key}`, input, context: { tenant: 'a' } }) as const

t.test('types flow from the schema, setup and check to predict, with nothing written twice', async (t) => {
  const predictor = definePredictor({
    input: z.object({ n: z.int().default(5), name: z.string().optional() }),
    output: textStream(),
    streaming: true,
    setup: async () => ({ greeting: 'hello' }),
    check: (input, state) => ({ length: input.n + state.greeting.length }),
    async *predict(input, state, context) {
      const n: number = input.n
      const name: string | undefined = input.name
      const length: number = context.prepared.length
      // @ts-expect-error n is a number
      const wrong: string = input.n
      // @ts-expect-error the schema has no such input
      input.other
      // @ts-expect-error setup returns no such thing
      state.other
      yield `${n}${name}${length}${wrong}`
    },
  })
  definePredictor({
    input: z.object({}),
    output: z.string(),
    streaming: false,
    // @ts-expect-error the output is a text
    predict: () => 5,
  })
  t.type(predictor.predict, 'function')
})

t.test('setup tells its progress, its lines and how many may run at once', async (t) => {
  const { messages } = await hosted(
    definePredictor({
      input: z.object({}),
      output: z.string(),
      streaming: false,
      setup(context) {
        context.log('loading')
        context.progress({ phase: 'load', done: 1, total: 2, unit: 'bytes' })
        t.throws(() => context.limitConcurrency(5), { name: 'RangeError', message: /limitConcurrency\(5\).*1 to 4/ })
        t.throws(() => context.limitConcurrency(0), RangeError)
        context.limitConcurrency(2)
      },
      predict: () => 'x',
    }),
  )
  t.match(messages, [
    { type: 'log', line: 'loading' },
    { type: 'progress', report: { phase: 'load', done: 1, total: 2, unit: 'bytes' } },
    { type: 'ready', concurrency: 2, streaming: false, iterator: false, healthcheck: false },
  ])
})

t.test('a setup that throws is reported with its reason', async (t) => {
  const { messages } = await hosted({
    ...EchoStream,
    setup: () => {
      throw new RangeError('no weights')
    },
  })
  t.strictSame(messages, [{ type: 'setup-failed', reason: 'RangeError: no weights' }])
})

t.test('check refuses an input by name, or hands what it prepared to predict', async (t) => {
  const { host, events, end } = await hosted(Prepared)
  host.receive(predict(1, { words: ['ab', 'cde'] }))
  await end(1)
  t.strictSame(events().splice(0), [
    { key: 1, kind: 'accepted' },
    { key: 1, kind: 'output', chunk: '5 of 10 letters in 2 words' },
    { key: 1, kind: 'ended', status: 'succeeded' },
  ])
  host.receive(predict(2, { words: ['abcdefghijkl'] }))
  t.match(await end(2), {
    kind: 'rejected',
    detail: [{ loc: ['body', 'input', 'words'], msg: '12 letters are more than 10. Send fewer.', type: 'value_error' }],
  })
})

t.test('rules that JSON Schema cannot carry are held by zod, and null counts as absent', async (t) => {
  const { host, end } = await hosted(Prepared)
  host.receive(predict(1, { words: ['a'], even: 3 }))
  t.match(await end(1), { kind: 'rejected', detail: [{ loc: ['body', 'input', 'even'], msg: 'must be even' }] })
  host.receive(predict(2, { words: ['a'], limit: null }))
  t.match(await end(2), { kind: 'ended', status: 'succeeded' })
})

t.test('an error in check that is no InputError fails the prediction', async (t) => {
  const { host, events, end } = await hosted({
    ...Prepared,
    check: () => {
      throw Object.assign(new Error('tokenizer gone'), { code: 'E_TOKENIZER' })
    },
  })
  host.receive(predict(1, { words: ['a'] }))
  await end(1)
  t.match(events(), [
    { kind: 'ended', status: 'failed', error: 'Prediction failed: Error: tokenizer gone', errorName: 'E_TOKENIZER' },
  ])
})

t.test('what many runs do in one step crosses the border in one message', async (t) => {
  const steps = [deferred(), deferred()]
  const { host, messages, end } = await hosted(
    definePredictor({
      input: z.object({}),
      output: textStream(),
      streaming: true,
      async *predict() {
        for (const [i, step] of steps.entries()) {
          await step.promise
          yield `chunk ${i}`
        }
      },
    }),
  )
  const keys = [1, 2, 3, 4]
  for (const key of keys) host.receive(predict(key, {}))
  const ended = Promise.all(keys.map(end))
  await turns(2)
  messages.length = 0
  steps[0]!.resolve()
  await turns(2)
  t.strictSame(messages, [{ type: 'batch', events: keys.map((key) => ({ key, kind: 'output', chunk: 'chunk 0' })) }])
  steps[1]!.resolve()
  await ended
})

t.test('a predictor that never waits can be canceled, and its chunks leave meanwhile', async (t) => {
  const { host, messages, events, end } = await hosted(
    definePredictor({
      input: z.object({}),
      output: textStream(),
      streaming: true,
      *predict() {
        for (;;) yield 'x'
      },
    }),
  )
  host.receive(predict(1, {}))
  setImmediate(() => host.receive({ type: 'cancel', key: 1 }))
  t.match(await end(1), { status: 'canceled' })
  t.equal(events()[0]!.kind, 'accepted')
  t.ok(messages.length > 1)
})

t.test('a full channel holds the predictor back', async (t) => {
  const room = deferred()
  let yielded = 0
  const { host, end } = await hosted(
    definePredictor({
      input: z.object({}),
      output: textStream(),
      streaming: true,
      async *predict() {
        for (; yielded < 100; yielded++) {
          await new Promise((resolve) => setImmediate(resolve))
          yield 'x'
        }
      },
    }),
    () => room.promise,
  )
  host.receive(predict(1, {}))
  await turns(50)
  t.ok(yielded < 5, `${yielded} chunks before there was room`)
  room.resolve()
  t.match(await end(1), { status: 'succeeded' })
})

t.test('a canceled run ends as canceled, also when the predictor throws on it or ignores it', async (t) => {
  const going = deferred()
  const ignored = deferred<string>()
  const { host, events, end } = await hosted(
    definePredictor({
      input: z.object({ obey: z.boolean() }),
      output: z.string(),
      streaming: false,
      async predict(input, _state, context) {
        if (!input.obey) return await ignored.promise
        going.resolve()
        return await new Promise<string>((_resolve, reject) => {
          context.signal.addEventListener('abort', () => reject(context.signal.reason))
        })
      },
    }),
  )
  host.receive(predict(1, { obey: true }))
  host.receive(predict(2, { obey: false }))
  await going.promise
  host.receive({ type: 'cancel', key: 1 })
  host.receive({ type: 'cancel', key: 2 })
  host.receive({ type: 'cancel', key: 99 })
  t.match(await end(1), { status: 'canceled' })
  t.notOk(
    events().some(({ key, kind }) => key === 2 && kind === 'ended'),
    'the slot is taken while the predictor runs',
  )
  ignored.resolve('late')
  t.match(await end(2), { status: 'canceled' })
  t.notOk(events().some(({ kind }) => kind === 'output'))
})

t.test('stopping cancels what runs and tears down what was set up, and nothing else', async (t) => {
  const torn: unknown[] = []
  let stopped: AbortSignal | undefined
  const predictor = definePredictor({
    input: z.object({ fail: z.boolean().default(false) }),
    output: z.string(),
    streaming: false,
    setup: (context) => {
      stopped = context.signal
      return { weights: 1 }
    },
    predict: (_input, _state, context) =>
      new Promise<string>((_resolve, reject) => {
        context.signal.addEventListener('abort', () => reject(context.signal.reason))
      }),
    teardown: (state) => {
      torn.push(state)
    },
  })
  const { host, end } = await hosted(predictor)
  host.receive(predict(1, {}))
  const ended = end(1)
  await turns(2)
  await host.stop()
  t.match(await ended, { status: 'canceled' })
  t.strictSame(torn, [{ weights: 1 }])
  t.ok(stopped?.aborted)

  const failed = await hosted({
    ...predictor,
    setup: () => {
      throw new Error('no weights')
    },
  })
  await failed.host.stop()
  t.equal(torn.length, 1)
})

t.test('InputError is an error with a field', async (t) => {
  t.match(new InputError('prompt', 'too long'), { name: 'InputError', field: 'prompt', message: 'too long' })
})

t.test('what the check writes comes after the acceptance, and with a refusal not at all', async (t) => {
  const stream = { write: () => true } as unknown as NodeJS.WriteStream
  t.teardown(captureStream(stream, 'stderr'))
  const { host, events, end } = await hosted(
    definePredictor({
      input: z.object({ n: z.int() }),
      output: z.int(),
      streaming: false,
      check: ({ n }) => {
        stream.write(`looking at ${n}\n`)
        if (n > 1) throw new InputError('n', 'is too large')
      },
      predict: ({ n }) => n,
    }),
  )
  for (const n of [1, 2]) {
    host.receive(predict(n, { n }))
    await end(n)
  }
  t.strictSame(events(), [
    { key: 1, kind: 'accepted' },
    { key: 1, kind: 'log', data: 'looking at 1\n', source: 'stderr' },
    { key: 1, kind: 'output', chunk: 1 },
    { key: 1, kind: 'ended', status: 'succeeded' },
    { key: 2, kind: 'rejected', detail: [{ loc: ['body', 'input', 'n'], msg: 'is too large', type: 'value_error' }] },
  ])
})

t.test('a healthcheck that hangs is not asked again before it has answered', async (t) => {
  const gate = deferred<boolean>()
  let asked = 0
  const { host, messages } = await hosted(
    definePredictor({
      input: z.object({}),
      output: z.string(),
      streaming: false,
      predict: () => '',
      healthcheck: () => {
        asked++
        return gate.promise
      },
    }),
  )
  host.receive({ type: 'healthcheck', call: 1 })
  host.receive({ type: 'healthcheck', call: 2 })
  gate.resolve(false)
  await turns(2)
  const error = 'user-defined healthcheck returned False'
  t.strictSame(messages.slice(-2), [
    { type: 'health', call: 1, error },
    { type: 'health', call: 2, error },
  ])
  t.equal(asked, 1)
  host.receive({ type: 'healthcheck', call: 3 })
  await turns(2)
  t.equal(asked, 2)
})

t.test('a Predictor that gives up says so before the end of what that ends', async (t) => {
  const predictor = definePredictor({
    input: z.object({}),
    output: z.string(),
    streaming: false,
    setup: ({ defunct }) => ({ defunct }),
    predict: (_input, { defunct }): string => {
      defunct('the device is gone')
      throw new Error('no device')
    },
  })
  const { host, messages, end } = await hosted(predictor)
  host.receive(predict(1, {}))
  t.match(await end(1), { status: 'failed' })
  t.match(messages.slice(1), [
    { type: 'defunct', reason: 'the device is gone' },
    { type: 'batch', events: [{ kind: 'accepted' }, { kind: 'ended', error: 'Prediction failed: Error: no device' }] },
  ])
})
