import { once } from 'node:events'
import { createServer } from 'node:http'
import t from 'tap'
import { isAlive, post, spawnServer, until, untilHealth } from './spawn.js'

const STREAM = { accept: 'text/event-stream' }

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
