import t, { type Test } from 'tap'
import { z } from 'zod'
import { definePredictor, textStream } from '../../server/predictor.js'
import { postRequest, RawClient, requestHead } from './faults/raw-client.js'
import { deferred, FakeClock, type TestServerOptions, testServer } from './fixtures.js'

const STREAM = { accept: 'text/event-stream' }

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise(setImmediate)
}

/** A predictor that yields what `say` is given; undefined ends it. Counts how often it ran. */
async function serve(t: Test, options: Partial<TestServerOptions> = {}) {
  let said: (string | undefined)[] = []
  let heard = deferred<void>()
  const runs: AbortSignal[] = []
  const predictor = definePredictor({
    input: z.object({}),
    output: textStream(),
    streaming: true,
    async *predict(_input, _state, { signal }) {
      runs.push(signal)
      const canceled = new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()))
      while (!signal.aborted) {
        const chunks = said
        said = []
        for (const chunk of chunks) {
          if (chunk === undefined) return
          yield chunk
        }
        await Promise.race([heard.promise, canceled])
        heard = deferred<void>()
      }
    },
  })
  const say = (...chunks: (string | undefined)[]) => {
    said.push(...chunks)
    heard.resolve()
  }
  const clock = new FakeClock()
  const server = await testServer({ predictor, clock, keepMs: 60_000, resumeMs: 30_000, ...options })
  t.teardown(() => server.app.close())
  const port = await server.listen()
  const connect = (request: string) => {
    const client = new RawClient(port).send(request)
    t.teardown(() => client.socket.destroy())
    return client
  }
  const start = () => connect(postRequest('{"id":"a","input":{}}', STREAM))
  const resume = (after?: number | string, method = 'GET') =>
    connect(
      requestHead(`${method} /predictions/a`, { ...STREAM, ...(after !== undefined && { 'last-event-id': after }) }),
    )
  /** Resets the only connection, and waits until the server knows. */
  const drop = async (client: RawClient) => {
    client.socket.resetAndDestroy()
    let open = 1
    while (open > 0) {
      await new Promise(setImmediate)
      open = await new Promise<number>((resolve) => server.app.server.getConnections((_error, count) => resolve(count)))
    }
    await new Promise(setImmediate)
  }
  return { ...server, clock, say, runs, start, resume, drop }
}

/** `id:event` of all events that a client has got. */
const events = ({ text }: RawClient) =>
  [...text.matchAll(/id: (\d+)\nevent: (\w+)\n/g)].map(([, id, name]) => `${id}:${name}`)
const hasEnded = ({ text }: RawClient) => text.endsWith('0\r\n\r\n')

t.test('a dropped stream goes on behind the last event that its reader has, without a second run', async (t) => {
  const { clock, say, runs, start, resume, drop, service } = await serve(t)
  const first = start()
  say('one', 'two')
  await until(() => first.text.includes('two'))
  t.strictSame(events(first), ['0:start', '1:output', '2:output'])
  await drop(first)
  say('three')
  clock.advance(29_999)
  t.notOk(runs[0]!.aborted)
  for (const method of ['GET', 'PUT']) {
    const again = resume(1, method)
    await until(() => again.text.includes('three'))
    t.strictSame(events(again), ['2:output', '3:output'])
  }
  const last = resume(3)
  await until(() => last.text.includes('\r\n\r\n'))
  clock.advance(60_000)
  say('four', undefined)
  await until(() => hasEnded(last))
  t.strictSame(events(last), ['4:output', '5:completed'])
  t.match(last.text, '"output":["one","two","three","four"],"status":"succeeded"')
  t.equal(runs.length, 1)
  t.equal(service.status, 'READY')
})

t.test('a prediction that ended meanwhile is still told to its end', async (t) => {
  const { clock, say, runs, start, resume, drop } = await serve(t)
  const first = start()
  say('one')
  await until(() => first.text.includes('one'))
  await drop(first)
  say('two', undefined)
  await until(() => clock.waiting === 0)
  for (const method of ['GET', 'PUT']) {
    const again = resume(1, method)
    await until(() => hasEnded(again))
    t.strictSame(events(again), ['2:output', '3:completed'])
  }
  for (const after of [3, 999]) {
    const none = resume(after)
    await until(() => hasEnded(none))
    t.strictSame(events(none), [], 'nothing is left to tell')
  }
  for (const after of [undefined, 'x', '-1', '1.5']) {
    const all = resume(after)
    await until(() => hasEnded(all))
    t.equal(events(all).length, 4, `${after} is no event: from the start`)
  }
  t.equal(runs.length, 1)
})

t.test('a prediction whose reader does not come back in time is canceled', async (t) => {
  const { clock, say, runs, start, drop, service } = await serve(t)
  const first = start()
  say('one')
  await until(() => first.text.includes('one'))
  await drop(first)
  clock.advance(30_000)
  await until(() => service.status === 'READY')
  t.ok(runs[0]!.aborted)
  t.equal(service.recall('a')!.status, 'canceled')
  t.equal(clock.waiting, 0)
})

t.test('a reader that waits in the queue may come back, too', async (t) => {
  const { app, say, runs, start, resume, drop, service } = await serve(t, { queueLimit: 1 })
  const payload = { id: 'first', input: {} }
  const running = app.inject({
    method: 'POST',
    url: '/predictions',
    headers: { 'content-type': 'application/json' },
    payload,
  })
  await until(() => runs.length === 1)
  const waiting = start()
  await until(() => waiting.text.includes('queued'))
  await drop(waiting)
  t.equal(service.find('a')?.status, 'starting')
  const again = resume(0)
  await until(() => again.text.includes('queued'))
  say(undefined)
  await running
  await until(() => runs.length === 2)
  say('one', undefined)
  await until(() => hasEnded(again))
  t.match(events(again), ['0:start', '1:output', '2:completed'])
})

t.test('GET tells how a prediction that waits, runs or has ended stands, and 404 afterwards', async (t) => {
  const { app, clock, say, runs, service } = await serve(t, { queueLimit: 1, keepMs: 10_000 })
  const send = (id: string) =>
    app.inject({
      method: 'POST',
      url: '/predictions',
      headers: { 'content-type': 'application/json' },
      payload: { id, input: {} },
    })
  const ask = (id: string) => app.inject({ method: 'GET', url: `/predictions/${id}` })
  t.match(await ask('a'), { statusCode: 404 })
  t.strictSame((await ask('a')).json(), { error: 'No prediction with this id runs, waits or is kept.' })
  const [first, second] = [send('a'), send('b')]
  await until(() => runs.length === 1 && service.find('a')?.status === 'processing')
  t.strictSame((await ask('a')).json(), { id: 'a', input: {}, logs: '', metrics: {}, status: 'processing' })
  t.match((await ask('b')).json(), { status: 'starting', queue: { position: 1 } })
  clock.advance(3000)
  say('x', undefined)
  await first
  await until(() => runs.length === 2)
  t.match((await ask('a')).json(), { input: {}, output: ['x'], status: 'succeeded', metrics: { predict_time: 3 } })
  say(undefined)
  await second
  clock.advance(10_000)
  t.equal((await ask('a')).statusCode, 404)
  const wrong = await app.inject({ method: 'POST', url: '/predictions/a' })
  t.match(wrong, { statusCode: 405, headers: { allow: 'GET,HEAD,PUT' } })
})

t.test('unless asked for, there is no GET, events have no ids, and a dropped stream is canceled at once', async (t) => {
  const { app, clock, say, runs, start, service } = await serve(t, { keepMs: 0, resumeMs: 0 })
  t.match(await app.inject({ method: 'GET', url: '/predictions/a' }), { statusCode: 405, headers: { allow: 'PUT' } })
  const first = start()
  say('one')
  await until(() => first.text.includes('one'))
  t.notMatch(first.text, /^id:/m)
  first.socket.destroy()
  await until(() => service.status === 'READY')
  t.ok(runs[0]!.aborted)
  t.equal(service.recall('a'), undefined)
  t.equal(clock.waiting, 0)
})
