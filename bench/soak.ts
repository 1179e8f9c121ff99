/**
 * Mixed load with aborts for minutes: does anything grow?
 *
 *   npm run bench:soak -- [minutes] [clients]
 *
 * Every ten seconds the load pauses until all is answered, and both processes are asked what they hold. Prints the samples
 * and, over their last two thirds, the slopes; ends with code 1 if a slot, a socket or a timer is left.
 */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { type IncomingMessage, request } from 'node:http'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { table } from './report.js'
import type { Sample } from './soak-server.js'

const minutes = Number(process.argv[2] ?? 10)
const clients = Number(process.argv[3] ?? 16)
const SLOTS = 4
const PAUSE_EVERY_MS = 10_000
/** Longer than RESUME_SECONDS and KEEP_SECONDS below, so that a sample sees none of what they hold. */
const SETTLE_MS = 2500

const folder = mkdtempSync(join(tmpdir(), 'soak-'))
const predictor = fileURLToPath(new URL('../test/predictors/echo-stream.ts', import.meta.url))
const cogFile = join(folder, 'cog.yaml')
writeFileSync(cogFile, `predict: "${relative(folder, predictor)}:Predictor"\nconcurrency:\n  max: ${SLOTS}\n`)
const child = fork(fileURLToPath(new URL('soak-server.ts', import.meta.url)), [cogFile], {
  env: { ...process.env, QUEUE: '6', RESUME_SECONDS: '1', KEEP_SECONDS: '2' },
  execArgv: [...process.execArgv, '--expose-gc'],
})
const [{ url }] = (await once(child, 'message')) as [{ url: string }]

interface Sent {
  readonly method: string
  readonly path: string
  readonly body?: string
  readonly stream?: boolean
  /** Leaves after so many bytes of the answer; 0 leaves before it comes. */
  readonly leaveAfter?: number
}

/** One request on a connection of its own. @returns its status; 0 when it left first. */
function send({ method, path, body, stream, leaveAfter }: Sent): Promise<number> {
  return new Promise((resolve) => {
    const headers = { 'content-type': 'application/json', ...(stream && { accept: 'text/event-stream' }) }
    const sent = request(`${url}${path}`, { method, headers, agent: false }, (response: IncomingMessage) => {
      let read = 0
      response.on('data', (bytes: Buffer) => {
        read += bytes.length
        if (leaveAfter !== undefined && read > leaveAfter) sent.destroy()
      })
      response.on('end', () => resolve(response.statusCode!))
      response.on('close', () => resolve(0))
      response.on('error', () => resolve(0))
    })
    sent.on('error', () => resolve(0))
    sent.end(body)
    if (leaveAfter === 0)
      sent.on('socket', (socket) => socket.once('connect', () => setTimeout(() => sent.destroy(), 2)))
  })
}

let nextId = 0
const input = (fields: object) => JSON.stringify({ id: `soak-${nextId++}`, input: { prompt: 'log: a b c', ...fields } })
const random = (below: number) => Math.floor(Math.random() * below)
const kinds: (() => Promise<number>)[] = [
  () => send({ method: 'POST', path: '/predictions', body: input({ n: 10 }) }),
  () => send({ method: 'POST', path: '/predictions', body: input({ n: 100 }), stream: true }),
  () =>
    send({
      method: 'POST',
      path: '/predictions',
      body: input({ n: 50, delay: 0.002 }),
      stream: true,
      leaveAfter: random(3000),
    }),
  () => send({ method: 'POST', path: '/predictions', body: input({ n: 5, delay: 0.02 }), leaveAfter: 0 }),
  () => send({ method: 'POST', path: '/predictions', body: input({ n: 3, fail_at: 1 }) }),
  () => send({ method: 'POST', path: '/predictions', body: '{"input":{"prompt":1}}' }),
  () => send({ method: 'POST', path: '/predictions', body: '{"input":' }),
  () =>
    send({
      method: 'PUT',
      path: `/predictions/shared-${random(3)}`,
      body: '{"input":{"prompt":"x","n":20,"delay":0.001}}',
      stream: true,
    }),
  () => send({ method: 'GET', path: `/predictions/soak-${Math.max(0, nextId - random(20))}` }),
  () => send({ method: 'POST', path: `/predictions/soak-${Math.max(0, nextId - random(8))}/cancel` }),
  () => send({ method: 'GET', path: '/health-check' }),
]

const statuses = new Map<number, number>()
async function client(until: number): Promise<void> {
  while (Date.now() < until) {
    const status = await kinds[random(kinds.length)]!()
    statuses.set(status, (statuses.get(status) ?? 0) + 1)
  }
}

async function sample(): Promise<Sample> {
  await sleep(SETTLE_MS)
  child.send('sample')
  const [taken] = (await once(child, 'message')) as [Sample]
  return taken
}

const samples: { minute: number; sample: Sample }[] = []
const begin = Date.now()
while (Date.now() - begin < minutes * 60_000) {
  const until = Date.now() + PAUSE_EVERY_MS
  await Promise.all(Array.from({ length: clients }, () => client(until)))
  samples.push({ minute: (Date.now() - begin) / 60_000, sample: await sample() })
}

/** Least squares: how much a value grows a minute. */
function slope(value: (sample: Sample) => number): number {
  const late = samples.slice(Math.floor(samples.length / 3))
  const mean = (of: (one: (typeof late)[number]) => number) => late.reduce((sum, one) => sum + of(one), 0) / late.length
  const [x, y] = [mean(({ minute }) => minute), mean((one) => value(one.sample))]
  const over = late.reduce((sum, one) => sum + (one.minute - x) * (value(one.sample) - y), 0)
  return over / late.reduce((sum, { minute }) => sum + (minute - x) ** 2, 0)
}

const slots = await Promise.all(
  Array.from({ length: SLOTS }, () =>
    send({ method: 'POST', path: '/predictions', body: input({ n: 5, delay: 0.05 }) }),
  ),
)
const last = samples.at(-1)!.sample
child.disconnect()
rmSync(folder, { recursive: true })
const columns = ['server', 'worker', 'heap', 'sockets', 'timers'] as const
const shown = (name: (typeof columns)[number], value: number) =>
  name === 'sockets' || name === 'timers' ? value.toFixed(2) : `${(value / 1e6).toFixed(2)} MB`
const rows = samples.map(({ minute, sample }) => [
  minute.toFixed(1),
  ...columns.map((name) => shown(name, sample[name])),
])
const slopes = columns.map((name) => slope((sample) => sample[name]))
console.log(
  JSON.stringify({
    date: new Date().toISOString(),
    minutes,
    clients,
    statuses: Object.fromEntries(statuses),
    slots,
    slopes,
    last,
  }),
)
console.log(
  table([['minute', ...columns], ...rows, ['slope a minute', ...columns.map((name, i) => shown(name, slopes[i]!))]]),
)
console.log(
  `answers by status (0: its client left): ${[...statuses].map(([status, count]) => `${status} ${count}`).join(', ')}`,
)
console.log(`${SLOTS} predictions at once then: ${slots.join(' ')}`)
process.exit(slots.every((status) => status === 200) && last.sockets === 0 && last.timers === 0 ? 0 : 1)
