/** How much the last run weighs in the mean of all: about the last ten count. */
const NEWEST_WEIGHT = 0.2

/**
 * What waits for a slot, in the order of arrival, at most `limit` of it; and how fast it moves. It knows no clock.
 */
export class Queue<Entry> {
  readonly limit: number
  // A set keeps the order of arrival, and takes any one out at once.
  readonly #entries = new Set<Entry>()
  #meanRunMs: number | undefined

  /** @param limit 0 or more; 0 takes nothing. */
  constructor(limit: number) {
    this.limit = limit
  }

  get length(): number {
    return this.#entries.size
  }

  /** Puts an entry at the end; false when the queue is full. */
  add(entry: Entry): boolean {
    if (this.#entries.size >= this.limit) return false
    this.#entries.add(entry)
    return true
  }

  /** Takes the entry that has waited longest. */
  take(): Entry | undefined {
    const [first] = this.#entries
    if (first !== undefined) this.#entries.delete(first)
    return first
  }

  /** Takes an entry out, wherever it stands; false if it does not wait. */
  remove(entry: Entry): boolean {
    return this.#entries.delete(entry)
  }

  /** 1 for the next one; undefined for what does not wait. */
  position(entry: Entry): number | undefined {
    let position = 1
    for (const other of this.#entries) {
      if (other === entry) return position
      position++
    }
    return undefined
  }

  /** All that wait, the longest first. */
  *[Symbol.iterator](): IterableIterator<Entry> {
    yield* this.#entries
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
