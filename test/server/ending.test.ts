import { once } from 'node:events'
import { createServer } from 'node:http'
import { connect } from 'node:net'
import t from 'tap'
import { isAlive, post, spawnServer, until, untilHealth } from './spawn.js'

const STREAM = { accept: 'text/event-stream' }

t.test('an idle server ends on SIGTERM, with code 0, whoever is still connected', async (t) => {
  const server = await spawnServer(t, t.testdir({}), { file: 'echo-stream.ts' })
  await untilHealth(server.url, 'READY')
  const { port } = new URL(server.url)
  // One that has never asked anything, and one that has and would ask again.
  const silent = connect(Number(port), '127.0.0.1')
  const kept = connect(Number(port), '127.0.0.1')
  const ends = [once(silent, 'close'), once(kept, 'close')]
  kept.write('GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n')
  await Promise.all([once(kept, 'data'), silent.pending && once(silent, 'connect')])
  server.process.kill('SIGTERM')
  t.strictSame(await server.exit, [0, null])
  await Promise.all(ends)
  await t.rejects(fetch(`${server.url}/livez`))
  t.notOk(isAlive(server.workerPid))
})

t.test('SIGTERM lets running predictions end, and ends with code 0', async (t) => {
  const server = await spawnServer(t, t.testdir({}), { file: 'echo-stream.ts', concurrency: 2 })
  await untilHealth(server.url, 'READY')
  const whole = post(server.url, { prompt: 'late: alpha', n: 2, delay: 0.5 })
  const stream = await post(server.url, { prompt: 'late: beta', n: 2, delay: 0.5 }, STREAM)
  await untilHealth(server.url, 'BUSY')
  server.process.kill('SIGTERM')
  t.match(await (await whole).json(), { status: 'succeeded', output: ['late:', ' alpha'] })
  t.match(await stream.text(), /event: completed\n.*"status":"succeeded"/)
  t.strictSame(await server.exit, [0, null])
  t.notOk(isAlive(server.workerPid))
})

t.test('POST /shutdown does as SIGTERM does, and a first signal after it hurries nothing', async (t) => {
  const env = { DRAIN_SECONDS: '3600' }
  const server = await spawnServer(t, t.testdir({}), { file: 'echo-stream.ts', env })
  await untilHealth(server.url, 'READY')
  const stream = await post(server.url, { prompt: 'late: alpha', n: 2, delay: 0.5 }, STREAM)
  t.equal((await fetch(`${server.url}/shutdown`, { method: 'POST' })).status, 200)
  await until(() => server.log().includes('draining'))
  server.process.kill('SIGTERM')
  t.match(await stream.text(), /event: completed\n.*"status":"succeeded"/)
  t.strictSame(await server.exit, [0, null])
  t.notOk(isAlive(server.workerPid))
})

t.test('where an explicit shutdown is awaited, SIGTERM ends nothing, SIGINT and POST /shutdown do', async (t) => {
  for (const how of ['SIGINT', 'request'] as const) {
    const env = { AWAIT_EXPLICIT_SHUTDOWN: 'true' }
    const server = await spawnServer(t, t.testdir({}), { file: 'echo-stream.ts', env })
    await untilHealth(server.url, 'READY')
    for (let times = 0; times < 2; times++) {
      server.process.kill('SIGTERM')
      t.match(await (await post(server.url, { prompt: 'a', n: 1 })).json(), { status: 'succeeded' })
    }
    t.notMatch(server.log(), 'draining')
    if (how === 'SIGINT') server.process.kill(how)
    else t.equal((await fetch(`${server.url}/shutdown`, { method: 'POST' })).status, 200)
    t.strictSame(await server.exit, [0, null])
  }
})

t.test('between SIGTERM and the drain it says that it is not ready, and serves on', async (t) => {
  const env = { DRAIN_DELAY_SECONDS: '3600', QUEUE: '1' }
  const server = await spawnServer(t, t.testdir({}), { file: 'echo-stream.ts', env })
  await untilHealth(server.url, 'READY')
  t.equal((await fetch(`${server.url}/readyz`)).status, 200)
  server.process.kill('SIGTERM')
  await until(async () => (await fetch(`${server.url}/readyz`)).status === 503)
  t.match(await (await post(server.url, { prompt: 'a', n: 1 })).json(), { status: 'succeeded' })
  server.process.kill('SIGTERM')
  t.strictSame(await server.exit, [143, null])
})

t.test('SIGTERM lets what waits in the queue run, too, and cancels it at the limit', async (t) => {
  for (const [limit, status] of [
    ['60', 'succeeded'],
    ['0.1', 'canceled'],
  ] as const) {
    const env = { QUEUE: '4', DRAIN_SECONDS: limit }
    const server = await spawnServer(t, t.testdir({}), { file: 'echo-stream.ts', env })
    await untilHealth(server.url, 'READY')
    const delay = status === 'succeeded' ? 0.2 : 600
    const first = await post(server.url, { prompt: 'late: x', n: 1, delay }, STREAM)
    const second = await post(server.url, { prompt: 'late: x', n: 1, delay }, STREAM)
    server.process.kill('SIGTERM')
    for (const stream of [first, second]) t.match(await stream.text(), new RegExp(`"status":"${status}"`))
    t.strictSame(await server.exit, [0, null])
  }
})

t.test('SIGTERM waits for predictions that nobody waits for, and for their final webhooks', async (t) => {
  const bodies: string[] = []
  const receiver = createServer(async (request, response) => {
    let text = ''
    for await (const part of request) text += part
    bodies.push(text)
    // The first try fails, so that the server has to wait and call again.
    response.writeHead(bodies.length === 1 ? 503 : 200).end()
  }).listen(0, '127.0.0.1')
  t.teardown(() => receiver.close())
  await once(receiver, 'listening')
  const { port } = receiver.address() as { port: number }
  const env = { WEBHOOK_REACH: 'any' }
  const server = await spawnServer(t, t.testdir({}), { file: 'echo-stream.ts', env })
  await untilHealth(server.url, 'READY')
  const accepted = await fetch(`${server.url}/predictions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', prefer: 'respond-async' },
    body: JSON.stringify({
      input: { prompt: 'late: x', n: 2, delay: 0.3 },
      webhook: `http://127.0.0.1:${port}/`,
      webhook_events_filter: ['completed'],
    }),
  })
  t.equal(accepted.status, 202)
  server.process.kill('SIGTERM')
  t.strictSame(await server.exit, [0, null])
  t.equal(bodies.length, 2)
  t.match(JSON.parse(bodies[1]!), { status: 'succeeded', output: ['late:', ' x'] })
})

t.test('at the limit of the drain, what still runs is canceled and answered', async (t) => {
  const env = { DRAIN_SECONDS: '0.1' }
  const server = await spawnServer(t, t.testdir({}), { file: 'echo-stream.ts', env })
  await untilHealth(server.url, 'READY')
  const stream = await post(server.url, { prompt: 'late: x', delay: 600 }, STREAM)
  server.process.kill('SIGTERM')
  t.match(await stream.text(), /event: completed\n.*"status":"canceled"/)
  t.strictSame(await server.exit, [0, null])
})

t.test('a second signal ends at once', async (t) => {
  const env = { DRAIN_SECONDS: '3600' }
  const server = await spawnServer(t, t.testdir({}), { file: 'echo-stream.ts', env })
  await untilHealth(server.url, 'READY')
  const stream = await post(server.url, { prompt: 'late: x', delay: 600 }, STREAM)
  server.process.kill('SIGTERM')
  await until(() => server.log().includes('draining'))
  server.process.kill('SIGINT')
  t.strictSame(await server.exit, [130, null])
  await t.rejects(stream.text())
  await until(() => !isAlive(server.workerPid))
})
