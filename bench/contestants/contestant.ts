/** What a contestant of bench/engine.ts must be able to do. Each runs in a process of its own. */
export interface Contestant {
  /** Reads a prompt that it has not seen. @returns tokens a second */
  prefill(tokens: number): Promise<number>
  /**
   * Generates for this many sequences at once, each with `depth` tokens before it.
   * @returns tokens a second of all together, while all of them generate
   */
  decode(sequences: number, depth: number, newTokens: number): Promise<number>
  /** From the weights' file to a session that can run, where that can be told from the rest. */
  readonly sessionMs?: number
}

export interface ContestantOptions {
  /** Folder or file. */
  readonly model: string
  readonly threads: number
  /** Most sequences at once. */
  readonly sequences: number
  /** Most tokens of one sequence. */
  readonly contextLength: number
  /** Whether an answer must be the same in any batch, which costs a lone sequence a row. Ours only. */
  readonly batchInvariant: boolean
  /** Session config entries beyond those that the engine sets itself: to try what they do. Ours only. */
  readonly config?: Readonly<Record<string, string>>
}

export type Question =
  | { readonly kind: 'prefill'; readonly tokens: number }
  | { readonly kind: 'decode'; readonly sequences: number; readonly depth: number; readonly newTokens: number }
  | { readonly kind: 'pause'; readonly tokens: number }
  | { readonly kind: 'memory' }

export interface Memory {
  /** Bytes that no file backs, caches included as far as they were touched; and those of mapped files. */
  readonly privateBytes: number
  readonly mappedBytes: number
}

/** Tokens a second, or milliseconds for `pause`. */
export type Answer = { readonly value: number } | { readonly memory: Memory } | { readonly error: string }

export interface Opened {
  /** Until the first token was there: tokenizer and caches included, where a contestant has them. */
  readonly loadMs: number
  /** The weights alone. */
  readonly sessionMs?: number
}

/**
 * Tokens a second of all sequences together, while all of them generate.
 * @param moments  of each token of each sequence, in milliseconds
 */
export function steadyRate(moments: readonly (readonly number[])[]): number {
  const start = Math.max(...moments.map((own) => own[0]!))
  const end = Math.min(...moments.map((own) => own.at(-1)!))
  const tokens = moments.flat().filter((moment) => moment > start && moment <= end).length
  if (tokens < moments.length) throw new Error('the sequences did not generate at the same time')
  return (tokens / (end - start)) * 1000
}
