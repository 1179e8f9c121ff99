import t from 'tap'
import { z } from 'zod'
import { definePredictor, iterator, type OutputType, type Predictor, textStream } from '../../server/predictor.js'
import { testServer } from './fixtures.js'

/** Serves a Predictor that returns this, and asks it once, without and with a stream. */
async function answer(output: OutputType, returned: unknown) {
  const predictor: Predictor = {
    input: z.object({}),
    output,
    streaming: true,
    predict: (() => returned) as Predictor['predict'],
  }
  const server = await testServer({ predictor })
  const ask = (headers: Record<string, string>) =>
    server.app.inject({ method: 'POST', url: '/predictions', payload: { input: {} }, headers })
  const plain = (await ask({})).json()
  const events = (await ask({ accept: 'text/event-stream' })).body
  await server.app.close()
  const chunks = [...events.matchAll(/event: output\ndata: (.*)\n/g)].map(([, data]) => JSON.parse(data!).chunk)
  return { status: plain.status, output: plain.output, error: plain.error, chunks }
}

function* three() {
  yield 1
  yield 2
  yield 3
}

async function* words() {
  yield 'a'
  yield ' b'
}

t.test('one value, a list and an object are one output', async (t) => {
  const cases: [OutputType, unknown, unknown][] = [
    [z.string(), 'a', 'a'],
    [z.int(), Promise.resolve(5), 5],
    [z.number(), 0.5, 0.5],
    [z.boolean(), false, false],
    [z.array(z.string()), ['a', 'b'], ['a', 'b']],
    [z.array(z.int()), [], []],
    [
      z.object({ text: z.string(), note: z.string().nullish(), n: z.int().default(5) }),
      { text: 'a' },
      { text: 'a', n: 5 },
    ],
    [z.record(z.string(), z.int()), { a: 1 }, { a: 1 }],
    [z.string().nullable(), null, null],
    [z.string().optional(), undefined, null],
  ]
  for (const [type, returned, output] of cases) {
    const got = await answer(type, returned)
    t.strictSame(
      { status: got.status, output: got.output, chunks: got.chunks },
      { status: 'succeeded', output, chunks: [output] },
    )
  }
})

t.test('the pieces of an iterator stay apart, of whatever type; an empty one is an empty list', async (t) => {
  const item = z.object({ n: z.int() })
  const cases: [OutputType, () => unknown, unknown[]][] = [
    [iterator(z.int()), three, [1, 2, 3]],
    [iterator(z.string()), words, ['a', ' b']],
    [textStream(), words, ['a', ' b']],
    [iterator(item), () => [{ n: 1 }, { n: 2 }], [{ n: 1 }, { n: 2 }]],
    [iterator(z.int()), () => [], []],
  ]
  for (const [type, make, output] of cases) {
    const predictor: Predictor = {
      input: z.object({}),
      output: type,
      streaming: true,
      predict: make as Predictor['predict'],
    }
    const server = await testServer({ predictor })
    const ask = (accept: string) =>
      server.app.inject({ method: 'POST', url: '/predictions', payload: { input: {} }, headers: { accept } })
    t.strictSame((await ask('*/*')).json().output, output)
    const chunks = [...(await ask('text/event-stream')).body.matchAll(/"chunk":(.*),"index"/g)].map(([, json]) => json!)
    t.strictSame(
      chunks.map((json) => JSON.parse(json)),
      output,
    )
    await server.app.close()
  }
})

t.test(
  'what a Predictor returns against its schema fails the prediction, and names the part but not the value',
  async (t) => {
    const words = "Prediction failed: OutputError: The Predictor's output is not what its schema says:"
    const cycle: Record<string, unknown> = {}
    cycle.self = cycle
    const cases: [OutputType, unknown, string][] = [
      [z.string(), 5, 'Invalid input: expected string, received number.'],
      [z.string(), undefined, 'Invalid input: expected string, received undefined.'],
      [z.number(), Number.NaN, 'Invalid input: expected number, received NaN.'],
      [z.array(z.int()), [1, 'secret'], '1: Invalid input: expected number, received string.'],
      [
        z.object({ a: z.object({ b: z.int() }) }),
        { a: { b: 'secret' } },
        'a/b: Invalid input: expected number, received string.',
      ],
      [iterator(z.int()), [1, 'secret'], 'item 1: Invalid input: expected number, received string.'],
      [textStream(), ['a', 5], 'item 1: Invalid input: expected string, received number.'],
      [textStream(), 'a text', 'it returned no iterator.'],
      [iterator(z.int()), Promise.resolve([1]), 'it returned no iterator.'],
      [z.unknown(), 1n, 'Do not know how to serialize a BigInt.'],
    ]
    for (const [type, returned, reason] of cases) {
      const { status, error, output } = await answer(type, returned)
      t.strictSame({ status, error, output }, { status: 'failed', error: `${words} ${reason}`, output: undefined })
    }
    t.match((await answer(z.unknown(), cycle)).error, /circular structure/)
  },
)

t.test('a prediction that tells more than it may fails with the reason, and its logs are cut', async (t) => {
  let ended = false
  const predictor = definePredictor({
    input: z.object({ what: z.enum(['chunks', 'object', 'metrics', 'logs']) }),
    output: iterator(z.unknown()),
    streaming: true,
    async *predict({ what }, _state, { log, metrics }) {
      try {
        if (what === 'object') yield { text: 'x'.repeat(1000) }
        for (let i = 0; i < 30; i++) {
          if (what === 'chunks') yield 'x'.repeat(100)
          if (what === 'metrics') metrics.append('all', 'x'.repeat(100))
          if (what === 'logs') log(`${i}${'x'.repeat(98)}`)
        }
      } finally {
        ended = true
      }
    },
  })
  const { app, service } = await testServer({ predictor, outputBytes: 1000 })
  t.teardown(() => app.close())
  const run = async (what: string) =>
    (await app.inject({ method: 'POST', url: '/predictions', payload: { input: { what } } })).json()
  for (const what of ['chunks', 'object', 'metrics']) {
    ended = false
    t.match(await run(what), {
      status: 'failed',
      error: 'Prediction failed: OutputLimitError: The output is over 0.001 megabytes.',
    })
    t.ok(ended, `${what}: its generator was ended`)
  }
  const { status, logs } = await run('logs')
  t.equal(status, 'succeeded')
  const lines = logs.split('\n')
  t.equal(lines.length, 10 + 1 + 1, 'ten lines, a word about the rest, and the end')
  t.match(lines.at(-2), /^Output and logs are over 0.001 megabytes .*: later lines are dropped\.$/)
  t.equal(service.status, 'READY')
})

t.test('the type of an iterator binds what predict may yield', async (t) => {
  definePredictor({
    input: z.object({}),
    output: iterator(z.int()),
    streaming: true,
    // @ts-expect-error the items are numbers
    async *predict() {
      yield 'a'
    },
  })
  definePredictor({
    input: z.object({}),
    output: z.object({ n: z.int() }),
    streaming: true,
    // @ts-expect-error n is missing
    predict: () => ({}),
  })
  t.pass()
})
