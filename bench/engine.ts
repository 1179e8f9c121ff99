/**
 * The engine beside what one would run instead, in turn, each in a process of its own: speeds, load, memory, and the bars.
 *
 *   npm run bench:engine -- <exported folder> [--same <folder>] [--gguf <file>] [--usual <file>] [--usual-onnx <folder>]
 *     [--peers <names>] [--rows <names>] [--rounds 3] [--minutes 10] [--try <name>:<key>=<value>,…] [--json <file>]
 *
 * bench/README.md says what they mean, and how the peers are installed. Speeds are compared within a round and a row, so that
 * what disturbs the machine disturbs all alike.
 */
import { existsSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { availableParallelism, cpus } from 'node:os'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { openModelFolder } from '../model/folder.js'
import { readBandwidth } from './bandwidth.js'
import type { ContestantOptions, Memory, Opened } from './contestants/contestant.js'
import { ContestantProcess } from './contestants/process.js'
import { printEngineReport } from './engine-report.js'
import { CONTESTANTS, type Contestant, ROWS, type Row } from './engine-rows.js'
import { stepBytes } from './step-bytes.js'

const OPEN_LIMIT_MS = 180_000
/** For one row of one contestant. On a quiet machine of 2 cores the longest takes a minute: reading 4,096 tokens. */
const ROW_LIMIT_MS = 240_000
/** What a contestant gets for its row even when the time is nearly over. */
const LEAST_LIMIT_MS = 10_000

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    same: { type: 'string' },
    gguf: { type: 'string' },
    usual: { type: 'string' },
    'usual-onnx': { type: 'string' },
    peers: { type: 'string' },
    rows: { type: 'string' },
    rounds: { type: 'string', default: '3' },
    minutes: { type: 'string', default: '10' },
    try: { type: 'string', multiple: true, default: [] },
    'batch-invariant': { type: 'string', default: 'on' },
    json: { type: 'string' },
  },
})
const [folder] = positionals
if (folder === undefined)
  throw new Error(
    'Say which exported folder to measure: npm run bench:engine -- <folder>; bench/README.md has the options',
  )

const file = (path: string) => fileURLToPath(new URL(path, import.meta.url))
const python = process.env.PYTHON
const peersAreInstalled = existsSync(file('peers/node_modules'))

/** A contestant's name, or one of `--try`, and how it is started. */
interface Entry {
  readonly name: string
  readonly plays: Contestant
  readonly entry: string
  readonly model: string
  readonly python?: string | undefined
  readonly config?: Readonly<Record<string, string>>
}

const ours = 'contestants/bezel.ts'
const possible: readonly (Entry | undefined)[] = [
  { name: 'bezel', plays: 'bezel', entry: ours, model: folder },
  ...values.try.map((text): Entry => {
    const [name, list = ''] = text.split(/:(.*)/s)
    const config = Object.fromEntries(list.split(',').map((pair) => pair.split('=') as [string, string]))
    return { name: `bezel ${name}`, plays: 'bezel', entry: ours, model: folder, config }
  }),
  values.same === undefined ? undefined : { name: 'bezel-q4_0', plays: 'bezel-q4_0', entry: ours, model: values.same },
  ...(['gguf', 'usual'] as const).map((option): Entry | undefined => {
    const name = option === 'gguf' ? 'llama.cpp' : 'llama.cpp-usual'
    const model = values[option]
    return model === undefined ? undefined : { name, plays: name, entry: 'peers/llama-cpp.ts', model }
  }),
  peersAreInstalled
    ? { name: 'transformers.js', plays: 'transformers.js', entry: 'peers/transformers.ts', model: folder }
    : undefined,
  peersAreInstalled && values['usual-onnx'] !== undefined
    ? {
        name: 'transformers.js-usual',
        plays: 'transformers.js-usual',
        entry: 'peers/transformers.ts',
        model: values['usual-onnx'],
      }
    : undefined,
  python === undefined
    ? undefined
    : { name: 'onnxruntime-genai', plays: 'onnxruntime-genai', entry: 'peers/genai.py', model: folder, python },
  {
    name: 'InferenceSession',
    plays: 'InferenceSession',
    entry: 'contestants/inference-session.ts',
    model: folder,
  },
]
const asked = values.peers?.split(',')
const unknown = asked?.find((name) => !CONTESTANTS.some((contestant) => contestant === name))
if (unknown !== undefined) throw new Error(`--peers: "${unknown}" is none of ${CONTESTANTS.join(', ')}.`)
const isWanted = ({ plays }: Entry) =>
  plays.startsWith('bezel') || (asked ? asked.includes(plays) : plays !== 'InferenceSession' || !peersAreInstalled)
const entries = possible.filter((entry) => entry !== undefined).filter(isWanted)

const askedRows = values.rows?.split(',')
const unknownRow = askedRows?.find((name) => name !== 'load' && !ROWS.some((row) => row.name === name))
if (unknownRow !== undefined)
  throw new Error(`--rows: "${unknownRow}" is none of load, ${ROWS.map(({ name }) => name).join(', ')}.`)
const rows = ROWS.filter(({ name }) => askedRows?.includes(name) ?? true)
const sequences = Math.max(1, ...rows.map(({ question }) => ('sequences' in question ? question.sequences : 1)))
const longest = Math.max(
  ...rows.map(({ question }) =>
    question.kind === 'decode' ? question.depth + question.newTokens : 'tokens' in question ? question.tokens + 1 : 0,
  ),
  512,
)

const started = performance.now()
const deadline = started + Number(values.minutes) * 60_000
const rounds = Number(values.rounds)
const limitMs = () => Math.min(ROW_LIMIT_MS, Math.max(LEAST_LIMIT_MS, deadline - performance.now()))
/** [row][contestant] → one figure for each round, NaN where there is none. */
const speeds = new Map<string, Map<string, number[]>>(rows.map(({ name }) => [name, new Map()]))
const loads = new Map<string, { opened: Opened[]; memory: Memory[] }>()
const bandwidths: number[] = []
const notes: string[] = []

function start(entry: Entry, size: { sequences: number; contextLength: number }): Promise<ContestantProcess> {
  const options: ContestantOptions = {
    model: entry.model,
    threads: availableParallelism(),
    batchInvariant: values['batch-invariant'] !== 'off',
    ...size,
    ...(entry.config ? { config: entry.config } : {}),
  }
  return ContestantProcess.start(file(entry.entry), options, { limitMs: OPEN_LIMIT_MS, python: entry.python })
}

function note(what: string, error: unknown): void {
  const text = `${what}: ${error instanceof Error ? error.message : String(error)}`
  if (!notes.includes(text)) notes.push(text)
}

/** Small processes that only start, give a token and end: for the time to that, and for memory without much of a cache. */
async function measureLoads(): Promise<void> {
  for (let round = 0; round < rounds; round++) {
    for (const entry of entries) {
      if (performance.now() > deadline) return
      try {
        const contestant = await start(entry, { sequences: 1, contextLength: 512 })
        const known = loads.get(entry.name) ?? { opened: [], memory: [] }
        loads.set(entry.name, known)
        known.opened.push(contestant.opened)
        await contestant.ask({ kind: 'decode', sequences: 1, depth: 16, newTokens: 32 }, limitMs())
        const answer = await contestant.ask({ kind: 'memory' }, limitMs())
        if ('memory' in answer) known.memory.push(answer.memory)
        contestant.stop()
      } catch (error) {
        note(`load, ${entry.name}`, error)
      }
    }
  }
}

async function measureRow(row: Row, round: number, contestants: ReadonlyMap<Entry, ContestantProcess>): Promise<void> {
  const inTurn = entries.filter(({ plays }) => row.who.includes(plays))
  // Whoever follows another finds the machine as that one left it: so they take turns at that, too.
  if (round % 2 === 1) inTurn.reverse()
  for (const entry of inTurn) {
    const contestant = contestants.get(entry)
    const found = speeds.get(row.name)!
    const own = found.get(entry.name) ?? []
    found.set(entry.name, own)
    if (contestant === undefined) continue
    try {
      const answer = await contestant.ask(row.question, limitMs())
      if ('value' in answer) own[round] = answer.value
    } catch (error) {
      note(`${row.name}, ${entry.name}`, error)
    }
  }
}

const progress = (text: string) => {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`)
}

// The first start of all packs the weights.
const first = await start(entries[0]!, { sequences: 1, contextLength: 512 })
const firstLoadMs = first.opened.loadMs
first.stop()
if (values.same !== undefined) {
  const same = entries.find(({ plays }) => plays === 'bezel-q4_0')!
  await start(same, { sequences: 1, contextLength: 512 }).then(
    (contestant) => contestant.stop(),
    (error) => note('bezel-q4_0', error),
  )
}

if (askedRows?.includes('load') ?? true) {
  progress('load')
  await measureLoads()
}
const contestants = new Map<Entry, ContestantProcess>()
for (const entry of rows.length > 0 ? entries : []) {
  try {
    contestants.set(entry, await start(entry, { sequences, contextLength: longest }))
  } catch (error) {
    note(entry.name, error)
  }
}
const lastMs = new Map<string, number>()
for (let round = 0; round < rounds; round++) {
  bandwidths.push(await readBandwidth())
  for (const row of rows) {
    if (row.once && round > 0) continue
    progress(`round ${round + 1} of ${rounds}: ${row.name}`)
    const begin = performance.now()
    if (begin + (lastMs.get(row.name) ?? 0) > deadline) {
      note(`${row.name}, round ${round + 1}`, `left out: the ${values.minutes} minutes are over`)
      continue
    }
    await measureRow(row, round, contestants)
    lastMs.set(row.name, performance.now() - begin)
  }
}
for (const contestant of contestants.values()) contestant.stop()
progress('')

const report = {
  date: new Date().toISOString(),
  cpu: cpus()[0]?.model,
  threads: availableParallelism(),
  seconds: Math.round((performance.now() - started) / 1000),
  folder,
  firstLoadMs,
  bandwidths,
  stepBytes: await stepBytesOf(entries),
  loads: Object.fromEntries(loads),
  speeds: Object.fromEntries([...speeds].map(([row, figures]) => [row, Object.fromEntries(figures)])),
  notes,
}
if (values.json !== undefined) await writeFile(values.json, `${JSON.stringify(report, null, 2)}\n`)
console.log(JSON.stringify(report))
printEngineReport(
  report,
  entries.map(({ name }) => name),
)

async function stepBytesOf(all: readonly Entry[]): Promise<Record<string, number>> {
  const own = all.filter(({ plays }) => plays.startsWith('bezel'))
  return Object.fromEntries(
    await Promise.all(own.map(async ({ name, model }) => [name, stepBytes(await openModelFolder(model))] as const)),
  )
}
