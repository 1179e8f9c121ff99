/** How much the last run weighs in the mean of all: about the last ten count. */
const NEWEST_WEIGHT = 0.2

/**
 * What waits for a slot, in the order of arrival, at most `limit` of it and `mostBytes` in all; and how fast it moves. It knows no clock.
 */
export class Queue<Entry> {
  readonly limit: number
  readonly mostBytes: number
  // A map keeps the order of arrival, and takes any one out at once. The values are their bytes.
  readonly #entries = new Map<Entry, number>()
  #bytes = 0
  #meanRunMs: number | undefined

  /** @param limit 0 or more; 0 takes nothing. @param mostBytes of all entries together. */
  constructor(limit: number, mostBytes = Number.POSITIVE_INFINITY) {
    this.limit = limit
    this.mostBytes = mostBytes
  }

  get length(): number {
    return this.#entries.size
  }

  /** Whether an entry of so many bytes would be within the second bound. */
  fits(bytes: number): boolean {
    return this.#bytes + bytes <= this.mostBytes
  }

  /** Puts an entry at the end; false when the queue is full. */
  add(entry: Entry, bytes = 0): boolean {
    if (this.#entries.size >= this.limit || !this.fits(bytes)) return false
    this.#entries.set(entry, bytes)
    this.#bytes += bytes
    return true
  }

  /** Takes the entry that has waited longest. */
  take(): Entry | undefined {
    const [first] = this.#entries.keys()
    if (first !== undefined) this.remove(first)
    return first
  }

  /** Takes an entry out, wherever it stands; false if it does not wait. */
  remove(entry: Entry): boolean {
    this.#bytes -= this.#entries.get(entry) ?? 0
    return this.#entries.delete(entry)
  }

  /** 1 for the next one; undefined for what does not wait. */
  position(entry: Entry): number | undefined {
    let position = 1
    for (const other of this.#entries.keys()) {
      if (other === entry) return position
      position++
    }
    return undefined
  }

  /** All that wait, the longest first. */
  *[Symbol.iterator](): IterableIterator<Entry> {
    yield* this.#entries.keys()
  }

  /** Tells how long a run took, for estimates. */
  recordRun(durationMs: number): void {
    const mean = this.#meanRunMs ?? durationMs
    this.#meanRunMs = mean + NEWEST_WEIGHT * (durationMs - mean)
  }

  /**
   * How long whoever stands at `position` has yet to wait, if runs go on to take what they took and all `slots` are taken.
   *
   * @returns milliseconds; undefined before the first run is over.
   */
  estimateMs(position: number, slots: number): number | undefined {
    return this.#meanRunMs === undefined ? undefined : (position * this.#meanRunMs) / slots
  }
}
