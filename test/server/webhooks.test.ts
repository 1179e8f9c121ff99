import { once } from 'node:events'
import {
  createServer,
  type IncomingHttpHeaders,
  type IncomingMessage,
  type RequestListener,
  request,
  type ServerResponse,
} from 'node:http'
import type { AddressInfo } from 'node:net'
import t, { type Test } from 'tap'
import type { Schedule } from '../../server/service.js'
import { webhookSignature } from '../../server/webhooks.js'
import { Predictor as EchoStream } from '../predictors/echo-stream.js'
import { FakeClock, testServer } from './fixtures.js'
import { until } from './spawn.js'

interface Received {
  readonly path: string
  readonly headers: IncomingHttpHeaders
  readonly body: Record<string, unknown>
  readonly text: string
}

/** A receiver that answers its n-th call (from 0) as `answer` says. */
async function receiver(
  t: Test,
  answer: (n: number, response: ServerResponse) => void = (_n, response) => response.end(),
) {
  const calls: Received[] = []
  const listener: RequestListener = async (request, response) => {
    let text = ''
    for await (const part of request) text += part
    calls.push({ path: request.url!, headers: request.headers, body: JSON.parse(text), text })
    answer(calls.length - 1, response)
  }
  const server = createServer(listener).listen(0, '127.0.0.1')
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  return { calls, url: `http://127.0.0.1:${port}`, port }
}

const status = (code: number) => (_n: number, response: ServerResponse) => response.writeHead(code).end()

const post = (webhook: string, more: object = {}, headers: object = {}) =>
  ({
    method: 'POST',
    url: '/predictions',
    headers: { 'content-type': 'application/json', ...headers },
    payload: { id: 'p', input: { prompt: 'a b', n: 2 }, webhook, ...more },
  }) as const

async function serve(t: Test, webhooks: Parameters<typeof testServer>[0]['webhooks'] = {}) {
  const lines: string[] = []
  const clock = new FakeClock()
  /** The waits before repetitions so far: what is scheduled and is no time limit. */
  const waits: number[] = []
  const schedule: Schedule = (ms, action) => {
    if (ms !== 5000 && ms !== 30_000) waits.push(ms)
    return clock.schedule(ms, action)
  }
  webhooks = { schedule, ...webhooks }
  const server = await testServer({ predictor: EchoStream, clock, webhooks, onLog: (line) => lines.push(line) })
  t.teardown(() => server.app.close())
  const quiet = () => until(() => server.webhooks.active === 0)
  return { ...server, lines, waits, quiet }
}

const COMPLETED = { webhook_events_filter: ['completed'] }

t.test('every event is told in order, each with the whole state of that moment', async (t) => {
  const { app, quiet } = await serve(t)
  const { calls, url } = await receiver(t)
  t.equal((await app.inject(post(`${url}/hook?a=%20b`))).statusCode, 200)
  await quiet()
  t.strictSame(
    calls.map(({ path, body }) => [path, body.status, body.output]),
    [
      ['/hook?a=%20b', 'processing', undefined],
      ['/hook?a=%20b', 'processing', ['a']],
      ['/hook?a=%20b', 'processing', ['a', ' b']],
      ['/hook?a=%20b', 'succeeded', ['a', ' b']],
    ],
  )
  t.equal(calls[0]!.text, '{"id":"p","logs":"","metrics":{},"status":"processing"}')
  t.match(calls[0]!.headers, { 'content-type': 'application/json', accept: '*/*', 'user-agent': /^coglet\// })
  t.notOk('authorization' in calls[0]!.headers || 'webhook-signature' in calls[0]!.headers)
})

t.test('streams and respond-async have webhooks, too; a refused request and an empty filter have none', async (t) => {
  const { app, quiet } = await serve(t)
  const { calls, url } = await receiver(t)
  await app.inject(post(`${url}/sse`, COMPLETED, { accept: 'text/event-stream' }))
  await app.inject(post(`${url}/async`, COMPLETED, { prefer: 'respond-async' }))
  await until(() => calls.length === 2)
  await app.inject(post(`${url}/none`, { webhook_events_filter: [] }))
  await app.inject(post(`${url}/refused`, { input: {} }))
  await quiet()
  t.strictSame(
    calls.map(({ path }) => path),
    ['/sse', '/async'],
  )
})

t.test('a call for logs is dropped within the interval after any other, and only that', async (t) => {
  const { app, quiet } = await serve(t)
  const { calls, url } = await receiver(t)
  await app.inject(post(url, { input: { prompt: 'log: x', n: 3 }, webhook_events_filter: ['logs', 'completed'] }))
  await quiet()
  t.strictSame(
    calls.map(({ body }) => body.logs),
    ['line 0\n', 'line 0\nline 1\nline 2\n'],
  )
  const { app: eager, quiet: eagerQuiet } = await serve(t, { intervalMs: 0 })
  await eager.inject(post(url, { input: { prompt: 'log: x', n: 3 }, webhook_events_filter: ['logs'] }))
  await eagerQuiet()
  t.equal(calls.length, 5)
  const { app: lazy, quiet: lazyQuiet } = await serve(t, { intervalMs: 600_000 })
  await lazy.inject(post(url, { input: { prompt: 'log: x', n: 3 }, webhook_events_filter: ['start', 'logs'] }))
  await lazyQuiet()
  t.match(calls.slice(5), [{ body: { status: 'processing', logs: '' } }], 'the first is sent, however long')
  t.equal(calls.length, 6)
})

t.test('a second trace header: the first parent counts, and the states are one list', async (t) => {
  const { app, quiet } = await serve(t, {})
  const { calls, url } = await receiver(t)
  const { payload, headers } = post(url, COMPLETED)
  const body = JSON.stringify(payload)
  const trace = ['traceparent', '00-0a-0b-01', 'tracestate', 'a=1', 'traceparent', '00-0c-0d-01', 'tracestate', 'b=2']
  const call = request(`${await app.listen({ port: 0, host: '127.0.0.1' })}/predictions`, {
    method: 'POST',
    headers: [...Object.entries(headers).flat(), ...trace, 'host', 'x', 'content-length', String(body.length)],
  })
  call.end(body)
  const [response] = (await once(call, 'response')) as [IncomingMessage]
  response.resume()
  await quiet()
  t.match(calls, [{ headers: { traceparent: '00-0a-0b-01', tracestate: 'a=1, b=2' } }])
})

t.test('token, trace headers and signature go with every call', async (t) => {
  const secret = 'whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY='
  const { app, quiet } = await serve(t, { authToken: 'secret-1', secret })
  const { calls, url } = await receiver(t)
  await app.inject(post(url, COMPLETED, { traceparent: '00-0a-0b-01', tracestate: 'vendor=1' }))
  await quiet()
  const [{ headers, text }] = calls as [Received]
  t.match(headers, { authorization: 'Bearer secret-1', traceparent: '00-0a-0b-01', tracestate: 'vendor=1' })
  const id = String(headers['webhook-id'])
  t.match(id, /^msg_/)
  const timestamp = Number(headers['webhook-timestamp'])
  t.equal(headers['webhook-signature'], webhookSignature({ secret, id, timestamp, body: text }))
})

t.test("the signature is that of Replicate's clients", async (t) => {
  t.equal(
    webhookSignature({
      secret: 'whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=',
      id: 'msg_2KWPBgLlAfxdpx2AI54pPJ85f4W',
      timestamp: 1_770_000_000,
      body: '{"id":"ufawqhfynnddngldkgtslldrkq","status":"succeeded","output":["Hi"]}',
    }),
    'v1,kXegTfSLMpa1RTKex5SYGTdsuTJhw0o52YpANsXpKOw=',
  )
})

t.test('completed is tried again with growing waits, under one id, until it is taken', async (t) => {
  const { app, clock, waits, quiet } = await serve(t, { secret: 'whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=' })
  const codes = [500, 503, 429, 200]
  const { calls, url } = await receiver(t, (n, response) => {
    if (n === 1) response.destroy()
    else status(codes[n]!)(n, response)
  })
  await app.inject(post(url, COMPLETED))
  for (const [i, wait] of [200, 400, 800].entries()) {
    await until(() => waits.length === i + 1)
    t.equal(waits[i], wait)
    clock.advance(wait - 1)
    t.equal(calls.length, i + 1)
    clock.advance(1)
  }
  await quiet()
  t.equal(calls.length, 4)
  t.equal(new Set(calls.map(({ headers }) => headers['webhook-id'])).size, 1)
  t.equal(clock.waiting, 0)
})

t.test('a receiver that fails 20 times is called 13 times, and forgotten', async (t) => {
  const { app, service, clock, webhooks, waits, lines } = await serve(t)
  const { calls, url } = await receiver(t, status(502))
  await app.inject(post(url, COMPLETED))
  t.equal(service.status, 'READY')
  for (let waited = 1; waited <= 12; waited++) {
    await until(() => waits.length === waited)
    clock.advance(waits.at(-1)!)
  }
  await until(() => webhooks.active === 0)
  t.strictSame(waits.slice(-4), [51_200, 102_400, 102_400, 102_400])
  t.equal(calls.length, 13)
  t.ok(lines.some((line) => line.includes('webhook given up')))
})

t.test('any other answer is final, and other events are tried once', async (t) => {
  for (const code of [400, 404, 410, 501]) {
    const { app, quiet } = await serve(t)
    const { calls, url } = await receiver(t, status(code))
    await app.inject(post(url, COMPLETED))
    await quiet()
    t.equal(calls.length, 1, String(code))
  }
  const { app, quiet } = await serve(t)
  const { calls, url } = await receiver(t, status(500))
  await app.inject(post(url, { webhook_events_filter: ['start', 'output'] }))
  await quiet()
  t.equal(calls.length, 3)
})

t.test('a redirect is not followed', async (t) => {
  const { app, quiet } = await serve(t)
  const inside = await receiver(t)
  const { calls, url } = await receiver(t, (_n, response) => response.writeHead(307, { location: inside.url }).end())
  await app.inject(post(url, COMPLETED))
  await quiet()
  t.equal(calls.length, 1)
  t.equal(inside.calls.length, 0)
})

t.test('a receiver that hangs delays no prediction, and after 5 s only the end is sent', async (t) => {
  const { app, service, clock, webhooks } = await serve(t)
  const { calls, url } = await receiver(t, (n, response) => {
    if (n > 0) response.end()
  })
  t.equal((await app.inject(post(url))).statusCode, 200)
  t.equal(service.status, 'READY')
  await until(() => calls.length === 1)
  clock.advance(5000)
  await until(() => webhooks.active === 0)
  t.strictSame(
    calls.map(({ body }) => body.status),
    ['processing', 'succeeded'],
  )
})

t.test('an answer without end is not waited for', async (t) => {
  const { app, quiet } = await serve(t)
  let closed = false
  const { calls, url } = await receiver(t, (_n, response) => {
    response.writeHead(200)
    const more = setInterval(() => response.write('x'.repeat(10_000)), 1)
    response.on('close', () => {
      clearInterval(more)
      closed = true
    })
  })
  await app.inject(post(url, COMPLETED))
  await quiet()
  t.equal(calls.length, 1)
  await until(() => closed)
})

t.test('when much waits for a receiver, newer states take the place of older ones', async (t) => {
  const { app, quiet } = await serve(t)
  const gate: ServerResponse[] = []
  const { calls, url } = await receiver(t, (n, response) => {
    if (n === 0) gate.push(response)
    else response.end()
  })
  await app.inject(post(url, { input: { prompt: 'x'.repeat(20_000), n: 50 } }))
  await until(() => gate.length === 1)
  gate[0]!.end()
  await quiet()
  t.ok(calls.length < 30, `${calls.length} calls`)
  t.equal((calls.at(-2)!.body.output as string[]).length, 50)
  t.equal(calls.at(-1)!.body.status, 'succeeded')
})

t.test(
  'what is no URL, no web address or not on the public internet is not called, and disturbs nothing',
  async (t) => {
    const { calls, url, port } = await receiver(t)
    const rebound = `http://hooks.example:${port}/`
    for (const webhook of ['', 'not a url', 'ftp://example.com/', 'file:///etc/passwd', url, rebound]) {
      const resolve = async () => [{ address: '127.0.0.1', family: 4 }]
      const { app, quiet } = await serve(t, { reach: 'public', resolve })
      const response = await app.inject(post(webhook))
      t.match(response.json(), { status: 'succeeded' }, webhook)
      await quiet()
    }
    t.equal(calls.length, 0)
  },
)

t.test('the call goes to the address that was checked, under the name of the URL', async (t) => {
  let lookups = 0
  const { app, quiet } = await serve(t, {
    resolve: async () => {
      lookups++
      return [{ address: '127.0.0.1', family: 4 }]
    },
  })
  const { calls, port } = await receiver(t)
  await app.inject(post(`http://hooks.example:${port}/x`, COMPLETED))
  await quiet()
  t.equal(calls[0]!.headers.host, `hooks.example:${port}`)
  t.equal(lookups, 1)
})

t.test('a drain waits for the calls that are under way, and gives them up at its limit', async (t) => {
  const { app, webhooks, clock } = await serve(t)
  const { calls, url } = await receiver(t, () => {})
  await app.inject(post(url, COMPLETED))
  await until(() => calls.length === 1)
  let drained = false
  const draining = webhooks.drain(2000).then(() => {
    drained = true
  })
  clock.advance(1999)
  await new Promise(setImmediate)
  t.notOk(drained)
  clock.advance(1)
  await draining
  t.equal(clock.waiting, 0)
})
