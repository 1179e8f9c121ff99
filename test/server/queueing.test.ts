import t, { type Test } from 'tap'
import { z } from 'zod'
import { definePredictor, InputError, textStream } from '../../server/predictor.js'
import { postRequest, RawClient } from './faults/raw-client.js'
import { deferred, FakeClock, type TestServerOptions, testServer } from './fixtures.js'

const JSON_TYPE = { 'content-type': 'application/json' }
const post = (id: string, input: object = {}) =>
  ({ method: 'POST', url: '/predictions', headers: JSON_TYPE, payload: { id, input } }) as const

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise(setImmediate)
}

/** Runs one prediction until it is released by its id; tells the order in which they began. */
function held() {
  const order: string[] = []
  const gates = new Map<string, ReturnType<typeof deferred<void>>>()
  const gate = (id: string) => {
    if (!gates.has(id)) gates.set(id, deferred<void>())
    return gates.get(id)!
  }
  const predictor = definePredictor({
    input: z.object({ refuse: z.boolean().default(false) }),
    output: textStream(),
    streaming: true,
    check(input) {
      if (input.refuse) throw new InputError('refuse', 'as you wish')
    },
    async *predict(_input, _state, { id, signal }) {
      order.push(id)
      const canceled = new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()))
      await Promise.race([gate(id).promise, canceled])
      yield id
    },
  })
  return { predictor, order, release: (id: string) => gate(id).resolve() }
}

async function serve(t: Test, options: Partial<TestServerOptions> = {}) {
  const clock = new FakeClock()
  const { predictor, order, release } = held()
  const server = await testServer({ predictor, clock, queueLimit: 3, ...options })
  t.teardown(() => server.app.close())
  /** Sends one and waits until it runs or waits. */
  const enter = async (id: string, input: object = {}) => {
    const answer = server.app.inject(post(id, input))
    await until(() => server.service.find(id) !== undefined)
    return { answer }
  }
  const position = (id: string) => server.service.place(server.service.find(id)!)?.position
  return { ...server, clock, order, release, enter, position }
}

t.test('who finds no free slot waits in order, still starting, and is told its queue time', async (t) => {
  const { clock, order, release, enter, position, service } = await serve(t)
  const first = await enter('a')
  const second = await enter('b')
  const third = await enter('c')
  t.equal(position('a'), undefined)
  t.equal(position('b'), 1)
  t.equal(position('c'), 2)
  t.equal(service.find('c')!.status, 'starting')
  await until(() => order.length === 1)
  clock.advance(2000)
  release('a')
  t.match((await first.answer).json(), { status: 'succeeded', metrics: { queue_time: 0, predict_time: 2 } })
  t.strictSame(service.place(service.find('c')!), { position: 1, estimateMs: 2000 })
  clock.advance(1000)
  release('b')
  t.match((await second.answer).json().metrics, { queue_time: 2, predict_time: 1, total_time: 3, cost: 0.5 })
  release('c')
  t.match((await third.answer).json().metrics, { queue_time: 3, predict_time: 0 })
  t.strictSame(order, ['a', 'b', 'c'])
  t.equal(service.status, 'READY')
})

t.test('a full queue answers 429 at once, with the time after which to try again', async (t) => {
  const { app, clock, release, enter, order } = await serve(t, { queueLimit: 1 })
  const first = await enter('a')
  const second = await enter('b')
  const early = await app.inject(post('c'))
  t.match(early, { statusCode: 429, headers: { 'retry-after': '1' } })
  t.strictSame(early.json(), {
    error: 'All prediction slots are busy and 1 predictions wait, which is as many as may. Try again later.',
    status: 'failed',
  })
  clock.advance(7200)
  release('a')
  await first.answer
  await until(() => order.includes('b'))
  const third = await enter('c')
  const late = await app.inject(post('d'))
  t.match(late, { statusCode: 429, headers: { 'retry-after': '8' } })
  release('b')
  release('c')
  await Promise.all([second.answer, third.answer])
})

t.test('without a queue the answer is 409, as in Cog, and there is no queue time', async (t) => {
  const { app, release, enter } = await serve(t, { queueLimit: 0 })
  const first = await enter('a')
  t.match(await app.inject(post('b')), { statusCode: 409, headers: { 'retry-after': undefined } })
  release('a')
  t.notOk('queue_time' in (await first.answer).json().metrics)
})

t.test('a prediction can be canceled while it waits, and never runs', async (t) => {
  const { app, clock, order, release, enter, position } = await serve(t)
  const first = await enter('a')
  const second = await enter('b')
  await enter('c')
  clock.advance(500)
  t.equal((await app.inject({ method: 'POST', url: '/predictions/b/cancel' })).statusCode, 200)
  t.strictSame((await second.answer).json(), {
    id: 'b',
    logs: '',
    metrics: { cost: 0, predict_time: 0, queue_time: 0.5, total_time: 0.5 },
    status: 'canceled',
  })
  t.equal(position('c'), 1)
  t.equal((await app.inject({ method: 'POST', url: '/predictions/b/cancel' })).statusCode, 404)
  release('a')
  await first.answer
  await until(() => order.length === 2)
  t.strictSame(order, ['a', 'c'])
  release('c')
})

t.test('a PUT of an id that waits starts no second one', async (t) => {
  const { app, release, enter, order } = await serve(t)
  const first = await enter('a')
  const second = await enter('b')
  const again = await app.inject({ method: 'PUT', url: '/predictions/b', headers: JSON_TYPE, payload: { input: {} } })
  t.match(again, { statusCode: 202 })
  t.match(again.json(), { id: 'b', status: 'starting' })
  release('a')
  release('b')
  await Promise.all([first.answer, second.answer])
  t.strictSame(order, ['a', 'b'])
})

t.test("the Predictor's own check refuses who has waited, with 422", async (t) => {
  const { release, enter, service } = await serve(t)
  const first = await enter('a')
  const second = await enter('b', { refuse: true })
  release('a')
  await first.answer
  t.match(await second.answer, { statusCode: 422 })
  t.equal(service.status, 'READY')
})

t.test('a stream that waits says where at once and every 15 s, and then has all its events', async (t) => {
  const { clock, listen, release, enter, order } = await serve(t)
  const port = await listen()
  const first = await enter('a')
  const second = await enter('b')
  const client = new RawClient(port).send(postRequest('{"id":"c","input":{}}', { accept: 'text/event-stream' }))
  t.teardown(() => client.socket.destroy())
  await until(() => client.text.includes('\n: queued, position 2\n\n'))
  await until(() => order.length === 1)
  clock.advance(4000)
  release('a')
  await first.answer
  clock.advance(11_000)
  await until(() => client.text.includes('\n: queued, position 1, about 4 s\n\n'))
  release('b')
  await second.answer
  release('c')
  await until(() => client.text.endsWith('0\r\n\r\n'))
  t.match(client.text, /event: start\n[\s\S]*event: output\n[\s\S]*event: completed\n.*"queue_time":15[,}]/)
})

t.test('a stream that has waited learns of the refusal in its last event', async (t) => {
  const { listen, release, enter } = await serve(t)
  const port = await listen()
  const first = await enter('a')
  const body = '{"id":"b","input":{"refuse":true}}'
  const client = new RawClient(port).send(postRequest(body, { accept: 'text/event-stream' }))
  t.teardown(() => client.socket.destroy())
  await until(() => client.text.includes('queued'))
  release('a')
  await first.answer
  await until(() => client.text.endsWith('0\r\n\r\n'))
  t.match(client.text, /event: completed\ndata: \{"error":"body.input.refuse: as you wish",.*"status":"failed"\}/)
})

for (const [mode, fields] of [
  ['a stream', { accept: 'text/event-stream' }],
  ['a whole answer', {}],
] as const) {
  t.test(`a client that waits for ${mode} in the queue and leaves gives up its place`, async (t) => {
    const { clock, listen, release, enter, service, order, position } = await serve(t)
    const port = await listen()
    const first = await enter('a')
    const client = new RawClient(port).send(postRequest('{"id":"b","input":{}}', fields))
    await until(() => service.find('b') !== undefined)
    await enter('c')
    client.socket.resetAndDestroy()
    await until(() => service.find('b') === undefined)
    t.equal(position('c'), 1)
    release('a')
    await first.answer
    release('c')
    await until(() => service.status === 'READY')
    t.strictSame(order, ['a', 'c'])
    t.equal(clock.waiting, 0)
  })
}

t.test('inputs that wait are bounded in bytes', async (t) => {
  // An input is {"refuse":false}: 16 bytes.
  const { app, release, enter } = await serve(t, { queueBytes: 40 })
  const inputs = [
    await enter('a', { refuse: false }),
    await enter('b', { refuse: false }),
    await enter('c', { refuse: false }),
  ]
  const refused = await app.inject(post('d', { refuse: false }))
  t.match(refused, { statusCode: 429, headers: { 'retry-after': '1' } })
  t.match(refused.json().error, /^All prediction slots are busy and the inputs that wait fill the 0.00004 megabytes/)
  for (const id of ['a', 'b', 'c']) release(id)
  for (const { answer } of inputs) t.equal((await answer).statusCode, 200)
})

for (const [queueLimit, want] of [
  [0, { 200: 4, 409: 196 }],
  [100, { 200: 104, 429: 96 }],
] as const) {
  t.test(
    `of 200 requests at once on 4 slots with a queue of ${queueLimit} each is served or refused, once`,
    async (t) => {
      const { predictor, order, release } = held()
      const { app, service } = await testServer({ predictor, concurrency: 4, queueLimit })
      t.teardown(() => app.close())
      const ids = Array.from({ length: 200 }, (_, i) => String(i))
      const answers = ids.map((id) => app.inject(post(id)))
      await until(() => order.length === 4)
      for (const id of ids) release(id)
      const counts: Record<number, number> = {}
      for (const { statusCode } of await Promise.all(answers)) counts[statusCode] = (counts[statusCode] ?? 0) + 1
      t.strictSame(counts, want)
      t.strictSame(order, ids.slice(0, 4 + queueLimit))
      t.equal(service.status, 'READY')
    },
  )
}
