import t, { type Test } from 'tap'
import { Predictor as EchoStream } from '../../predictors/echo-stream.js'
import { type TestServerOptions, testServer } from '../fixtures.js'
import { exchange, postRequest, RawClient, requestHead } from './raw-client.js'

const GOOD = '{"input":{"prompt":"a","n":1}}'

async function serve(t: Test, limits: TestServerOptions['limits'] = {}) {
  const server = await testServer({ predictor: EchoStream, limits })
  t.teardown(() => server.app.close())
  const port = await server.listen()
  const isHealthy = async (t: Test) => {
    t.equal(server.service.status, 'READY')
    t.match(await exchange(port, postRequest(GOOD)), { status: 200, text: '"status":"succeeded"' })
  }
  return { ...server, port, isHealthy }
}

const chunked = (fields = {}) =>
  requestHead('POST /predictions', { 'content-type': 'application/json', 'transfer-encoding': 'chunked', ...fields })

t.test('a body in thousands of chunks of one byte is read', async (t) => {
  const { port, isHealthy } = await serve(t)
  const body = `{"input":{"prompt":"${'word '.repeat(4000)}","n":1}}`
  const chunks = [...body].map((byte) => `1\r\n${byte}\r\n`).join('')
  t.match(await exchange(port, `${chunked()}${chunks}0\r\n\r\n`), { status: 200, text: '"output":["word"]' })
  await isHealthy(t)
})

t.test('a body shorter than its Content-Length ends with the connection, one that is longer with a 400', async (t) => {
  const { port, isHealthy } = await serve(t)
  const short = new RawClient(port).send(postRequest(GOOD, { 'content-length': 1000 }))
  short.socket.end()
  await short.closed
  t.notMatch(short.text, 'succeeded')
  const long = new RawClient(port).send(postRequest(GOOD, { 'content-length': GOOD.length - 1 }))
  await long.closed
  t.match(long.text, /^HTTP\/1.1 400 /, 'its last brace is no request')
  for (const length of ['-1', 'x', '1e9', '99999999999999999999999']) {
    const client = new RawClient(port).send(postRequest(GOOD, { 'content-length': length }))
    await client.closed
    t.match(client.text, /^HTTP\/1.1 400 /, length)
  }
  const both = new RawClient(port).send(`${chunked({ 'content-length': 5 })}0\r\n\r\n`)
  await both.closed
  t.match(both.text, /^HTTP\/1.1 400 /, 'two lengths that contradict each other')
  const badChunk = new RawClient(port).send(`${chunked()}zz\r\n`)
  await badChunk.closed
  t.match(badChunk.text, /^HTTP\/1.1 400 /)
  await isHealthy(t)
})

t.test('an announced terabyte costs nothing until it comes', async (t) => {
  const { port, isHealthy } = await serve(t)
  const before = process.memoryUsage().arrayBuffers
  const clients = Array.from({ length: 50 }, () =>
    new RawClient(port).send(postRequest('{', { 'content-length': 2 ** 40 })),
  )
  await isHealthy(t)
  t.ok(process.memoryUsage().arrayBuffers - before < 20e6)
  for (const { socket } of clients) socket.destroy()
})

t.test('a body over the limit is answered 413 while it still comes', async (t) => {
  const { port, isHealthy } = await serve(t, { bodyBytes: 100_000 })
  const client = new RawClient(port).send(postRequest(' '.repeat(250_000), { 'content-length': 104_857_601 }))
  t.equal(await client.status(), 413)
  client.socket.destroy()
  await isHealthy(t)
})

t.test('bodies that come at once are bounded together', async (t) => {
  const { port, isHealthy } = await serve(t, { bodyBytes: 100_000, bodiesBytes: 150_000 })
  const first = new RawClient(port).send(postRequest(' '.repeat(90_000), { 'content-length': 99_000 }))
  let answer: { status: number; text: string }
  // Until the first one's bytes have come.
  do answer = await exchange(port, postRequest(GOOD.padEnd(90_000)))
  while (answer.status === 200)
  t.match(answer, { status: 503, text: /retry-after: 1\r\n[\s\S]*as many bytes of request bodies as it can hold/ })
  await isHealthy(t)
  first.socket.destroy()
  await first.closed
  do answer = await exchange(port, postRequest(GOOD.padEnd(90_000)))
  while (answer.status === 503)
  t.equal(answer.status, 200, 'what a client took that left is free again')
})

t.test('JSON that is cut off anywhere is refused, and the last of two equal keys of an input wins', async (t) => {
  const { port, isHealthy } = await serve(t)
  for (let length = 0; length < GOOD.length; length++) {
    t.equal((await exchange(port, postRequest(GOOD.slice(0, length)))).status, 400)
  }
  const twice = await exchange(port, postRequest('{"input":{"prompt":"a","prompt":"b","n":1}}'))
  t.match(twice, { status: 200, text: '"output":["b"]' })
  await isHealthy(t)
})

t.test('nesting 10,000 deep or without end is refused', async (t) => {
  const { port, isHealthy } = await serve(t)
  for (const deep of [
    '['.repeat(10_000) + ']'.repeat(10_000),
    '{"a":'.repeat(10_000) + 1 + '}'.repeat(10_000),
    '['.repeat(1e6),
  ]) {
    t.equal((await exchange(port, postRequest(`{"input":{"prompt":"a","deep":${deep}}}`))).status, 400)
  }
  await isHealthy(t)
})

t.test('megabytes of escapes in a string that does not end are refused as fast as they are read', async (t) => {
  const { port, isHealthy } = await serve(t)
  // In the square of the length this would take hours.
  const body = `{"input":{"n":NaN,"prompt":"${'\\"'.repeat(2e6)}`
  t.equal((await exchange(port, postRequest(body))).status, 400)
  await isHealthy(t)
})

t.test('keys that name prototypes change nothing', async (t) => {
  const { port, isHealthy } = await serve(t)
  const body =
    '{"__proto__":{"id":"x"},"input":{"prompt":"a","n":1,"__proto__":{"n":2},"constructor":{"prototype":{"n":3}}}}'
  t.match(await exchange(port, postRequest(body)), { status: 200, text: '"output":["a"]' })
  t.notOk('id' in {} || 'n' in {})
  await isHealthy(t)
})

t.test('odd numbers and texts are taken or refused by the rules, never half', async (t) => {
  const { port, isHealthy } = await serve(t)
  const rows: [string, number, string][] = [
    ['{"prompt":"a","n":1e308}', 422, 'is greater than the maximum of 100'],
    ['{"prompt":"a","n":"5"}', 422, 'is not of type'],
    ['{"prompt":"a","n":1.0,"delay":-0}', 200, '"output":["a"]'],
    ['{"prompt":"\\ud800"}', 422, 'lone surrogate at index 0'],
    ['{"prompt":"\\u0000","n":1}', 200, '"output":["\\u0000"]'],
    [`{"prompt":"${'😀'.repeat(250_000)}","n":1}`, 200, '😀😀'],
    ['{"prompt":"a","n":1e3}', 422, '1000.0 is greater than'],
    [`{"prompt":"${'a'.repeat(2 ** 20)}","n":1e3}`, 422, '1000 is greater than'],
  ]
  for (const [input, status, text] of rows) {
    t.match(await exchange(port, postRequest(`{"input":${input}}`)), { status, text }, input.slice(0, 50))
  }
  const broken = Buffer.from('{"input":{"prompt":"?","n":1}}')
  broken[20] = 0xff
  const client = new RawClient(port)
  client.socket.write(
    requestHead('POST /predictions', { 'content-type': 'application/json', 'content-length': broken.length }),
  )
  client.socket.write(broken)
  t.equal(await client.status(), 400, 'no UTF-8')
  client.socket.destroy()
  await isHealthy(t)
})
