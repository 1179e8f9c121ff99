import t, { type Test } from 'tap'
import { z } from 'zod'
import { openApiDocument } from '../../server/openapi.js'
import { definePredictor, iterator, type Predictor, textStream } from '../../server/predictor.js'
import { Predictor as EchoStream } from '../predictors/echo-stream.js'
import { deferred, type TestServerOptions, testServer } from './fixtures.js'

/** Predictions and trainings that end when they are let. */
function trainable() {
  const gate = deferred()
  const predictor = definePredictor({
    input: z.object({ text: z.string() }),
    output: textStream(),
    streaming: true,
    setup: () => ({ base: 'base' }),
    async *predict({ text }, { base }) {
      await gate.promise
      yield `${base} ${text}`
    },
    train: {
      input: z.object({ data: z.string().min(2), steps: z.int().min(1).default(3) }),
      output: z.object({ weights: z.string(), steps: z.int() }),
      async run({ data, steps }, { base }, { log, metrics, signal }) {
        log(`training on ${data}`)
        metrics.set('steps', steps)
        if (data === 'wrong') throw new Error('cannot learn that')
        if (data === 'long') await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }))
        return { weights: `${base} + ${data.toUpperCase()}`, steps: steps * 1 }
      },
    },
  })
  return { predictor, open: gate.resolve }
}

async function start(t: Test, predictor: Predictor, options: Partial<TestServerOptions> = {}) {
  const { app, service } = await testServer({ predictor, ...options })
  t.teardown(() => app.close())
  const send = async (method: 'POST' | 'PUT' | 'GET', url: string, body?: object, headers = {}) => {
    const response = await app.inject({
      method,
      url,
      headers: { ...(body && { 'content-type': 'application/json' }), ...headers },
      ...(body && { payload: JSON.stringify(body) }),
    })
    const isJson = response.headers['content-type'] === 'application/json'
    return { status: response.statusCode, body: isJson ? response.json() : response.body, headers: response.headers }
  }
  return { send, service }
}

t.test('a training runs `train` with its own schema and the state of the Predictor', async (t) => {
  const { send } = await start(t, trainable().predictor)
  t.match(await send('POST', '/trainings', { id: 't1', input: { data: 'abc', unknown: 1 } }), {
    status: 200,
    body: {
      id: 't1',
      logs: 'training on abc\n',
      metrics: { steps: 3, predict_time: Number, cost: Number },
      output: { weights: 'base + ABC', steps: 3 },
      status: 'succeeded',
    },
  })
  t.match((await send('PUT', '/trainings/t2', { input: { data: 'abc', steps: 7 } })).body.output, { steps: 7 })
  t.match(await send('POST', '/trainings', { input: { data: 'wrong' } }), {
    status: 200,
    body: { error: 'Training failed: Error: cannot learn that', status: 'failed' },
  })
  t.strictSame((await send('POST', '/trainings', { input: { data: 'a', text: 'x', steps: 0 } })).body.detail, [
    { loc: ['body', 'input', 'data'], msg: '"a" is shorter than 2 characters', type: 'value_error' },
    { loc: ['body', 'input', 'steps'], msg: '0 is less than the minimum of 1', type: 'value_error' },
  ])
})

t.test('a training does not stream, and its id must be that of its path', async (t) => {
  const { send } = await start(t, trainable().predictor)
  const stream = { accept: 'text/event-stream' }
  const refusal = { status: 406, body: { error: 'Training endpoints do not support streaming responses.' } }
  t.match(await send('POST', '/trainings', { input: { data: 'abc' } }, stream), refusal)
  t.match(await send('PUT', '/trainings/a', { id: 'b', input: {} }, stream), refusal, 'before the ids are compared')
  t.match(await send('PUT', '/trainings/a', { id: 'b', input: {} }), {
    status: 422,
    body: {
      detail: [{ loc: ['body', 'id'], msg: 'training ID must match the ID supplied in the URL', type: 'value_error' }],
    },
  })
})

t.test('trainings and predictions share slots and ids', async (t) => {
  const { predictor, open } = trainable()
  const { send } = await start(t, predictor)
  const async = { prefer: 'respond-async' }
  t.match(await send('PUT', '/predictions/p', { input: { text: 'x' } }, async), { status: 202 })
  t.match(await send('POST', '/trainings', { input: { data: 'abc' } }), { status: 409 })
  t.match(await send('PUT', '/trainings/p', { input: { data: 'abc' } }), {
    status: 202,
    body: { id: 'p', input: { text: 'x' }, status: 'processing' },
  })
  t.match(await send('POST', '/trainings/p/cancel'), { status: 200, body: {} })
  open()
  await waitFor(async () => (await send('POST', '/trainings/p/cancel')).status === 404)

  const training = send('PUT', '/trainings/t', { input: { data: 'long' } })
  await waitFor(async () => (await send('PUT', '/predictions/t', {})).body.logs === 'training on long\n')
  t.match(await send('POST', '/predictions', { input: { text: 'x' } }), { status: 409 })
  t.match(await send('POST', '/predictions/t/cancel'), { status: 200 })
  t.match((await training).body, { id: 't', status: 'canceled' })
})

t.test('the discovery document and the methods of the paths tell of trainings where there are some', async (t) => {
  const { send } = await start(t, trainable().predictor)
  t.match((await send('GET', '/')).body, {
    trainings_cancel_url: '/trainings/{training_id}/cancel',
    trainings_idempotent_url: '/trainings/{training_id}',
    trainings_url: '/trainings',
  })
  for (const [path, allow] of [
    ['/trainings', 'POST'],
    ['/trainings/x', 'PUT'],
    ['/trainings/x/cancel', 'POST'],
  ] as const) {
    const { status, headers } = await send('GET', path)
    t.strictSame([status, headers.allow], [405, allow], path)
  }
})

t.test('a Predictor without `train` has no paths of trainings', async (t) => {
  const { send } = await start(t, EchoStream)
  t.notMatch((await send('GET', '/')).body, { trainings_url: String })
  const body = { input: { prompt: 'x', n: 1 } }
  for (const { status, body: text } of [
    await send('POST', '/trainings', body),
    await send('PUT', '/trainings/x', body),
    await send('POST', '/trainings/x/cancel'),
    await send('GET', '/trainings'),
  ]) {
    t.strictSame([status, text], [404, ''])
  }
})

t.test('a list of pieces is the output of a training that yields', async (t) => {
  const { predictor } = trainable()
  const train = {
    input: z.object({}),
    output: iterator(z.int()),
    *run() {
      yield 1
      yield 2
    },
  }
  const { send } = await start(t, { ...predictor, output: z.string(), train })
  t.strictSame((await send('POST', '/trainings', {})).body.output, [1, 2])
})

t.test('choices of a training that are named as others of a prediction are told apart', async (t) => {
  const modes = (values: [string, string]) => z.object({ mode: z.enum(values), size: z.enum(['s', 'l']) })
  const predictor = definePredictor({
    input: modes(['fast', 'best']),
    output: z.string(),
    streaming: false,
    predict: ({ mode }) => mode,
    train: { input: modes(['lora', 'full']), output: z.string(), run: ({ mode }) => mode },
  })
  const { schemas } = openApiDocument(predictor).components
  t.strictSame(schemas.mode!.enum, ['fast', 'best'])
  t.strictSame(schemas.TrainingInput_mode!.enum, ['lora', 'full'])
  t.notOk('TrainingInput_size' in schemas, 'the same choices are one component, as by Cog')
  const { send } = await start(t, predictor)
  t.equal((await send('POST', '/trainings', { input: { mode: 'lora', size: 's' } })).body.output, 'lora')
  t.equal((await send('POST', '/trainings', { input: { mode: 'fast', size: 's' } })).status, 422)
})

async function waitFor(condition: () => Promise<boolean>): Promise<void> {
  while (!(await condition())) await new Promise((resolve) => setImmediate(resolve))
}
