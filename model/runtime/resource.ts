export interface Held {
  /** Resources that must outlive this one; held until it is freed. */
  readonly uses?: readonly Resource[]
  /** JavaScript memory that C borrowed: referenced until this is freed, so that it is not collected before. */
  readonly borrowed?: ArrayBufferView
}

/**
 * One native handle with one owner: freed exactly once, and not before all that C built on it is freed. Releasing is
 * counted, so the order in which a caller disposes sessions, bindings and tensors does not matter.
 */
export class Resource {
  readonly #free: () => void
  #held: Held | undefined
  #holders = 1

  /** @param free  releases the handle; called once, when the last holder has let go. */
  constructor(free: () => void, held: Held = {}) {
    this.#free = free
    this.#held = held
    for (const resource of held.uses ?? []) resource.hold()
  }

  hold(): void {
    if (this.#holders === 0) throw new Error('A freed native handle was to be used again.')
    this.#holders++
  }

  release(): void {
    if (this.#holders === 0) throw new Error('A native handle was to be freed twice.')
    this.#holders--
    if (this.#holders > 0) return
    this.#free()
    const uses = this.#held?.uses ?? []
    this.#held = undefined
    for (const resource of uses) resource.release()
  }
}
