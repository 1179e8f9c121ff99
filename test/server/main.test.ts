import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { createServer } from 'node:net'
import { dirname, join } from 'node:path'
import { pino } from 'pino'
import t from 'tap'
import { startServer } from '../../server/main.js'
import { isAlive, post, spawnServer, spawnSource, until, untilHealth, writeCogYaml } from './spawn.js'

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
  const folder = t.testdir({})
  const readinessFile = join(folder, 'run', 'ready')
  const server = await startServer({
    env: { ...process.env, PORT: '0', HOST: '127.0.0.1', KUBERNETES_SERVICE_HOST: '10.0.0.1' },
    cogFile: writeCogYaml(folder, { file: 'echo-stream.ts' }),
    readinessFile,
    createLog: () => pino({ level: 'silent' }),
  })
  t.equal(await server.setup, 'succeeded')
  t.ok(existsSync(readinessFile), 'told to Kubernetes by a file')
  t.match(await (await post(server.url, { prompt: 'a', n: 1 })).json(), { output: ['a'] })
  await server.close()
  t.notOk(isAlive(server.workerPid!))
  t.notOk(existsSync(readinessFile))
  await t.rejects(fetch(server.url))
})

t.test(
  'a server that is killed leaves no worker and no files behind, and the next one serves in its place',
  async (t) => {
    const folder = t.testdir({})
    const server = await spawnServer(t, folder, { file: 'heavy.ts' })
    await untilHealth(server.url, 'READY')
    t.ok(isAlive(server.workerPid))
    const stream = await post(server.url, { how: 'hold a folder' }, { accept: 'text/event-stream' })
    const reader = stream.body!.pipeThrough(new TextDecoderStream()).getReader()
    let text = ''
    while (!text.includes('event: output')) text += (await reader.read()).value
    const held: string = JSON.parse(/"chunk":("[^"]*")/.exec(text)![1]!)
    t.ok(existsSync(held))
    server.process.kill('SIGKILL')
    await t.rejects(reader.read(), 'who reads learns it by the end of the connection')
    await until(() => !isAlive(server.workerPid))
    t.notOk(existsSync(dirname(held)), 'nor what it held on disk')
    const env = { PORT: new URL(server.url).port }
    const next = await spawnServer(t, folder, { file: 'heavy.ts', env })
    t.equal(next.url, server.url)
    await untilHealth(next.url, 'READY')
    t.match(await (await post(next.url, { how: 'answer' })).json(), { status: 'succeeded' })
  },
)

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
