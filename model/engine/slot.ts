/** What a slot needs to know of the request in it. */
export interface Occupant {
  /** 1 … capacity − 1 */
  readonly promptTokens: number
}

/** One row of the KV cache. Whether it is free, reads its prompt or generates follows from two facts: occupant and length. */
export class Slot<R extends Occupant> {
  /** Its row in the cache. */
  readonly index: number
  /** T: tokens that it can hold. */
  readonly capacity: number
  #occupant: R | undefined
  #length = 0

  constructor(index: number, capacity: number) {
    this.index = index
    this.capacity = capacity
  }

  get occupant(): R | undefined {
    return this.#occupant
  }

  /**
   * Tokens whose keys and values are in the cache, 0 … T − 1. A step writes the row of this number next, also that of a
   * slot which only lies between two that decode: what is there is not yet anybody's.
   */
  get length(): number {
    return this.#length
  }

  get state(): 'free' | 'prefill' | 'decode' {
    if (this.#occupant === undefined) return 'free'
    return this.#length < this.#occupant.promptTokens ? 'prefill' : 'decode'
  }

  /** @throws {RangeError} the slot is taken, or too small for the prompt and one more token. */
  take(occupant: R): void {
    if (this.#occupant !== undefined) throw new RangeError(`slot ${this.index} is taken`)
    const { promptTokens } = occupant
    if (promptTokens < 1 || promptTokens >= this.capacity) {
      throw new RangeError(`a prompt of ${promptTokens} tokens does not fit slot ${this.index} of ${this.capacity}`)
    }
    this.#occupant = occupant
    // Prefix reuse would begin here: with the length of what both sequences share.
    this.#length = 0
  }

  /** @param tokens  how many more the cache holds after a step. */
  advance(tokens: number): void {
    if (this.#occupant === undefined || this.#length + tokens >= this.capacity) {
      throw new RangeError(
        `slot ${this.index} (${this.state}) cannot go from ${this.#length} to ${this.#length + tokens}`,
      )
    }
    this.#length += tokens
  }

  release(): void {
    this.#occupant = undefined
    this.#length = 0
  }
}
