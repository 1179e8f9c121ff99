/** What of a pushed text may go out, and whether a stop string ended it. */
export interface StopResult {
  readonly text: string
  readonly stopped: boolean
}

/**
 * Looks for stop strings in a text that comes in pieces. What may yet become one is held back; the first to be complete
 * ends the text before its own first character. The result does not depend on how the text was cut.
 */
export class StopMatcher {
  readonly #stops: readonly string[]
  #held = ''

  /** @param stops  none empty; no stop strings at all is fine, and holds nothing back. */
  constructor(stops: readonly string[]) {
    this.#stops = stops
  }

  /** Not to be called again once it has said `stopped`. */
  push(text: string): StopResult {
    const buffer = this.#held + text
    const match = this.#firstComplete(buffer)
    if (match !== undefined) {
      this.#held = ''
      return { text: buffer.slice(0, match.start), stopped: true }
    }
    const held = this.#heldLength(buffer)
    this.#held = buffer.slice(buffer.length - held)
    return { text: buffer.slice(0, buffer.length - held), stopped: false }
  }

  /** @returns what was held back and has become no stop string. */
  flush(): string {
    const text = this.#held
    this.#held = ''
    return text
  }

  /** The match that ends first; of several that end there, the longest, so that no part of one goes out. */
  #firstComplete(buffer: string): { start: number; end: number } | undefined {
    let first: { start: number; end: number } | undefined
    for (const stop of this.#stops) {
      const start = buffer.indexOf(stop)
      if (start < 0) continue
      const end = start + stop.length
      if (first === undefined || end < first.end || (end === first.end && start < first.start)) first = { start, end }
    }
    return first
  }

  /** Length of the longest end of the buffer with which a stop string begins. */
  #heldLength(buffer: string): number {
    const longest = Math.max(0, ...this.#stops.map((stop) => stop.length - 1))
    for (let length = Math.min(longest, buffer.length); length > 0; length--) {
      const end = buffer.slice(buffer.length - length)
      if (this.#stops.some((stop) => stop.startsWith(end))) return length
    }
    return 0
  }
}
