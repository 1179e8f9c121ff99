import t from 'tap'
import type { ShutdownFrom } from '../../server/shutdown.js'
import { Predictor as EchoStream } from '../predictors/echo-stream.js'
import { deferred, testServer } from './fixtures.js'

interface Request {
  readonly peer?: string
  readonly headers?: Record<string, string>
}

async function shutdown(from: ShutdownFrom, { peer = '127.0.0.1', headers = {} }: Request) {
  let begun = 0
  const lines: string[] = []
  const { app } = await testServer({
    predictor: EchoStream,
    shutdownFrom: from,
    onShutdown: () => begun++,
    onLog: (line) => lines.push(line),
  })
  const response = await app.inject({
    method: 'POST',
    url: '/shutdown',
    remoteAddress: peer,
    headers: { host: 'localhost:5000', ...headers },
  })
  await new Promise(setImmediate)
  await app.close()
  const answer = `${response.statusCode} ${response.body}`
  return { answer, begun, logged: (text: string) => lines.some((line) => line.includes(text)) }
}

const ELSEWHERE = (reason: string) =>
  `403 ${JSON.stringify({
    error: `Only programs on this machine may shut the server down, and this request ${reason}. With SHUTDOWN_FROM=any it is taken from anywhere.`,
  })}`
const BROWSER = (header: string) =>
  `403 ${JSON.stringify({
    error: `No page in a browser may shut the server down, and this request has the header ${header}. Send it without.`,
  })}`

t.test(
  'a program on this machine may shut the server down, by each name and address that this machine has',
  async (t) => {
    for (const peer of ['127.0.0.1', '127.8.8.8', '::1', '::ffff:127.0.0.1']) {
      const { answer, begun, logged } = await shutdown('loopback', { peer })
      t.equal(answer, '200 {}', peer)
      t.equal(begun, 1)
      t.ok(logged('shutdown asked for by a request'))
    }
    for (const host of ['localhost', 'LOCALHOST:5000', 'a.localhost:1', '127.0.0.1:5000', '[::1]', '[::1]:5000']) {
      t.equal((await shutdown('loopback', { headers: { host } })).answer, '200 {}', host)
    }
  },
)

t.test('nobody else may', async (t) => {
  for (const peer of ['10.0.0.7', '203.0.113.9', '::ffff:10.0.0.7', 'fe80::1', '0.0.0.0', '::']) {
    const { answer, begun, logged } = await shutdown('loopback', { peer })
    t.equal(answer, ELSEWHERE(`came from ${peer}`))
    t.equal(begun, 0)
    t.ok(logged('SHUTDOWN_FROM_ELSEWHERE'))
  }
  for (const name of ['forwarded', 'x-forwarded-for', 'x-real-ip', 'via']) {
    const { answer, begun } = await shutdown('loopback', { headers: { [name]: '127.0.0.1' } })
    t.equal(answer, ELSEWHERE(`came through a proxy: it has the header ${name}`))
    t.equal(begun, 0)
  }
})

t.test('a page in a browser may not, whatever name leads it here and whoever else may', async (t) => {
  // A page's request to a foreign server carries Origin; to its own, under a name that was made to point here, the name.
  for (const from of ['loopback', 'any'] as const) {
    for (const [name, value] of [
      ['origin', 'https://page.test'],
      ['origin', 'null'],
      ['origin', 'http://localhost:5000'],
      ['referer', 'http://page.test/'],
      ['sec-fetch-site', 'same-origin'],
    ] as const) {
      const { answer, begun, logged } = await shutdown(from, { headers: { [name]: value } })
      t.equal(answer, BROWSER(name))
      t.equal(begun, 0)
      t.ok(logged('SHUTDOWN_FROM_BROWSER'))
    }
  }
  for (const host of [
    'page.test',
    'page.test:5000',
    'localhost.page.test',
    '10.0.0.1',
    '0.0.0.0:5000',
    'localhost@x',
  ]) {
    const { answer, begun } = await shutdown('loopback', { headers: { host } })
    t.equal(answer, ELSEWHERE('has another Host than localhost'), host)
    t.equal(begun, 0)
  }
})

t.test('with SHUTDOWN_FROM=any every program may', async (t) => {
  const headers = { host: 'bezel.test', 'x-forwarded-for': '203.0.113.9' }
  const { answer, begun } = await shutdown('any', { peer: '203.0.113.9', headers })
  t.equal(answer, '200 {}')
  t.equal(begun, 1)
})

t.test('the answer is out before anything ends, another method is refused, and a body is not read', async (t) => {
  const begun = deferred()
  const { app, listen } = await testServer({ predictor: EchoStream, onShutdown: () => begun.resolve() })
  t.teardown(() => app.close())
  const url = `http://127.0.0.1:${await listen()}/shutdown`
  const get = await fetch(url)
  t.strictSame([get.status, get.headers.get('allow')], [405, 'POST'])
  const response = await fetch(url, { method: 'POST', body: '[', headers: { 'content-type': 'application/json' } })
  t.equal(response.status, 200)
  t.equal(response.headers.get('content-type'), 'application/json')
  t.equal(await response.text(), '{}')
  await begun.promise
})
