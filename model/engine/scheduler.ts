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

/** Copies what another slot has read of the same prompt. */
export interface CopyStep<R extends Occupant> {
  readonly kind: 'copy'
  readonly from: Slot<R>
  readonly slot: Slot<R>
  /** How many, from slot.length on, at the same places in both. */
  readonly tokens: number
}

export type Step<R extends Occupant> = PrefillStep<R> | DecodeStep<R> | CopyStep<R>

/** The requests that a step is for. */
export function occupantsOf<R extends Occupant>(step: Step<R>): R[] {
  const slots = step.kind === 'decode' ? step.windows.flatMap((window) => window.slots) : [step.slot]
  return slots.flatMap((slot) => slot.occupant ?? [])
}

export interface SchedulerOptions {
  readonly slots: number
  /** T */
  readonly slotTokens: number
  /** Most tokens of one prefill step; none crosses a multiple of it. */
  readonly chunkTokens: number
  /** Divides chunkTokens. What is reused of a prompt is a multiple of it, and every chunk but a prompt's last. */
  readonly unitTokens: number
  /** Idle rows between two slots that it is cheaper to compute than to begin another run for. */
  readonly maxIdleRows: number
  /** Rows of a decode step are even in number; where the slots are not, the cache has one row more. */
  readonly evenRows?: boolean
  /** The row counts that a decode step may have, rising up to all slots; its rows then begin with the first. By default any. */
  readonly batchSizes?: readonly number[] | undefined
}

export interface NextOptions<R extends Occupant> {
  /** Is called for each request that gets a slot now, with the tokens of its prompt that the slot holds already. */
  readonly taken?: (request: R, kept: number) => void
  /** Most tokens to read while others generate: a multiple of unitTokens; by default chunkTokens. */
  readonly busyChunkTokens?: number
}

/**
 * Decides what runs next, from lengths, states and ids alone. Requests get slots in the order in which they came; one prompt
 * is read at a time, in that order too, and between two of its chunks every slot that generates gets a token.
 *
 * What slots have read of prompts is reused. A request that goes on from all that a free slot keeps gets that slot; any other
 * gets the one that has been unused the longest. What another slot, free or not, has of its prompt beyond that is copied:
 * when it gets its slot, and when it is its turn to read, since those before it may have read the same meanwhile.
 */
export class Scheduler<R extends Occupant> {
  readonly slots: readonly Slot<R>[]
  readonly #chunkTokens: number
  readonly #unitTokens: number
  readonly #maxIdleRows: number
  readonly #evenRows: boolean
  readonly #batchSizes: readonly number[] | undefined
  #waiting: R[] = []
  /** Slots that read their prompts, in the order in which they were taken. */
  #reading: Slot<R>[] = []
  #lastKind: Step<R>['kind'] = 'decode'
  /** Slots that keep something and that nobody uses, longest unused first. */
  #unused: Slot<R>[] = []

  /** @throws {RangeError} unitTokens does not divide chunkTokens. */
  constructor(options: SchedulerOptions) {
    const { chunkTokens, unitTokens } = options
    if (!(unitTokens >= 1) || chunkTokens % unitTokens !== 0) {
      throw new RangeError(`chunkTokens is ${chunkTokens}; it must be a multiple of ${unitTokens}`)
    }
    this.slots = Array.from({ length: options.slots }, (_, index) => new Slot<R>(index, options.slotTokens))
    this.#chunkTokens = chunkTokens
    this.#unitTokens = unitTokens
    this.#maxIdleRows = options.maxIdleRows
    this.#evenRows = options.evenRows ?? false
    this.#batchSizes = options.batchSizes
  }

  /** Requests that no slot was free for. */
  get waiting(): number {
    return this.#waiting.length
  }

  add(request: R): void {
    this.#waiting.push(request)
  }

  /**
   * Takes a request out, wherever it is; its slot is free at once, and keeps what it has read of the prompt. Not to be called
   * for a slot whose step is running.
   */
  remove(request: R): void {
    this.#waiting = this.#waiting.filter((other) => other !== request)
    this.#reading = this.#reading.filter((slot) => slot.occupant !== request)
    const slot = this.slots.find((slot) => slot.occupant === request)
    if (slot === undefined) return
    slot.release()
    if (slot.length > 0) this.#unused.push(slot)
  }

  /** As `remove`, where what the slot holds is not to be trusted: a step of it has failed. */
  discard(request: R): void {
    const slot = this.slots.find((slot) => slot.occupant === request)
    this.remove(request)
    slot?.clear()
    this.#unused = this.#unused.filter((other) => other !== slot)
  }

  /** Forgets what free slots keep: after a fault nobody knows what is in the cache. */
  forget(): void {
    for (const slot of this.slots) if (slot.state === 'free') slot.clear()
    this.#unused = []
  }

  /** @returns what to run, or undefined while there is nothing to do. */
  next({ taken, busyChunkTokens = this.#chunkTokens }: NextOptions<R> = {}): Step<R> | undefined {
    const copy = this.#fillSlots(taken)
    if (copy !== undefined) return copy
    const decoding = this.slots.filter((slot) => slot.state === 'decode')
    const reading = this.#reading[0]
    if (reading === undefined || (decoding.length > 0 && this.#lastKind !== 'decode')) return this.#decode(decoding)
    return this.#copy(reading) ?? this.#prefill(reading, decoding.length > 0 ? busyChunkTokens : this.#chunkTokens)
  }

  /** Notes that a step was run: its tokens are in the cache now. */
  advance(step: Step<R>): void {
    if (step.kind === 'decode') {
      for (const { slots } of step.windows) for (const slot of slots) slot.advance(1)
    } else {
      step.slot.advance(step.tokens)
      if (step.kind === 'copy') this.#use(step.from)
      if (step.slot.state === 'decode') this.#reading = this.#reading.filter((slot) => slot !== step.slot)
    }
    // A copy is no chunk: who generates need not wait for another token because of it.
    if (step.kind !== 'copy') this.#lastKind = step.kind
  }

  #fillSlots(taken?: (request: R, kept: number) => void): CopyStep<R> | undefined {
    for (;;) {
      const request = this.#waiting[0]
      const place = request && this.#place(request)
      if (place === undefined) return undefined
      const { slot, kept } = place
      this.#waiting.shift()
      this.#unused = this.#unused.filter((other) => other !== slot)
      slot.take(request!, kept)
      this.#reading.push(slot)
      taken?.(request!, kept)
      // At once: before the slot that it is copied from may be the next one's.
      const copy = this.#copy(slot)
      if (copy !== undefined) return copy
    }
  }

  /** The free slot that a request is to have, and what it keeps there of its prompt. */
  #place(request: R): { slot: Slot<R>; kept: number } | undefined {
    const free = this.slots.filter((slot) => slot.state === 'free')
    const places = free.map((slot) => ({ slot, kept: this.#shared(slot, request) }))
    const continued = places
      .filter(({ slot, kept }) => kept > 0 && kept === this.#whole(slot.length))
      .reduce<(typeof places)[number] | undefined>(
        (best, one) => (one.kept > (best?.kept ?? 0) ? one : best),
        undefined,
      )
    if (continued !== undefined) return continued
    const empty = places.find(({ slot }) => !this.#unused.includes(slot))
    return empty ?? places.find(({ slot }) => slot === this.#unused[0])
  }

  /** What another slot holds of this one's prompt, where that is more than it has itself. */
  #copy(slot: Slot<R>): CopyStep<R> | undefined {
    let best: CopyStep<R> | undefined
    for (const from of this.slots) {
      if (from === slot) continue
      const tokens = this.#shared(from, slot.occupant!) - slot.length
      if (tokens > (best?.tokens ?? 0)) best = { kind: 'copy', from, slot, tokens }
    }
    return best
  }

  /** Tokens that a slot has read and a request can use: at least one of its prompt is left, which gives the first logits. */
  #shared(slot: Slot<R>, request: R): number {
    return this.#whole(Math.min(slot.sharedWith(request.sequence), request.promptTokens - 1))
  }

  /** Of so many tokens those whose keys and values do not depend on where the prompt ended. */
  #whole(tokens: number): number {
    return tokens - (tokens % this.#unitTokens)
  }

  #use(slot: Slot<R>): void {
    if (!this.#unused.includes(slot)) return
    this.#unused = this.#unused.filter((other) => other !== slot)
    this.#unused.push(slot)
  }

  #prefill(slot: Slot<R>, mostTokens: number): PrefillStep<R> {
    const { length } = slot
    const { promptTokens } = slot.occupant!
    const border = length - (length % this.#chunkTokens) + this.#chunkTokens
    const end = Math.min(promptTokens, border, length + mostTokens)
    return { kind: 'prefill', slot, tokens: end - length, last: end === promptTokens }
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
      const window = { first, rows: slots.at(-1)!.index - first + 1, slots }
      return this.#evenRows ? this.#evened(window) : window
    })
    return { kind: 'decode', windows }
  }

  /** The window with one row more where it is odd: the neighbour that holds less, since an idle row attends to what it holds. */
  #evened(window: Window<R>): Window<R> {
    const { first, rows } = window
    if (rows % 2 === 0) return window
    const after = this.slots[first + rows]
    const before = this.slots[first - 1]
    if (before !== undefined && (after === undefined || before.length < after.length)) {
      return { ...window, first: first - 1, rows: rows + 1 }
    }
    return { ...window, rows: rows + 1 }
  }
}
