/**
 * What requests do to one another in one engine: a chat's second turn beside its first, a shared beginning, the gaps of a
 * stream while another's long prompt is read, how soon a canceled request is gone, and what is not the model's own time.
 *
 *   npm run bench:together -- <exported folder> [rounds]
 *
 * Prints one JSON object and a table. Every figure is a ratio within the run, but for the cancels, whose bar is in milliseconds.
 */
import { cpus } from 'node:os'
import { Engine } from '../model/engine/engine.js'
import type { EndEvent, PreparedRequest } from '../model/engine/request.js'
import { openModelFolder } from '../model/folder.js'
import { openRuntime } from '../model/runtime/runtime.js'
import type { Runtime } from '../model/runtime/types.js'
import { parseModelSettings } from '../model/settings.js'
import { median, table } from './report.js'

const SLOTS = 8
const CONTEXT_LENGTH = 2560
const CHAT_TOKENS = 1500
const ANSWER_TOKENS = 32
const NEXT_TOKENS = 30
const LONG_TOKENS = 2000
const STREAM_TOKENS = 48

/** One run of the model, as the engine's thread sees it: with the way to the runtime's thread and back. */
interface Run {
  readonly start: number
  readonly end: number
  /** Whether somebody got a token from it: its logits were sampled. */
  readonly sampled: boolean
}

/** The runtime, and when its runs began and ended. */
function recorded(runtime: Runtime): { runtime: Runtime; runs: Run[] } {
  const runs: Run[] = []
  const recording: Runtime = {
    device: runtime.device,
    version: runtime.version,
    threads: runtime.threads,
    openSession: (options) => runtime.openSession(options),
    createTensor: (options) => runtime.createTensor(options),
    createBinding: (session, options) => runtime.createBinding(session, options),
    async run(bindings, signal) {
      const start = performance.now()
      try {
        await runtime.run(bindings, signal)
      } finally {
        runs.push({ start, end: performance.now(), sampled: bindings.length > 1 })
      }
    },
    [Symbol.asyncDispose]: () => runtime[Symbol.asyncDispose](),
  }
  return { runtime: recording, runs }
}

let nextId = 0
/** Ids that no prompt before begins with. */
function freshIds(count: number): number[] {
  nextId++
  return Array.from({ length: count }, (_, place) => 300 + ((nextId * 7919 + place * 31) % 1000))
}

const [path, rounds = '3'] = process.argv.slice(2)
if (path === undefined)
  throw new Error('Say which exported folder to measure: npm run bench:together -- <folder> [rounds]')

const folder = await openModelFolder(path)
const { runtime, runs } = recorded(await openRuntime({ device: folder.target }))
const { STREAM_PAUSE_MS: streamPauseMs } = parseModelSettings({})
const engine = await Engine.open({ folder, runtime, slots: SLOTS, contextLength: CONTEXT_LENGTH, streamPauseMs })
// No end token comes before its time, and none ends a sequence: ids are given, not text.
const template = await engine.prepare({ prompt: '', raw: true, maxNewTokens: CONTEXT_LENGTH, temperature: 0 })

function prepared(promptIds: readonly number[], newTokens: number): PreparedRequest {
  const sampling = { ...template.sampling, minNewTokens: newTokens }
  return { ...template, sampling, promptIds, maxNewTokens: newTokens }
}

async function run(request: PreparedRequest, signal?: AbortSignal): Promise<EndEvent> {
  for await (const event of engine.generate(request, signal ? { signal } : {})) if (event.type === 'end') return event
  throw new Error('no end event')
}

/** Until the runtime has made so many runs. */
async function until(count: number): Promise<void> {
  while (runs.length < count) await new Promise((resolve) => setTimeout(resolve, 1))
}

/** TTFT of a chat's second turn, whose answer and new message must be read, and of a neighbour that begins as it does. */
async function chat() {
  const first = freshIds(CHAT_TOKENS)
  const one = await run(prepared(first, ANSWER_TOKENS))
  const next = [...first, ...freshIds(ANSWER_TOKENS + NEXT_TOKENS)]
  const two = await run(prepared(next, ANSWER_TOKENS))
  const beside = await run(prepared([...first.slice(0, 1024), ...freshIds(NEXT_TOKENS)], 1))
  const ttft = (end: EndEvent) => end.timeToFirstTokenMs!
  return {
    firstTurnMs: ttft(one),
    secondTurn: ttft(two) / ttft(one),
    secondTurnCached: two.cachedTokens,
    sharedBeginning: ttft(beside) / ttft(one),
    sharedBeginningCached: beside.cachedTokens,
  }
}

/** A stream's gaps while a long prompt is read, each less the step that ends it, in chunks that were read meanwhile. */
async function gaps() {
  const leaving = new AbortController()
  const before = runs.length
  const stream = run(prepared(freshIds(16), CONTEXT_LENGTH - 100), leaving.signal)
  await until(before + 3)
  const from = runs.length
  const end = await run(prepared(freshIds(LONG_TOKENS), 1))
  const during = runs.slice(from)
  leaving.abort()
  await stream
  const gaps: { ms: number; chunks: number }[] = []
  for (const [index, step] of during.entries()) {
    const [chunk, last] = [during[index - 1], during[index - 2]]
    if (!step.sampled || chunk === undefined || chunk.sampled || !last?.sampled) continue
    gaps.push({ ms: step.end - last.end, chunks: (step.start - last.end) / (chunk.end - chunk.start) })
  }
  return {
    longestGapMs: Math.max(...gaps.map(({ ms }) => ms)),
    gap: Math.max(...gaps.map(({ chunks }) => chunks)),
    longPromptMs: end.prefillMs,
  }
}

/** What of a decode step's time is not the model's, with all slots generating. */
async function overhead() {
  const from = runs.length
  await Promise.all(Array.from({ length: SLOTS }, () => run(prepared(freshIds(4), STREAM_TOKENS))))
  // The last steps are those of all eight: the prompts of 4 tokens are read in the first ones.
  const steps = runs.slice(from).slice(SLOTS * 3, -SLOTS)
  const cycles = steps.slice(1).map(({ start }, index) => start - steps[index]!.start)
  const own = steps.slice(1).map(({ start }, index) => start - steps[index]!.end)
  return { stepMs: median(cycles), ownMs: median(own), ownShare: median(own) / median(cycles) }
}

/** From the signal to the end of the request, whose slot is free then: in the queue, while its prompt is read, while it generates. */
async function cancels() {
  const holders = Array.from({ length: SLOTS }, () => new AbortController())
  const held = holders.map(({ signal }) => run(prepared(freshIds(4), CONTEXT_LENGTH - 100), signal))
  const timed = async (controller: AbortController, request: Promise<unknown>) => {
    const start = performance.now()
    controller.abort()
    await request
    return performance.now() - start
  }
  await until(runs.length + SLOTS * 3)
  const queued = new AbortController()
  const waiting = run(prepared(freshIds(4), 1), queued.signal)
  await until(runs.length + 1)
  const queuedMs = await timed(queued, waiting)
  const decodeMs = await timed(holders[0]!, held[0]!)
  for (const holder of holders) holder.abort()
  await Promise.all(held)
  const reader = new AbortController()
  const reading = run(prepared(freshIds(LONG_TOKENS), 1), reader.signal)
  await until(runs.length + 2)
  // In the midst of a chunk.
  await new Promise((resolve) => setTimeout(resolve, 20))
  const prefillMs = await timed(reader, reading)
  return { canceledInQueueMs: queuedMs, canceledInPrefillMs: prefillMs, canceledInDecodeMs: decodeMs }
}

const figures: Record<string, number>[] = []
await run(prepared(freshIds(64), 4))
for (let round = 0; round < Number(rounds); round++) {
  const figure = { ...(await chat()), ...(await gaps()), ...(await overhead()), ...(await cancels()) }
  figures.push({ ...figure, canceledInDecodeSteps: figure.canceledInDecodeMs / figure.stepMs })
}
await engine[Symbol.asyncDispose]()
await runtime[Symbol.asyncDispose]()

const bars: Record<string, string> = {
  secondTurn: '≤ 0.1',
  gap: '≤ 1.5',
  ownShare: '≤ 0.02',
  canceledInQueueMs: '≤ 100',
  canceledInPrefillMs: '≤ 100',
  canceledInDecodeMs: '≤ 100',
  canceledInDecodeSteps: '≤ 1',
}
console.log(
  JSON.stringify({ date: new Date().toISOString(), cpu: cpus()[0]?.model, threads: cpus().length, path, figures }),
)
console.log(
  table([
    ['', 'median', 'bar'],
    ...Object.keys(figures[0]!).map((name) => [
      name,
      median(figures.map((one) => one[name]!)).toFixed(4),
      bars[name] ?? '',
    ]),
  ]),
)
