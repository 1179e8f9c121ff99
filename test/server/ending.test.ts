import { once } from 'node:events'
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
