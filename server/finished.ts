import type { Prediction } from './prediction.js'

export interface FinishedPredictionsOptions {
  /** How long one is kept, in milliseconds; 0 keeps none. */
  readonly keepMs: number
  readonly mostPredictions: number
  /** Most bytes of all of them, about. */
  readonly mostBytes: number
  /** Milliseconds on a clock that never goes back. */
  readonly now: () => number
}

interface Kept {
  readonly prediction: Prediction
  readonly untilMs: number
  readonly bytes: number
}

/** What one event of the history takes beside its text. */
const EVENT_BYTES = 150

/**
 * Predictions that have ended, for clients that ask later: each for a time, all within a number and a size. The oldest goes
 * first. It has no timer: what is over its time goes when something is added or asked for.
 */
export class FinishedPredictions {
  readonly #options: FinishedPredictionsOptions
  /** By id, the oldest first. */
  readonly #kept = new Map<string, Kept>()
  #bytes = 0

  constructor(options: FinishedPredictionsOptions) {
    this.#options = options
  }

  get bytes(): number {
    return this.#bytes
  }

  /** Keeps a prediction that has ended, in place of an older one with its id. */
  add(prediction: Prediction): void {
    const { keepMs, mostBytes, mostPredictions, now } = this.#options
    this.#drop(prediction.id)
    if (keepMs === 0) return
    // Two bytes a character at most; the events share the texts of the output.
    const bytes = 2 * JSON.stringify(prediction.progress()).length + EVENT_BYTES * prediction.eventsKept
    if (bytes > mostBytes) return
    this.#kept.set(prediction.id, { prediction, untilMs: now() + keepMs, bytes })
    this.#bytes += bytes
    this.#dropStale()
    for (const id of this.#kept.keys()) {
      if (this.#kept.size <= mostPredictions && this.#bytes <= mostBytes) return
      this.#drop(id)
    }
  }

  find(id: string): Prediction | undefined {
    this.#dropStale()
    return this.#kept.get(id)?.prediction
  }

  #dropStale(): void {
    const now = this.#options.now()
    for (const [id, { untilMs }] of this.#kept) {
      if (untilMs > now) return
      this.#drop(id)
    }
  }

  #drop(id: string): void {
    const kept = this.#kept.get(id)
    if (!kept) return
    this.#kept.delete(id)
    this.#bytes -= kept.bytes
  }
}
