import { costOf } from './cost.js'
import type { LogSource, MetricMode } from './predictor.js'

export type PredictionStatus = 'starting' | 'processing' | 'succeeded' | 'failed' | 'canceled'

/** What happened to a prediction, in the words of Cog's event streams. */
export type PredictionEvent =
  | { readonly name: 'start'; readonly data: { readonly id: string; readonly status: 'processing' } }
  | { readonly name: 'output'; readonly data: { readonly chunk: unknown; readonly index: number } }
  | { readonly name: 'log'; readonly data: { readonly data: string; readonly source: LogSource } }
  | {
      readonly name: 'metric'
      readonly data: { readonly mode: MetricMode; readonly name: string; readonly value: unknown }
    }
  | { readonly name: 'completed'; readonly data: PredictionBody }

/** A prediction as streams and answers carry it. Fields without a value are absent. */
export interface PredictionBody {
  readonly error?: string
  readonly id: string
  readonly input?: Readonly<Record<string, unknown>>
  readonly logs: string
  readonly metrics: Readonly<Record<string, unknown>>
  readonly output?: unknown
  readonly status: PredictionStatus
}

export interface PredictionOptions {
  readonly id: string
  readonly input: Readonly<Record<string, unknown>>
  /** Whether `output` is a list of pieces rather than one value. */
  readonly iterator: boolean
  readonly dollarsPerSecond: number
  /** How many of the last events are kept for readers that come later; with 0 they get only what comes from then on. */
  readonly historyLimit: number
  /** Whether it may have to wait: then `queue_time` is among its metrics. */
  readonly queue?: boolean
  /** Milliseconds on a clock that never goes back. */
  readonly now: () => number
}

/**
 * The life of one prediction: starting → processing → succeeded, failed or canceled. It knows neither HTTP nor timers.
 *
 * All that happens is an event, numbered from 0 in the order of happening; streams follow from the events alone. A
 * final state is final: what comes after it is ignored. Listeners are called in turn, at once, and must not throw.
 */
export class Prediction {
  readonly id: string
  readonly input: Readonly<Record<string, unknown>>
  /** Resolves when the final state is reached; never rejects. */
  readonly ended: Promise<void>

  #status: PredictionStatus = 'starting'
  #error: string | undefined
  #logs = ''
  #output: unknown
  #chunks: unknown[] = []
  readonly #metrics: Record<string, unknown> = Object.create(null)
  #events: PredictionEvent[] = []
  #eventsDropped = 0
  readonly #listeners = new Set<(event: PredictionEvent) => void>()
  readonly #options: PredictionOptions
  readonly #createdAt: number
  /** Undefined while it waits for a slot. */
  #startedAt: number | undefined
  #end!: () => void

  constructor(options: PredictionOptions) {
    this.id = options.id
    this.input = options.input
    this.#options = options
    this.#createdAt = options.now()
    this.ended = new Promise((resolve) => {
      this.#end = resolve
    })
  }

  get status(): PredictionStatus {
    return this.#status
  }

  get isFinal(): boolean {
    return this.#status !== 'starting' && this.#status !== 'processing'
  }

  /** How many events are kept for readers that come later. */
  get eventsKept(): number {
    return this.#events.length
  }

  /** Marks the moment from which time is paid for: a slot is taken and the worker has the input. */
  begin(): void {
    this.#startedAt = this.#options.now()
  }

  /** Milliseconds since then; 0 before. */
  get runMs(): number {
    return this.#startedAt === undefined ? 0 : this.#options.now() - this.#startedAt
  }

  /** Milliseconds from its creation to that moment; 0 before. */
  get waitedMs(): number {
    return this.#startedAt === undefined ? 0 : this.#startedAt - this.#createdAt
  }

  /** The worker has accepted the input. */
  start(): void {
    if (this.#status !== 'starting') return
    this.#status = 'processing'
    this.#emit({ name: 'start', data: { id: this.id, status: 'processing' } })
  }

  /** A piece of a stream, or the one value of a prediction that returns a value. */
  addOutput(chunk: unknown): void {
    if (this.isFinal) return
    if (this.#options.iterator) this.#chunks.push(chunk)
    else this.#output = chunk
    this.#emit({ name: 'output', data: { chunk, index: this.#options.iterator ? this.#chunks.length - 1 : 0 } })
  }

  /** @param data whole lines, each with its line feed. */
  addLog(data: string, source: LogSource): void {
    if (this.isFinal) return
    this.#logs += data
    this.#emit({ name: 'log', data: { data, source } })
  }

  addMetric(name: string, value: unknown, mode: MetricMode): void {
    if (this.isFinal) return
    recordMetric(this.#metrics, name, { value, mode })
    this.#emit({ name: 'metric', data: { mode, name, value } })
  }

  succeed(): void {
    // A generator that yields nothing has an empty list as output, not none.
    if (this.#options.iterator && !this.isFinal) this.#output = this.#chunks
    this.#finish('succeeded')
  }

  fail(error: string): void {
    if (!this.isFinal) this.#error = error
    this.#finish('failed')
  }

  /** @param reason for the client who did not ask for it, such as a deadline. */
  cancel(reason?: string): void {
    if (reason !== undefined && !this.isFinal) this.#error = reason
    this.#finish('canceled')
  }

  /**
   * Calls `listener` for every event from now on.
   *
   * @param after number of the last event that is known already; −1 is none.
   * @returns the events after it so far, how many of those are gone, the number of the first that is there or comes next,
   *   and a function that ends the subscription.
   */
  subscribe(
    listener: (event: PredictionEvent) => void,
    after = -1,
  ): {
    readonly events: readonly PredictionEvent[]
    readonly dropped: number
    readonly next: number
    readonly unsubscribe: () => void
  } {
    this.#listeners.add(listener)
    const first = this.#eventsDropped
    // As Cog does: who asks for no event by its number misses none where none is kept. But of an end there is nothing to come.
    const expected = this.#options.historyLimit === 0 && after < 0 && !this.isFinal ? first : after + 1
    const next = Math.min(Math.max(after + 1, first), first + this.#events.length)
    return {
      events: this.#events.slice(next - first),
      dropped: Math.max(0, first - expected),
      next,
      unsubscribe: () => this.#listeners.delete(listener),
    }
  }

  /** The whole prediction without `input`, keys in alphabetical order. */
  body(): PredictionBody {
    const output = this.#options.iterator && this.#chunks.length > 0 ? this.#chunks : this.#output
    return {
      ...(this.#error !== undefined && { error: this.#error }),
      id: this.id,
      logs: this.#logs,
      metrics: this.#metrics,
      ...(output !== undefined && { output }),
      status: this.#status,
    }
  }

  /** What a client that waited is answered. As Cog does: no output and no logs unless it succeeded. */
  answer(): PredictionBody {
    const { output, ...body } = this.body()
    return this.#status === 'succeeded' ? { ...body, output } : { ...body, logs: '' }
  }

  /** What a client is answered that asks for a running prediction. Only here does Cog tell the input. */
  progress(): PredictionBody {
    return { ...this.body(), input: this.input }
  }

  #finish(status: 'succeeded' | 'failed' | 'canceled'): void {
    if (this.isFinal) return
    this.#status = status
    const endedAt = this.#options.now()
    const startedAt = this.#startedAt ?? endedAt
    const predictTime = seconds(endedAt - startedAt)
    // Last, so that no metric of the Predictor's can stand in their place.
    this.#metrics.predict_time = predictTime
    if (this.#options.queue) this.#metrics.queue_time = seconds(startedAt - this.#createdAt)
    this.#metrics.total_time = seconds(endedAt - this.#createdAt)
    this.#metrics.cost = costOf(predictTime, this.#options.dollarsPerSecond)
    this.#emit({ name: 'completed', data: this.body() })
    this.#end()
    this.#listeners.clear()
  }

  #emit(event: PredictionEvent): void {
    this.#events.push(event)
    if (this.#events.length > this.#options.historyLimit) {
      this.#events.shift()
      this.#eventsDropped++
    }
    for (const listener of this.#listeners) listener(event)
  }
}

/** Milliseconds → seconds, to the microsecond. */
function seconds(ms: number): number {
  return Math.round(ms * 1000) / 1e6
}

/** Joins one recording to the metrics, as Cog does: `a.b` is `b` in the object `a`; null deletes. */
function recordMetric(
  metrics: Record<string, unknown>,
  name: string,
  { value, mode }: { readonly value: unknown; readonly mode: MetricMode },
): void {
  const keys = name.split('.')
  const last = keys.pop()!
  let owner = metrics
  for (const key of keys) {
    // Objects without a prototype, so that a name such as __proto__ is a name like any other.
    if (!isRecord(owner[key])) owner[key] = Object.create(null)
    owner = owner[key] as Record<string, unknown>
  }
  const before = owner[last]
  if (mode === 'increment') owner[last] = (typeof before === 'number' ? before : 0) + Number(value)
  else if (mode === 'append') owner[last] = Array.isArray(before) ? [...before, value] : [value]
  else if (value === null) delete owner[last]
  else owner[last] = value
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
