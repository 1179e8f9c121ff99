import { type Occupant, Slot } from './slot.js'

/** Reads the next part of one slot's prompt. */
export interface PrefillStep<R extends Occupant> {
  readonly kind: 'prefill'
  readonly slot: Slot<R>
  /** S: tokens from slot.length on. */
  readonly tokens: number
  /** Whether the prompt ends with it, so that the first token can be sampled. */
  readonly last: boolean
}

/** Neighbouring rows of the cache that are run as one batch. */
export interface Window<R extends Occupant> {
  /** First row of the cache. */
  readonly first: number
  /** B: rows, of which the idle ones are computed for nothing. */
  readonly rows: number
  /** The slots that decode, by index. */
  readonly slots: readonly Slot<R>[]
}

/** One more token for every slot that generates. */
export interface DecodeStep<R extends Occupant> {
  readonly kind: 'decode'
  readonly windows: readonly Window<R>[]
}

export type Step<R extends Occupant> = PrefillStep<R> | DecodeStep<R>

/** The requests that a step is for. */
export function occupantsOf<R extends Occupant>(step: Step<R>): R[] {
  const slots = step.kind === 'prefill' ? [step.slot] : step.windows.flatMap((window) => window.slots)
  return slots.flatMap((slot) => slot.occupant ?? [])
}

export interface SchedulerOptions {
  readonly slots: number
  /** T */
  readonly slotTokens: number
  /** Most tokens of one prefill step; at least 3. */
  readonly chunkTokens: number
  /** Idle rows between two slots that it is cheaper to compute than to begin another run for. */
  readonly maxIdleRows: number
  /** The row counts that a decode step may have, rising up to all slots; its rows then begin with the first. By default any. */
  readonly batchSizes?: readonly number[] | undefined
}

/**
 * Decides what runs next, from lengths and states alone. Requests get slots in the order in which they came; one prompt is
 * read at a time, in that order too, and between two of its chunks every slot that generates gets a token.
 */
export class Scheduler<R extends Occupant> {
  readonly slots: readonly Slot<R>[]
  readonly #chunkTokens: number
  readonly #maxIdleRows: number
  readonly #batchSizes: readonly number[] | undefined
  #waiting: R[] = []
  /** Slots that read their prompts, in the order in which they were taken. */
  #reading: Slot<R>[] = []
  #lastKind: Step<R>['kind'] = 'decode'

  /** @throws {RangeError} chunkTokens is less than 3. */
  constructor(options: SchedulerOptions) {
    if (!(options.chunkTokens >= 3)) throw new RangeError(`chunkTokens is ${options.chunkTokens}; it must be 3 or more`)
    this.slots = Array.from({ length: options.slots }, (_, index) => new Slot<R>(index, options.slotTokens))
    this.#chunkTokens = options.chunkTokens
    this.#maxIdleRows = options.maxIdleRows
    this.#batchSizes = options.batchSizes
  }

  /** Requests that no slot was free for. */
  get waiting(): number {
    return this.#waiting.length
  }

  add(request: R): void {
    this.#waiting.push(request)
  }

  /** Takes a request out, wherever it is; its slot is free at once. Not to be called for a slot whose step is running. */
  remove(request: R): void {
    this.#waiting = this.#waiting.filter((other) => other !== request)
    this.#reading = this.#reading.filter((slot) => slot.occupant !== request)
    this.slots.find((slot) => slot.occupant === request)?.release()
  }

  /**
   * @param taken  is called for each request that gets a slot now.
   * @returns what to run, or undefined while there is nothing to do.
   */
  next(taken?: (request: R) => void): Step<R> | undefined {
    this.#fillSlots(taken)
    const decoding = this.slots.filter((slot) => slot.state === 'decode')
    const reading = this.#reading[0]
    const step =
      reading !== undefined && (decoding.length === 0 || this.#lastKind === 'decode')
        ? this.#prefill(reading)
        : this.#decode(decoding)
    if (step !== undefined) this.#lastKind = step.kind
    return step
  }

  /** Notes that a step was run: its tokens are in the cache now. */
  advance(step: Step<R>): void {
    if (step.kind === 'prefill') {
      step.slot.advance(step.tokens)
      if (step.last) this.#reading = this.#reading.filter((slot) => slot !== step.slot)
    } else {
      for (const { slots } of step.windows) for (const slot of slots) slot.advance(1)
    }
  }

  #fillSlots(taken?: (request: R) => void): void {
    for (const slot of this.slots) {
      if (slot.state !== 'free') continue
      const request = this.#waiting.shift()
      if (request === undefined) return
      slot.take(request)
      this.#reading.push(slot)
      taken?.(request)
    }
  }

  #prefill(slot: Slot<R>): PrefillStep<R> {
    const rest = slot.occupant!.promptTokens - slot.length
    // A single token takes the attention kernel of decode steps, which rounds otherwise: an answer would depend on how its
    // prompt was cut. So no prompt ends in a chunk of one.
    const tokens = rest === this.#chunkTokens + 1 ? rest - 2 : Math.min(rest, this.#chunkTokens)
    return { kind: 'prefill', slot, tokens, last: tokens === rest }
  }

  #decode(decoding: readonly Slot<R>[]): DecodeStep<R> | undefined {
    if (decoding.length === 0) return undefined
    if (this.#batchSizes !== undefined) {
      const rows = this.#batchSizes.find((size) => size > decoding.at(-1)!.index)!
      return { kind: 'decode', windows: [{ first: 0, rows, slots: decoding }] }
    }
    const groups: Slot<R>[][] = []
    for (const slot of decoding) {
      const last = groups.at(-1)?.at(-1)
      if (last !== undefined && slot.index - last.index - 1 <= this.#maxIdleRows) groups.at(-1)!.push(slot)
      else groups.push([slot])
    }
    const windows = groups.map((slots) => {
      const first = slots[0]!.index
      return { first, rows: slots.at(-1)!.index - first + 1, slots }
    })
    return { kind: 'decode', windows }
  }
}
