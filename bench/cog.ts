/**
 * Our server beside the real one of Cog (coglet), with the same trivial model: what the server itself costs.
 *
 *   PYTHON=/path/to/venv/bin/python npm run bench:cog -- [rounds] [seconds a load]
 *
 * Both in turn, round by round, each time in new processes. A ratio is the median of the rounds' ratios. The real server
 * gets 32 slots for 16 connections, since it refuses some with fewer. Ends with code 1 if a bar is missed.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { Agent, get } from 'node:http'
import { cpus, loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { closedLoop, type Load } from './closed-loop.js'
import { bezel, coglet, type Start } from './cog-servers.js'
import { childrenOf, memoryOf } from './memory.js'
import { median, quantile, table } from './report.js'
import type { Service } from './service.js'
import { hasWrk, wrk } from './wrk.js'

const rounds = Number(process.argv[2] ?? 5)
const seconds = Number(process.argv[3] ?? 3)
const { PYTHON: python } = process.env
const folder = mkdtempSync(join(tmpdir(), 'bench-cog-'))
process.on('exit', () => rmSync(folder, { recursive: true }))

const WHOLE = { prompt: 'hello', n: 1 }
const CHUNKS = { prompt: 'hello', n: 100 }
/** As fast as a model on a good GPU: 64 such streams are 3,200 events a second. */
const PACED = { prompt: 'hello', n: 100, delay: 0.02 }
const PACED_STREAMS = 64
const STARTS = 3

/** What one server did in one round, by the names of the rows. */
type Figures = Record<string, number>

/** Whole predictions: by wrk, or by our own client where there is none. */
async function whole(service: Service, connections: number, name: string): Promise<Figures> {
  const load: Load = { url: service.url, connections, seconds, input: WHOLE, stream: false }
  const run = async () => (hasWrk ? wrk(load, folder) : await closedLoop(load))
  // The first makes both warm: compiled code, pools, pages.
  await run()
  const { okPerSecond, refused, p99Ms } = await run()
  return { [`requests/s, ${name}`]: okPerSecond, [`refused, ${name}`]: refused, [`p99 ms, ${name}`]: p99Ms }
}

async function events(service: Service, connections: number, name: string): Promise<Figures> {
  const load: Load = { url: service.url, connections, seconds, input: CHUNKS, stream: true }
  const { eventsPerSecond, eventsPerSecondUnstalled } = await closedLoop(load)
  return {
    [`events/s, ${name}`]: eventsPerSecond,
    // Of several streams, a pause may be another's turn.
    ...(connections === 1 && { [`events/s without stalls, ${name}`]: eventsPerSecondUnstalled }),
  }
}

/** How long an answer takes while streams run, asked every few milliseconds. */
async function probes(service: Service, paths: readonly string[]): Promise<Figures> {
  const load: Load = { url: service.url, connections: PACED_STREAMS, seconds, input: PACED, stream: true }
  let over = false
  const streams = closedLoop(load).finally(() => {
    over = true
  })
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  const taken = new Map<string, number[]>(paths.map((path) => [path, []]))
  // Once the client has come up and opened its streams.
  await sleep(500)
  while (!over) {
    for (const path of paths) taken.get(path)!.push(await timeOf(agent, `${service.url}${path}`))
    await sleep(5)
  }
  agent.destroy()
  await streams
  return Object.fromEntries([...taken].map(([path, ms]) => [`p99 ms, ${path}`, quantile(ms, 0.99)]))
}

function timeOf(agent: Agent, url: string): Promise<number> {
  const from = performance.now()
  return new Promise((resolve, reject) => {
    const sent = get(url, { agent }, (response) => {
      response.resume().on('end', () => {
        if (response.statusCode === 200) resolve(performance.now() - from)
        else reject(new Error(`${url} is answered with ${response.statusCode}`))
      })
    })
    sent.on('error', reject)
  })
}

/** Starts a server, measures, and stops it, whatever happens. */
async function using(start: Start, slots: number, measure: (service: Service) => Promise<Figures>): Promise<Figures> {
  const service = await start(slots)
  const kill = () => service.kill()
  process.on('exit', kill)
  try {
    return await measure(service)
  } finally {
    await service.stop()
    process.off('exit', kill)
  }
}

async function readyMs(start: Start): Promise<number> {
  const taken: number[] = []
  for (let i = 0; i < STARTS; i++) {
    await using(start, 1, async (service) => {
      taken.push(service.readyMs)
      return {}
    })
  }
  return median(taken)
}

async function measure(start: Start, { manySlots, paths }: { manySlots: number; paths: string[] }): Promise<Figures> {
  const figures = [
    { 'start → READY ms': await readyMs(start) },
    await using(start, 1, async (service) => {
      await sleep(1000)
      const [child] = childrenOf(service.pid)
      if (child === undefined) throw new Error('It has no process for its model.')
      const [server, worker] = [memoryOf(service.pid), memoryOf(child)]
      return {
        'idle MB, server, private': server.anonymous / 1e6,
        'idle MB, server, of files': server.mapped / 1e6,
        'idle MB, worker, private': worker.anonymous / 1e6,
        'idle MB, worker, of files': worker.mapped / 1e6,
        ...(await whole(service, 1, '1 connection')),
        ...(await events(service, 1, '1 connection')),
      }
    }),
    await using(start, manySlots, async (service) => ({
      ...(await whole(service, 16, '16 connections')),
      ...(await events(service, 16, '16 connections')),
    })),
    await using(start, PACED_STREAMS, async (service) => await probes(service, paths)),
  ]
  return Object.assign({}, ...figures)
}

const ours: Figures[] = []
const theirs: Figures[] = []
const start = bezel(folder, 'compiled')
const peer = python === undefined ? undefined : coglet(folder, python)
const loadBefore = loadavg()
for (let round = 0; round < rounds; round++) {
  ours.push({
    ...(await measure(start, { manySlots: 16, paths: ['/health-check', '/metrics'] })),
    'start → READY ms, from source': await readyMs(bezel(folder, 'source')),
  })
  if (peer) theirs.push(await measure(peer, { manySlots: 32, paths: ['/health-check'] }))
}

/** What must be reached: a ratio to the real server, or a value. */
interface Bar {
  readonly atLeast?: number
  readonly atMost?: number
  readonly of: 'ratio' | 'value'
}

const BARS: Readonly<Record<string, Bar>> = {
  'requests/s, 1 connection': { atLeast: 3, of: 'ratio' },
  'refused, 1 connection': { atMost: 0, of: 'value' },
  'requests/s, 16 connections': { atLeast: 3, of: 'ratio' },
  'p99 ms, 16 connections': { atMost: 0.5, of: 'ratio' },
  'events/s, 1 connection': { atLeast: 3, of: 'ratio' },
  'events/s without stalls, 1 connection': { atLeast: 1, of: 'ratio' },
  'events/s, 16 connections': { atLeast: 1.5, of: 'ratio' },
  'start → READY ms': { atMost: 1.5, of: 'ratio' },
  'p99 ms, /health-check': { atMost: 20, of: 'value' },
  'p99 ms, /metrics': { atMost: 20, of: 'value' },
}

const rows = Object.keys(ours[0]!).map((name) => {
  const values = ours.map((figures) => figures[name]!)
  const value = median(values)
  const peers = theirs.flatMap((figures) => (name in figures ? [figures[name]!] : []))
  const ratio = peers.length > 0 ? median(peers.map((one, round) => values[round]! / one)) : undefined
  const bar = BARS[name]
  const measured = bar?.of === 'value' ? value : ratio
  const isMet =
    bar && measured !== undefined
      ? measured >= (bar.atLeast ?? Number.NEGATIVE_INFINITY) && measured <= (bar.atMost ?? Number.POSITIVE_INFINITY)
      : undefined
  return { name, bezel: value, coglet: peers.length > 0 ? median(peers) : undefined, ratio, bar, isMet }
})

const number = (value: number | undefined) =>
  value === undefined || Number.isNaN(value)
    ? ''
    : value >= 100
      ? Math.round(value).toLocaleString('en')
      : value.toFixed(2)
const barText = (bar: Bar | undefined) => {
  if (!bar) return ''
  const unit = bar.of === 'ratio' ? ' ×' : ''
  return bar.atLeast === undefined ? `≤ ${bar.atMost}${unit}` : `≥ ${bar.atLeast}${unit}`
}
console.log(
  JSON.stringify({
    date: new Date().toISOString(),
    machine: `${cpus().length} × ${cpus()[0]?.model}`,
    node: process.version,
    load: [loadBefore, loadavg()],
    rounds,
    seconds,
    client: hasWrk ? 'wrk' : 'node',
    rows,
    ours,
    theirs,
  }),
)
console.log(
  table([
    ['median of rounds', 'Bezel', 'coglet', 'ratio', 'bar', ''],
    ...rows.map(({ name, bezel, coglet, ratio, bar, isMet }) => [
      name,
      number(bezel),
      number(coglet),
      number(ratio),
      barText(bar),
      isMet === undefined ? '' : isMet ? 'met' : 'MISSED',
    ]),
  ]),
)
if (!peer) console.log('No coglet beside it: set PYTHON to the python of an environment with cog and coglet.')
if (!hasWrk)
  console.log('/usr/bin/wrk is missing: whole predictions were asked for by our own client, which is slower.')
process.exit(rows.some(({ isMet }) => isMet === false) ? 1 : 0)
