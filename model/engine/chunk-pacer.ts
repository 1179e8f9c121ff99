export interface ChunkPacerOptions {
  /** Sizes that it may choose from, rising. */
  readonly sizes: readonly number[]
  /** Milliseconds that a chunk should take at most. */
  readonly pauseMs: number
}

/** What the last chunk says counts as much as all before it: chunks get slower with the depth of the prompt, and not by leaps. */
const NEWEST_SHARE = 0.5

/** How many tokens of a prompt to read while streams wait for it, from how long the last ones took. */
export class ChunkPacer {
  readonly #sizes: readonly number[]
  readonly #pauseMs: number
  #tokenMs: number | undefined

  constructor({ sizes, pauseMs }: ChunkPacerOptions) {
    this.#sizes = sizes
    this.#pauseMs = pauseMs
  }

  /** The largest size that will be read in time; the smallest where none will, or where nothing is known yet. */
  get tokens(): number {
    const tokenMs = this.#tokenMs ?? Number.POSITIVE_INFINITY
    return this.#sizes.findLast((size) => size * tokenMs <= this.#pauseMs) ?? this.#sizes[0]!
  }

  /** Notes what a chunk took. Those below the smallest size say more of what a run costs by itself. */
  note({ tokens, ms }: { tokens: number; ms: number }): void {
    if (tokens < this.#sizes[0]!) return
    const newest = ms / tokens
    this.#tokenMs = this.#tokenMs === undefined ? newest : NEWEST_SHARE * newest + (1 - NEWEST_SHARE) * this.#tokenMs
  }
}

/** The unit doubled up to the whole chunk: 16, 32, 64. */
export function chunkSizes({ unitTokens, chunkTokens }: { unitTokens: number; chunkTokens: number }): number[] {
  const sizes: number[] = []
  for (let size = unitTokens; size < chunkTokens; size *= 2) sizes.push(size)
  return [...sizes, chunkTokens]
}
