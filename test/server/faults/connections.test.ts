import t, { type Test } from 'tap'
import { Predictor as EchoStream } from '../../predictors/echo-stream.js'
import { type TestServerOptions, testServer } from '../fixtures.js'
import { until } from '../spawn.js'
import { exchange, postRequest, RawClient, requestHead } from './raw-client.js'

const QUICK = { headersMs: 60, requestMs: 120, checkMs: 20 }

async function serve(t: Test, limits: TestServerOptions['limits']) {
  const server = await testServer({ predictor: EchoStream, limits: { ...limits } })
  t.teardown(() => server.app.close())
  const port = await server.listen()
  const open = () =>
    new Promise<number>((resolve) => server.app.server.getConnections((_error, count) => resolve(count)))
  /** The server serves as if nothing had been, and holds nothing of what was. */
  const isHealthy = async (t: Test) => {
    t.match(await exchange(port, requestHead('GET /health-check')), { status: 200, text: '"status":"READY"' })
    const { text } = await exchange(port, postRequest('{"input":{"prompt":"a","n":1}}'))
    t.match(text, '"status":"succeeded"')
    await until(async () => (await open()) === 0)
  }
  return { ...server, port, open, isHealthy }
}

t.test('a head that comes a byte at a time is answered 408 when its time is up', async (t) => {
  const { port, isHealthy } = await serve(t, QUICK)
  const slow = new RawClient(port).drip(requestHead('GET /health-check', { padding: 'x'.repeat(10_000) }), 5)
  await slow.closed
  t.match(slow.text, /^HTTP\/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n$/)
  await isHealthy(t)
})

t.test('a body that comes a byte at a time is answered 408 when its time is up', async (t) => {
  const { port, service, isHealthy } = await serve(t, QUICK)
  const head = requestHead('POST /predictions', { 'content-type': 'application/json', 'content-length': 10_000 })
  const slow = new RawClient(port).send(head).drip(' '.repeat(10_000), 5)
  await slow.closed
  t.match(slow.text, /^HTTP\/1.1 408 /)
  t.equal(service.status, 'READY')
  await isHealthy(t)
})

t.test('a connection that says nothing at all is closed, too', async (t) => {
  const { port, isHealthy } = await serve(t, QUICK)
  const mute = new RawClient(port)
  await mute.closed
  await isHealthy(t)
})

t.test('a connection that waits between two requests is left for longer', async (t) => {
  const { port, isHealthy } = await serve(t, QUICK)
  const client = new RawClient(port).send(requestHead('GET /livez'))
  await until(() => client.text.endsWith('{"status":"alive"}'))
  // Begun later, and closed for its silence.
  await new RawClient(port).closed
  client.text = ''
  client.send(requestHead('GET /livez'))
  await until(() => client.text.endsWith('{"status":"alive"}'))
  client.socket.destroy()
  await isHealthy(t)
})

t.test('a stream that runs longer than a request may take to come is left alone', async (t) => {
  const { port, isHealthy } = await serve(t, QUICK)
  const stream = new RawClient(port).send(
    postRequest('{"input":{"prompt":"late:","n":2,"delay":0.2}}', { accept: 'text/event-stream' }),
  )
  await until(() => stream.text.endsWith('0\r\n\r\n'))
  t.match(stream.text, '"status":"succeeded"')
  stream.socket.destroy()
  await isHealthy(t)
})

t.test('of 500 connections those beyond the limit are closed at once, and the rest in time', async (t) => {
  const { port, open, isHealthy } = await serve(t, { connections: 100, headersMs: 1000, requestMs: 1000, checkMs: 20 })
  const clients = Array.from({ length: 500 }, () => new RawClient(port))
  let closed = 0
  for (const client of clients) void client.closed.then(() => closed++)
  await until(() => closed >= 400)
  t.ok((await open()) <= 100)
  await Promise.all(clients.map((client) => client.closed))
  await isHealthy(t)
})

t.test('a head of 1 MiB is answered 431', async (t) => {
  const { port, isHealthy } = await serve(t, {})
  const large = new RawClient(port).send(requestHead('GET /', { padding: 'x'.repeat(1024 * 1024) }))
  await large.closed
  // The answer may be lost with what was not read; the connection never lasts.
  t.match(large.text, /^(?:HTTP\/1.1 431 |$)/)
  const little = new RawClient(port).send(requestHead('GET /', { padding: 'x'.repeat(17 * 1024) }))
  t.equal(await little.status(), 431)
  await isHealthy(t)
})

t.test('what is no HTTP is answered with an empty 400 and the end', async (t) => {
  const { port, isHealthy } = await serve(t, {})
  for (const nonsense of [
    '\x16\x03\x01\x02\x00\x01\x00\x01',
    'GET\r\n\r\n',
    'GET / HTTP/9.9\r\n\r\n',
    '\0'.repeat(1000),
    // HTTP/2 with prior knowledge.
    'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
  ]) {
    const client = new RawClient(port).send(nonsense)
    await client.closed
    t.match(client.text, /^HTTP\/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n$/)
  }
  await isHealthy(t)
})

t.test('requests that break the rules of HTTP/1.1 are refused', async (t) => {
  const { port, isHealthy } = await serve(t, {})
  const json = 'host: x\r\ncontent-type: application/json\r\n'
  for (const broken of [
    'GET / HTTP/1.1\r\n\r\n',
    `POST /predictions HTTP/1.1\r\n${json}content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n`,
    `POST /predictions HTTP/1.1\r\n${json}content-length: 2\r\ncontent-length: 3\r\n\r\n{} `,
    'EAT /predictions HTTP/1.1\r\nhost: x\r\n\r\n',
  ]) {
    const client = new RawClient(port).send(broken)
    await client.closed
    t.match(client.text, /^HTTP\/1.1 400 Bad Request\r\n/, broken)
  }
  await isHealthy(t)
})

t.test('clients that leave while they connect or upload leave nothing behind', async (t) => {
  const lines: string[] = []
  const server = await testServer({ predictor: EchoStream, onLog: (line) => lines.push(line) })
  t.teardown(() => server.app.close())
  const port = await server.listen()
  const head = requestHead('POST /predictions', { 'content-type': 'application/json', 'content-length': 1000 })
  for (const sent of ['', 'PO', head, `${head}{"input":`]) {
    for (const leave of ['end', 'resetAndDestroy'] as const) {
      const client = new RawClient(port).send(sent)
      await new Promise((resolve) => client.socket.once('connect', resolve))
      client.socket[leave]()
      await client.closed
    }
  }
  t.match(await exchange(port, postRequest('{"input":{"prompt":"a","n":1}}')), { text: '"status":"succeeded"' })
  t.equal(server.service.status, 'READY')
  t.notMatch(lines.join(''), 'request failed')
})

t.test('a connection that has sent nothing does not hold the end of the server up', async (t) => {
  const { app, port, open } = await serve(t, {})
  const silent = new RawClient(port)
  await until(async () => (await open()) === 1)
  await app.close()
  await silent.closed
  t.equal(silent.text, '')
})
