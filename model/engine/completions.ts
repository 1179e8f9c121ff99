import type { Engine } from './engine.js'
import type { GenerateEvent, PreparedRequest } from './request.js'

/** An event of one of several completions. */
export interface CompletionEvent {
  /** 0 … count − 1 */
  readonly index: number
  readonly event: GenerateEvent
}

export interface CompletionsOptions {
  /** How many; at least 1. */
  readonly count: number
  readonly signal?: AbortSignal
}

type Next = CompletionEvent | { readonly index: number; readonly event?: never }

/**
 * Generates several answers to one prompt, which is read once: the first reads it, each other copies its keys and values, but
 * for the last few tokens, which give it logits of its own. The i-th has the seed plus i, and is what a request with that
 * seed gets alone. They take a slot each, and wait for one as any request does.
 *
 * @returns the events of all as they come; each completion's end event says what it took.
 * @throws {RangeError} count is not 1 or more.
 * @throws what `engine.generate` throws, for the first that fails; the others are canceled.
 */
export async function* generateCompletions(
  engine: Engine,
  prepared: PreparedRequest,
  { count, signal }: CompletionsOptions,
): AsyncGenerator<CompletionEvent, void, undefined> {
  if (!Number.isInteger(count) || count < 1) throw new RangeError(`count is ${count}; it must be an integer from 1.`)
  const leaving = new AbortController()
  const signals = signal ? AbortSignal.any([signal, leaving.signal]) : leaving.signal
  const streams = Array.from({ length: count }, (_, index) => {
    const sampling = { ...prepared.sampling, seed: seedOf(prepared.sampling.seed, index) }
    return engine.generate({ ...prepared, sampling }, { signal: signals })
  })
  const ask = async (index: number): Promise<Next> => {
    const { value } = await streams[index]!.next()
    return value ? { index, event: value } : { index }
  }
  // Asked for in order, and so queued in order.
  const asked = new Map(streams.map((_, index) => [index, ask(index)]))
  try {
    while (asked.size > 0) {
      const { index, event } = await Promise.race(asked.values())
      if (event === undefined) asked.delete(index)
      else {
        asked.set(index, ask(index))
        yield { index, event }
      }
    }
  } finally {
    leaving.abort()
    await Promise.allSettled(asked.values())
    await Promise.allSettled(streams.map((stream) => stream.return()))
  }
}

/** seed + index, where that is still a number that a double holds exactly; else it goes on from 0. */
function seedOf(seed: number, index: number): number {
  const room = Number.MAX_SAFE_INTEGER - seed
  return index <= room ? seed + index : index - room - 1
}
