/** Our engine, as predict.ts uses it. */
import { Engine } from '../../model/engine/engine.js'
import type { EndEvent, GenerateRequest, PreparedRequest } from '../../model/engine/request.js'
import { openModelFolder } from '../../model/folder.js'
import { openRuntime } from '../../model/runtime/runtime.js'
import type { Contestant, ContestantOptions } from './contestant.js'
import { serve } from './serve.js'

/** Ids from here on that are plain pieces in every tokenizer of Gemma's kind. */
const FIRST_ID = 300
const IDS = 1000
/** What the first sequences generate before the last has read its prompt, and more. */
const MORE_TOKENS = 200

async function open(options: ContestantOptions): Promise<Contestant> {
  const { model, threads, sequences, contextLength, batchInvariant, config } = options
  const runtime = await openRuntime({ device: 'cpu', threads })
  const openSession = runtime.openSession.bind(runtime)
  let sessionMs = 0
  runtime.openSession = async (session) => {
    const begin = performance.now()
    const opened = await openSession({ ...session, config: { ...session.config, ...config } })
    if (typeof session.model === 'string') sessionMs = performance.now() - begin
    return opened
  }
  const folder = await openModelFolder(model)
  const engine = await Engine.open({ folder, runtime, slots: sequences, contextLength, batchInvariant })
  let fresh = 0

  const blank: GenerateRequest = { prompt: '', raw: true, maxNewTokens: 1, temperature: 0 }
  /** With a beginning of its own for each `seed`, so that no slot holds a part of it already. */
  const prompt = async (tokens: number, newTokens: number, seed: number): Promise<PreparedRequest> => {
    const { promptIds: beginning, ...prepared } = await engine.prepare(blank)
    const words = Array.from({ length: tokens - beginning.length }, (_, index) => {
      const digit = index < 2 ? Math.floor(seed / IDS ** index) : index
      return FIRST_ID + (digit % IDS)
    })
    const sampling = { ...prepared.sampling, minNewTokens: newTokens }
    return { ...prepared, sampling, promptIds: [...beginning, ...words], maxNewTokens: newTokens }
  }
  const run = async (tokens: number, newTokens: number, seed: number, signal?: AbortSignal): Promise<EndEvent> => {
    for await (const event of engine.generate(await prompt(tokens, newTokens, seed), signal ? { signal } : {})) {
      if (event.type === 'end') return event
    }
    throw new Error('no end event')
  }
  return {
    sessionMs,
    async prefill(tokens) {
      const { promptTokens, cachedTokens, prefillMs } = await run(tokens, 1, ++fresh)
      return ((promptTokens - cachedTokens) / prefillMs) * 1000
    },
    async decode(count, depth, newTokens) {
      // The same prompt each time: at a depth, only the first run should have to read it.
      const seed = IDS ** 2 - count
      // The last to start generates with all others beside it, from its first token to its last, if these have enough to do.
      const others = Array.from({ length: count - 1 }, () => new AbortController())
      const beside = others.map(({ signal }, index) => run(depth, newTokens + MORE_TOKENS, seed + index, signal))
      const { outputTokens, decodeMs } = await run(depth, newTokens, seed + count - 1)
      for (const other of others) other.abort()
      const ends = await Promise.all(beside)
      if (ends.some(({ endedBy }) => endedBy !== 'canceled')) throw new Error('others were through before the last')
      return (count * (outputTokens - 1) * 1000) / decodeMs
    },
  }
}

await serve(open)
