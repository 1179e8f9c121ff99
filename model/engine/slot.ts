/** What a slot needs to know of the request in it. */
export interface Occupant {
  /** 1 … capacity − 1 */
  readonly promptTokens: number
  /** Ids of prompt and answer; the prompt's are there from the start, and none ever changes. */
  readonly sequence: readonly number[]
}

/**
 * One row of the KV cache. Whether it is free, reads its prompt or generates follows from two facts: occupant and length.
 * What it has read of a prompt it keeps when the request has left, for whoever begins with the same tokens.
 */
export class Slot<R extends Occupant> {
  /** Its row in the cache. */
  readonly index: number
  /** T: tokens that it can hold. */
  readonly capacity: number
  #occupant: R | undefined
  /** Its first `length` ids are what the cache holds. */
  #sequence: readonly number[] = []
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

  /**
   * Tokens from the first on that were read as a prompt. Those of an answer are not among them: decode steps compute them
   * with other kernels, and so with other rounding than a prompt that has the same tokens.
   */
  get promptLength(): number {
    return Math.min(this.#length, this.#occupant?.promptTokens ?? this.#length)
  }

  /** How many tokens of the prompt that it has read a sequence begins with. */
  sharedWith(sequence: readonly number[]): number {
    const most = Math.min(this.promptLength, sequence.length)
    let shared = 0
    while (shared < most && this.#sequence[shared] === sequence[shared]) shared++
    return shared
  }

  /**
   * @param kept  tokens that it holds already of the occupant's prompt, fewer than all; what it holds beyond them is lost.
   * @throws {RangeError} the slot is taken, too small for the prompt and one more token, or holds other tokens.
   */
  take(occupant: R, kept: number): void {
    if (this.#occupant !== undefined) throw new RangeError(`slot ${this.index} is taken`)
    const { promptTokens, sequence } = occupant
    if (promptTokens < 1 || promptTokens >= this.capacity) {
      throw new RangeError(`a prompt of ${promptTokens} tokens does not fit slot ${this.index} of ${this.capacity}`)
    }
    if (kept >= promptTokens || kept > this.sharedWith(sequence)) {
      throw new RangeError(`slot ${this.index} does not hold ${kept} tokens of a prompt of ${promptTokens}`)
    }
    this.#occupant = occupant
    this.#sequence = sequence
    this.#length = kept
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

  /** Its occupant leaves; what was read of the prompt stays. */
  release(): void {
    this.#length = this.promptLength
    this.#occupant = undefined
  }

  /** Forgets what it keeps: the cache may not hold it any more. @throws {RangeError} it is taken. */
  clear(): void {
    if (this.#occupant !== undefined) throw new RangeError(`slot ${this.index} is taken`)
    this.#sequence = []
    this.#length = 0
  }
}
