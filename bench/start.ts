/**
 * How soon the service is there: from `npm start` to READY, and from a POST to the first token.
 *
 *   npm run bench:start -- [runs]
 */
import { spawn } from 'node:child_process'
import { createServer } from 'node:net'
import { median, table } from './report.js'

const runs = Number(process.argv[2] ?? 5)

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await new Promise((resolve) => server.once('listening', resolve))
  const { port } = server.address() as { port: number }
  await new Promise((resolve) => server.close(resolve))
  return port
}

async function until(ready: () => Promise<boolean>): Promise<void> {
  while (!(await ready().catch(() => false))) await new Promise((resolve) => setTimeout(resolve, 5))
}

/** Milliseconds to the first `output` event of a stream. */
async function firstToken(url: string): Promise<number> {
  const start = performance.now()
  const response = await fetch(`${url}/predictions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', accept: 'text/event-stream' },
    body: JSON.stringify({ input: { prompt: 'What can you do?', max_new_tokens: 16 } }),
  })
  let text = ''
  let first = 0
  for await (const bytes of response.body!) {
    text += Buffer.from(bytes).toString()
    if (first === 0 && text.includes('event: output')) first = performance.now() - start
  }
  if (first === 0) throw new Error(`no output: ${text}`)
  return first
}

async function run(): Promise<{ ready: number; first: number; later: number }> {
  const port = await freePort()
  const start = performance.now()
  // A group of its own, so that npm's children can be ended with it.
  const child = spawn('npm', ['start'], {
    env: { ...process.env, PORT: String(port) },
    stdio: 'ignore',
    detached: true,
  })
  const url = `http://127.0.0.1:${port}`
  await until(async () => {
    const health = (await (await fetch(`${url}/health-check`)).json()) as { status: string }
    if (health.status === 'SETUP_FAILED') throw new Error('setup failed: start the service by hand to see why')
    return health.status === 'READY'
  })
  const ready = performance.now() - start
  const first = await firstToken(url)
  const later: number[] = []
  for (let i = 0; i < 10; i++) later.push(await firstToken(url))
  const ended = new Promise((resolve) => child.once('exit', resolve))
  process.kill(-child.pid!, 'SIGTERM')
  await ended
  return { ready, first, later: median(later) }
}

const figures: Awaited<ReturnType<typeof run>>[] = []
for (let i = 0; i < runs; i++) figures.push(await run())
const row = (name: 'ready' | 'first' | 'later', label: string) => {
  const values = figures.map((one) => one[name])
  return [label, Math.min(...values).toFixed(0), median(values).toFixed(0), Math.max(...values).toFixed(0)]
}
console.log(JSON.stringify({ date: new Date().toISOString(), runs: figures }))
console.log(
  table([
    ['ms', 'min', 'median', 'max'],
    row('ready', 'npm start → READY'),
    row('first', 'first POST → first token'),
    row('later', 'later POST → first token'),
  ]),
)
