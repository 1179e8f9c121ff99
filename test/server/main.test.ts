import { once } from 'node:events'
import { createServer as createHttpServer } from 'node:http'
import { createServer } from 'node:net'
import { pino } from 'pino'
import t from 'tap'
import { startServer } from '../../server/main.js'
import { spawnServer, spawnSource, until, untilHealth, writeCogYaml } from './spawn.js'

const STREAM = { accept: 'text/event-stream' }

async function post(url: string, input: object, headers: Record<string, string> = {}): Promise<Response> {
  return await fetch(`${url}/predictions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: JSON.stringify({ id: 'p', input }),
  })
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

t.test('a worker that dies takes its predictions with it and nothing else, and another one serves', async (t) => {
  const server = await spawnServer(t, t.testdir({}), { file: 'fragile.ts' })
  await untilHealth(server.url, 'READY')
  const workers = new Set<string>()
  const endings = { exit: 'exit code 7', kill: 'signal SIGKILL', 'throw later': 'exit code 1' }
  for (const [how, ending] of Object.entries(endings)) {
    const response = await post(server.url, { how })
    t.equal(response.status, 200)
    t.match(await response.json(), {
      status: 'failed',
      error: `Worker crashed: the process that runs the Predictor ended with ${ending}. It is started again.`,
    })
    await untilHealth(server.url, 'READY')
    const { status, output } = (await (await post(server.url, { how: 'answer' })).json()) as Record<string, string>
    t.equal(status, 'succeeded')
    workers.add(output!)
  }
  t.equal(workers.size, 3, 'each time another process')
})

t.test('a server in this process forks its worker under whatever loader runs, and close ends both', async (t) => {
  const server = await startServer({
    env: { ...process.env, PORT: '0', HOST: '127.0.0.1' },
    cogFile: writeCogYaml(t.testdir({}), { file: 'echo-stream.ts' }),
    createLog: () => pino({ level: 'silent' }),
  })
  t.equal(await server.setup, 'succeeded')
  t.match(await (await post(server.url, { prompt: 'a', n: 1 })).json(), { output: ['a'] })
  await server.close()
  t.notOk(isAlive(server.workerPid!))
  await t.rejects(fetch(server.url))
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
  const receiver = createHttpServer(async (request, response) => {
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

t.test('a server that is killed leaves no worker behind', async (t) => {
  const server = await spawnServer(t, t.testdir({}), { file: 'echo-stream.ts' })
  await untilHealth(server.url, 'READY')
  t.ok(isAlive(server.workerPid))
  server.process.kill('SIGKILL')
  await until(() => !isAlive(server.workerPid))
})

t.test('a bad setting ends the program with code 2 and one line, a taken port with code 1', async (t) => {
  const run = async (env: Record<string, string>) => {
    const child = spawnSource('server/main.ts', { env: { LOG_LEVEL: 'silent', ...env } })
    let text = ''
    child.stderr!.setEncoding('utf8').on('data', (part) => {
      text += part
    })
    const [code] = await once(child, 'close')
    return [code, text]
  }
  t.strictSame(await run({ PORT: 'http' }), [2, 'PORT is "http", but must be a whole number from 0 to 65535.\n'])
  const taken = createServer().listen(0, '127.0.0.1')
  t.teardown(() => taken.close())
  await once(taken, 'listening')
  const { port } = taken.address() as { port: number }
  const [code, text] = await run({ PORT: String(port) })
  t.equal(code, 1)
  t.match(text, `listen EADDRINUSE: address already in use 127.0.0.1:${port}\n`)
})
