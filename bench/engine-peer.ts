/** One peer of bench/engine.ts, in a process of its own: measures, sends its figures to the parent, and ends. */
import { InferenceSession, Tensor } from 'onnxruntime-node'
import { Engine } from '../model/engine/engine.js'
import type { EndEvent, GenerateRequest } from '../model/engine/request.js'
import { type ModelFolder, openModelFolder } from '../model/folder.js'
import { openRuntime } from '../model/runtime/runtime.js'
import { memoryOf } from './memory.js'

export type Peer = 'bezel' | 'InferenceSession'

export interface Figures {
  /** Until the first request can be served: tokenizer, caches and a first step included, where the peer has them. */
  readonly loadMs: number
  /** The weights alone: from the file to a session that can run. */
  readonly sessionMs: number
  /** Tokens a second. */
  readonly prefill128: number
  readonly prefill512: number
  readonly decode1: number
  /** All sequences together; the peer's API has no way to run rows of different lengths in place. */
  readonly decode4: number
  /** The longest time for which the event loop stood still while a prompt of 1,000 tokens was read. */
  readonly pauseMs: number
  /** After load and all runs, less the KV cache. */
  readonly privateMb: number
  readonly mappedMb: number
  readonly weightBytes: number
}

const SLOTS = 4
const CONTEXT_LENGTH = 1024
const NEW_TOKENS = 64

async function bezel(folder: ModelFolder): Promise<Figures> {
  const start = performance.now()
  await using runtime = await openRuntime({ device: 'cpu' })
  let sessionMs = 0
  const openSession = runtime.openSession.bind(runtime)
  runtime.openSession = async (options) => {
    const begin = performance.now()
    const session = await openSession(options)
    if (typeof options.model === 'string') sessionMs = performance.now() - begin
    return session
  }
  await using engine = await Engine.open({ folder, runtime, slots: SLOTS, contextLength: CONTEXT_LENGTH })
  const loadMs = performance.now() - start
  const run = async (promptTokens: number, newTokens: number): Promise<EndEvent> => {
    for await (const event of engine.generate(await engine.prepare(request(promptTokens, newTokens)))) {
      if (event.type === 'end') return event
    }
    throw new Error('no end event')
  }
  const prefill = async (tokens: number) => {
    const { promptTokens, prefillMs } = await run(tokens, 1)
    return (promptTokens / prefillMs) * 1000
  }
  await run(16, 8)
  const decode = async (sequences: number) => {
    const ends = await Promise.all(Array.from({ length: sequences }, () => run(16, NEW_TOKENS)))
    return ends.reduce((sum, { outputTokens, decodeMs }) => sum + ((outputTokens - 1) / decodeMs) * 1000, 0)
  }
  const speeds = {
    prefill128: await prefill(128),
    prefill512: await prefill(512),
    decode1: await decode(1),
    decode4: await decode(SLOTS),
    pauseMs: await longestPause(() => prefill(1000)),
  }
  const memory = memoryOf()
  return {
    loadMs,
    sessionMs,
    ...speeds,
    privateMb: (memory.anonymous - engine.describe().cacheBytes) / 1e6,
    mappedMb: memory.mapped / 1e6,
    weightBytes: folder.weightBytes,
  }
}

/** A prompt of any text that has this many tokens with its `<bos>`; an end token cannot end the answer early. */
function request(promptTokens: number, newTokens: number): GenerateRequest {
  const words = Array.from({ length: promptTokens - 1 }, () => '<unused1>').join('')
  return { prompt: words, raw: true, maxNewTokens: newTokens, minNewTokens: newTokens, temperature: 0 }
}

/** As one uses it by the book: the portable graph, and each step's `present` tensors as the next step's past. */
async function inferenceSession(folder: ModelFolder): Promise<Figures> {
  const { layers, kvHeads, headSize } = folder.config
  const start = performance.now()
  const session = await InferenceSession.create(folder.portableModel)
  const loadMs = performance.now() - start

  const step = async (ids: readonly number[], past: Record<string, Tensor>, held: number) => {
    const total = held + ids.length
    const results = await session.run({
      ...past,
      input_ids: new Tensor('int64', BigInt64Array.from(ids, BigInt), [1, ids.length]),
      attention_mask: new Tensor('int64', new BigInt64Array(total).fill(1n), [1, total]),
    })
    const logits = results.logits!.data as Float32Array
    const next = Object.fromEntries(
      Object.entries(results)
        .filter(([name]) => name.startsWith('present'))
        .map(([name, tensor]) => [name.replace('present', 'past_key_values'), tensor as Tensor]),
    )
    return { next, best: argmax(logits) }
  }
  const empty = () =>
    Object.fromEntries(
      Array.from({ length: layers }, (_, layer) =>
        ['key', 'value'].map((kind) => [
          `past_key_values.${layer}.${kind}`,
          new Tensor('float32', new Float32Array(0), [1, kvHeads, 0, headSize]),
        ]),
      ).flat(),
    ) as Record<string, Tensor>
  const prefill = async (tokens: number) => {
    const begin = performance.now()
    await step(
      Array.from({ length: tokens }, (_, i) => (i % 200) + 300),
      empty(),
      0,
    )
    return (tokens / (performance.now() - begin)) * 1000
  }
  const decode = async () => {
    let { next, best } = await step(
      Array.from({ length: 16 }, (_, i) => i + 300),
      empty(),
      0,
    )
    const begin = performance.now()
    for (let held = 16; held < 16 + NEW_TOKENS - 1; held++) ({ next, best } = await step([best], next, held))
    return ((NEW_TOKENS - 1) / (performance.now() - begin)) * 1000
  }
  await prefill(16)
  const speeds = { prefill128: await prefill(128), prefill512: await prefill(512), decode1: await decode() }
  const pauseMs = await longestPause(() => prefill(1000))
  const memory = memoryOf()
  return {
    loadMs,
    sessionMs: loadMs,
    ...speeds,
    // One after another: its total is that of one.
    decode4: speeds.decode1,
    pauseMs,
    privateMb: memory.anonymous / 1e6,
    mappedMb: memory.mapped / 1e6,
    weightBytes: folder.weightBytes,
  }
}

/** By a timer of 1 ms: how much later than that it ever came. */
async function longestPause(work: () => Promise<unknown>): Promise<number> {
  let last = performance.now()
  let longest = 0
  const look = () => {
    const now = performance.now()
    longest = Math.max(longest, now - last - 1)
    last = now
  }
  const timer = setInterval(look, 1)
  await work()
  look()
  clearInterval(timer)
  return longest
}

function argmax(values: Float32Array): number {
  let best = 0
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i
  return best
}

const [peer, path] = process.argv.slice(2) as [Peer, string]
const folder = await openModelFolder(path)
const figures = await (peer === 'bezel' ? bezel(folder) : inferenceSession(folder))
process.send?.(figures, () => process.exit(0))
