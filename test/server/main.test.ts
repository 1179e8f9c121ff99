import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { join, relative } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { pino } from 'pino'
import t, { type Test } from 'tap'
import { type RunningServer, startServer } from '../../server/main.js'

const JSON_TYPE = { 'content-type': 'application/json' }
const predictors = fileURLToPath(new URL('../predictors/', import.meta.url))

function cogYaml(t: Test, predictor: string): string {
  const folder = t.testdir()
  const yaml = `predict: "${relative(folder, join(predictors, predictor))}:Predictor"\nconcurrency: {max: 4}\n`
  return join(t.testdir({ 'cog.yaml': yaml }), 'cog.yaml')
}

interface Spawned {
  readonly process: ChildProcess
  readonly url: string
  readonly log: string[]
  readonly exit: Promise<[code: number | null, signal: string | null]>
}

/** A server in a process of its own, as `npm start` makes it; resolves when it is ready. */
async function spawnServer(t: Test, env: Record<string, string> = {}): Promise<Spawned> {
  const entry = fileURLToPath(new URL('serve.ts', import.meta.url))
  const child = spawn(process.execPath, [...process.execArgv, entry, cogYaml(t, 'echo-stream.ts')], {
    env: { ...process.env, PORT: '0', ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  t.teardown(() => child.kill('SIGKILL'))
  const exit = once(child, 'exit') as Spawned['exit']
  const log: string[] = []
  let url = ''
  for await (const line of createInterface({ input: child.stdout! })) {
    log.push(line)
    const entry = JSON.parse(line)
    if (entry.msg === 'listening' && entry.url) url = entry.url
    if (entry.msg === 'ready') break
  }
  child.stdout!.on('data', (text) => log.push(String(text)))
  return { process: child, url, log, exit }
}

async function startWith(t: Test, predictor: string): Promise<RunningServer> {
  const env = { ...process.env, PORT: '0', HOST: '127.0.0.1', DRAIN_SECONDS: '0' }
  const server = await startServer({ env, cogFile: cogYaml(t, predictor), log: pino({ level: 'silent' }) })
  t.teardown(() => server.close())
  t.equal(await server.setup, 'succeeded')
  return server
}

async function post(url: string, input: object, headers: Record<string, string> = {}): Promise<Response> {
  const body = JSON.stringify({ id: 'p', input })
  return await fetch(`${url}/predictions`, { method: 'POST', headers: { ...JSON_TYPE, ...headers }, body })
}

async function health(url: string): Promise<string> {
  return ((await (await fetch(`${url}/health-check`)).json()) as { status: string }).status
}

/** Asks until the server says so: it has no call that waits. */
async function untilHealth(url: string, wanted: string[]): Promise<void> {
  while (!wanted.includes(await health(url))) await new Promise(setImmediate)
}

t.test('a worker that dies takes its predictions with it and nothing else, and another one serves', async (t) => {
  const server = await startWith(t, 'fragile.ts')
  const pids = new Set([server.workerPid])
  const endings = { exit: 'exit code 7', kill: 'signal SIGKILL', 'throw later': 'exit code 1' }
  for (const [how, ending] of Object.entries(endings)) {
    const response = await post(server.url, { how })
    t.equal(response.status, 200)
    t.match(await response.json(), {
      status: 'failed',
      error: `Worker crashed: the process that runs the Predictor ended with ${ending}. It is started again.`,
    })
    await untilHealth(server.url, ['READY'])
    pids.add(server.workerPid)
    t.match(await (await post(server.url, { how: 'answer' })).json(), {
      status: 'succeeded',
      output: `answered by ${server.workerPid}`,
    })
  }
  t.equal(pids.size, 4, 'each time another process')
})

t.test('closing a server ends its worker', async (t) => {
  const server = await startWith(t, 'echo-stream.ts')
  const pid = server.workerPid!
  await server.close()
  t.throws(() => process.kill(pid, 0), { code: 'ESRCH' })
  await t.rejects(fetch(server.url))
})

t.test('SIGTERM lets the running prediction end, refuses new connections, and ends with code 0', async (t) => {
  const server = await spawnServer(t)
  const answer = post(server.url, { prompt: 'late: alpha', n: 2, delay: 0.5 })
  // Four slots: the health stays READY, so another request tells that the first one is in.
  const stream = await post(server.url, { prompt: 'late: beta', n: 1, delay: 0.5 }, { accept: 'text/event-stream' })
  server.process.kill('SIGTERM')
  t.match(await (await answer).json(), { status: 'succeeded', output: ['late:', ' alpha'] })
  t.match(await stream.text(), /event: completed\n.*"status":"succeeded"/)
  t.strictSame(await server.exit, [0, null])
  await t.rejects(fetch(server.url))
})

t.test('at the limit of the drain, what still runs is canceled and answered', async (t) => {
  const server = await spawnServer(t, { DRAIN_SECONDS: '0.1' })
  const stream = await post(server.url, { prompt: 'late: x', delay: 600 }, { accept: 'text/event-stream' })
  server.process.kill('SIGTERM')
  t.match(await stream.text(), /event: completed\n.*"status":"canceled"/)
  t.strictSame(await server.exit, [0, null])
})

t.test('a second signal ends at once', async (t) => {
  const server = await spawnServer(t, { DRAIN_SECONDS: '3600' })
  const stream = await post(server.url, { prompt: 'late: x', delay: 600 }, { accept: 'text/event-stream' })
  server.process.kill('SIGTERM')
  while (!server.log.join('').includes('draining')) await new Promise(setImmediate)
  server.process.kill('SIGINT')
  t.strictSame(await server.exit, [130, null])
  await t.rejects(stream.text())
})

t.test('a server that is killed leaves no worker behind', async (t) => {
  const server = await spawnServer(t)
  const workerPid = JSON.parse(server.log.find((line) => line.includes('workerPid'))!).workerPid
  process.kill(workerPid, 0)
  server.process.kill('SIGKILL')
  await server.exit
  let alive = true
  while (alive) {
    await new Promise(setImmediate)
    try {
      process.kill(workerPid, 0)
    } catch {
      alive = false
    }
  }
  t.notOk(alive)
})

t.test('a bad setting ends the program with code 2 and one line, a taken port with code 1', async (t) => {
  const main = fileURLToPath(new URL('../../server/main.ts', import.meta.url))
  const run = async (env: Record<string, string>) => {
    const child = spawn(process.execPath, [...process.execArgv, main], {
      env: { ...process.env, LOG_LEVEL: 'silent', ...env },
      stdio: ['ignore', 'ignore', 'pipe'],
    })
    let text = ''
    child.stderr.setEncoding('utf8').on('data', (part) => {
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
