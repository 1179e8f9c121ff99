import { randomBytes } from 'node:crypto'
import type { Logger } from 'pino'
import { fill, PREDICTION_ERRORS, ServerError } from './errors.js'
import type { OpenApiDocument, ReadyMessage, RunEvent, ToWorker, Worker, WorkerEvent } from './messages.js'
import { Prediction } from './prediction.js'
import type { SetupProgress } from './predictor.js'
import { checkInput } from './validation.js'

/** Runs `action` after `ms` unless canceled; `refresh` begins the wait anew. Replaced in tests. */
export type Schedule = (ms: number, action: () => void) => { cancel(): void; refresh(): void }

export interface ServiceOptions {
  readonly worker: Worker
  /** Which Predictor the worker is to host: an absolute path, the name it is exported by, and how many run at once. */
  readonly predictor: { readonly file: string; readonly name: string; readonly concurrency: number }
  readonly dollarsPerSecond: number
  readonly log: Logger
  readonly schedule: Schedule
  /** Milliseconds on a clock that never goes back. */
  readonly now: () => number
  readonly onProgress?: (report: SetupProgress) => void
}

export type ServiceStatus = 'STARTING' | 'READY' | 'BUSY' | 'SETUP_FAILED' | 'DEFUNCT'

/** What GET /health-check tells. */
export interface Health {
  readonly status: ServiceStatus | 'UNHEALTHY'
  readonly setup: Setup
  /** Why the Predictor's own `healthcheck` calls it unhealthy. */
  readonly healthcheckError?: string
}

export interface Setup {
  readonly startedAt: Date
  readonly completedAt?: Date
  readonly status: 'starting' | 'succeeded' | 'failed'
  readonly logs: string
}

export interface NewPrediction {
  /** Drawn if absent. */
  readonly id: string | undefined
  /** As it was sent: not yet validated. */
  readonly input: unknown
  readonly context: Readonly<Record<string, string>>
  /** Fires when the client is gone; counts until the prediction is accepted. */
  readonly signal: AbortSignal
  /**
   * Called when the worker has accepted the prediction, before anything happens to it: who subscribes here misses no
   * event. (The worker may report acceptance and all output in one message, more than the history keeps.)
   */
  readonly onAccept?: (prediction: Prediction) => void
}

/** How many of a prediction's events are kept for streams that join it: Cog's number. */
const HISTORY_LIMIT = 1024
/** How long the Predictor's `healthcheck` may take: Cog's limit. */
const HEALTHCHECK_MS = 5000
/** An id is the client's and may fill a whole body. */
const LONGEST_LOGGED_ID = 100

interface Run {
  readonly prediction: Prediction
  readonly accept: () => void
  readonly refuse: (error: ServerError) => void
}

/**
 * The only owner of predictions: admits them, runs them on the worker, cancels them, and knows how the server is.
 *
 * A slot is tied to the work: it is taken when the input goes to the worker, and free again when the worker says that
 * the Predictor has let go, before anyone is told that the prediction has ended.
 */
export class Service {
  readonly #options: ServiceOptions
  readonly #runs = new Map<number, Run>()
  #nextKey = 1
  #ready: ReadyMessage | undefined
  #status: 'STARTING' | 'READY' | 'SETUP_FAILED' | 'DEFUNCT' = 'STARTING'
  #setup: Setup = { startedAt: new Date(), status: 'starting', logs: '' }
  #draining = false
  #idle: (() => void) | undefined
  #healthcheck: { call: number; answer: Promise<string | null>; resolve: (error: string | null) => void } | undefined
  #setupDone!: (status: 'succeeded' | 'failed') => void
  /** How the first setup ended; never rejects. */
  readonly firstSetup: Promise<'succeeded' | 'failed'> = new Promise((resolve) => {
    this.#setupDone = resolve
  })

  constructor(options: ServiceOptions) {
    this.#options = options
    options.worker.start({ type: 'setup', ...options.predictor }, (event) => this.#receive(event))
  }

  /** The Predictor's OpenAPI document, known since its first successful setup. */
  get document(): OpenApiDocument | undefined {
    return this.#ready?.document
  }

  /** Whether clients may ask for streams; undefined before setup is over. */
  get streaming(): boolean | undefined {
    return this.#ready?.streaming
  }

  get status(): ServiceStatus {
    if (this.#status !== 'READY') return this.#status
    return this.#runs.size < this.#ready!.concurrency ? 'READY' : 'BUSY'
  }

  /** Asks the Predictor's own `healthcheck`, too, where it has one and could answer. */
  async health(): Promise<Health> {
    const error = this.#status === 'READY' && this.#ready?.healthcheck ? await this.#askHealthcheck() : null
    if (error === null) return { status: this.status, setup: this.#setup }
    return { status: 'UNHEALTHY', setup: this.#setup, healthcheckError: `Healthcheck failed: ${error}` }
  }

  /**
   * Validates an input and runs it.
   *
   * @returns the prediction, once the worker has accepted it; it may have ended by then.
   * @throws {ServerError} INVALID_INPUT, then NOT_READY or DRAINING, then AT_CAPACITY, as Cog orders them; or
   *   INVALID_INPUT from the Predictor's own check, which takes a slot. Nothing ran.
   */
  async create(request: NewPrediction): Promise<Prediction> {
    // Before the first setup is over the schema is not known, so that even a bad input gets a 503.
    if (!this.#ready) throw ServerError.of('NOT_READY', {})
    const checked = checkInput(request.input, this.#ready.document)
    if (checked.problems) throw ServerError.withDetail('INVALID_INPUT', checked.problems)
    if (this.#draining) throw ServerError.of('DRAINING', {})
    if (this.#status !== 'READY') throw ServerError.of('NOT_READY', {})
    if (this.status === 'BUSY') throw ServerError.of('AT_CAPACITY', {})
    return await this.#run(request, checked.input)
  }

  /** The prediction with this id that runs now; the oldest, should there be several. */
  find(id: string): Prediction | undefined {
    for (const { prediction } of this.#runs.values()) if (prediction.id === id) return prediction
    return undefined
  }

  /** Asks the worker to end a prediction. It ends when the Predictor gives way; one that has ended stays as it is. */
  cancel(prediction: Prediction): void {
    for (const [key, run] of this.#runs) if (run.prediction === prediction) this.#post({ type: 'cancel', key })
  }

  /**
   * Cancels every running prediction with this id.
   *
   * @returns false if there is none.
   */
  cancelById(id: string): boolean {
    const keys = [...this.#runs].filter(([, run]) => run.prediction.id === id).map(([key]) => key)
    for (const key of keys) this.#post({ type: 'cancel', key })
    return keys.length > 0
  }

  /**
   * Takes no more predictions, lets the running ones end, and cancels those that still run after `limitMs`.
   *
   * @returns when none runs; a Predictor that does not obey the cancel is given up after `graceMs` more.
   */
  async drain({ limitMs, graceMs }: { readonly limitMs: number; readonly graceMs: number }): Promise<void> {
    this.#draining = true
    if (this.#runs.size === 0) return
    const idle = new Promise<void>((resolve) => {
      this.#idle = resolve
    })
    const limit = this.#options.schedule(limitMs, () => {
      this.#options.log.warn({ running: this.#runs.size, limitMs }, 'drain limit reached, canceling')
      for (const key of this.#runs.keys()) this.#post({ type: 'cancel', key })
    })
    const grace = this.#options.schedule(limitMs + graceMs, () => {
      for (const key of [...this.#runs.keys()]) this.#end(key, (prediction) => prediction.cancel())
    })
    await idle
    limit.cancel()
    grace.cancel()
  }

  #run(request: NewPrediction, input: Readonly<Record<string, unknown>>): Promise<Prediction> {
    const key = this.#nextKey++
    const prediction = new Prediction({
      id: request.id ?? newId(),
      input,
      iterator: this.#ready!.iterator,
      dollarsPerSecond: this.#options.dollarsPerSecond,
      historyLimit: HISTORY_LIMIT,
      now: this.#options.now,
    })
    const cancel = () => this.#post({ type: 'cancel', key })
    return new Promise((resolve, reject) => {
      let settled = false
      /** True for the first call only. */
      const settle = () => {
        if (settled) return false
        settled = true
        request.signal.removeEventListener('abort', cancel)
        return true
      }
      this.#runs.set(key, {
        prediction,
        accept: () => {
          if (!settle()) return
          request.onAccept?.(prediction)
          resolve(prediction)
        },
        refuse: (error) => {
          if (settle()) reject(error)
        },
      })
      prediction.begin()
      this.#post({ type: 'predict', key, id: prediction.id, input, context: request.context })
      if (request.signal.aborted) cancel()
      else request.signal.addEventListener('abort', cancel, { once: true })
    })
  }

  #post(message: ToWorker): void {
    this.#options.worker.post(message)
  }

  #receive(event: WorkerEvent): void {
    const { log } = this.#options
    switch (event.type) {
      case 'starting':
        this.#status = 'STARTING'
        this.#setup = { startedAt: new Date(), status: 'starting', logs: '' }
        return
      case 'log':
        log[event.level]({ source: 'setup' }, event.line)
        this.#setup = { ...this.#setup, logs: `${this.#setup.logs}[predictor] ${event.line}\n` }
        return
      case 'progress':
        this.#options.onProgress?.(event.report)
        return
      case 'ready':
        this.#ready = event
        this.#status = 'READY'
        this.#setup = { ...this.#setup, completedAt: new Date(), status: 'succeeded' }
        log.info({ concurrency: event.concurrency, setupMs: this.#setupMs() }, 'ready')
        this.#setupDone('succeeded')
        return
      case 'setup-failed':
        this.#setupFailed(`worker setup failed: ${event.reason}`)
        return
      case 'died':
        this.#died(event)
        return
      case 'health':
        if (this.#healthcheck?.call === event.call) this.#healthcheck.resolve(event.error)
        return
      case 'batch':
        for (const one of event.events) this.#apply(one)
        return
    }
  }

  #apply(event: RunEvent): void {
    const run = this.#runs.get(event.key)
    if (!run) return
    const { prediction } = run
    switch (event.kind) {
      case 'accepted':
        run.accept()
        prediction.start()
        return
      case 'rejected':
        this.#runs.delete(event.key)
        this.#settle()
        run.refuse(ServerError.withDetail('INVALID_INPUT', event.detail))
        // For streams that joined under its id while it was checked: they must end, too.
        prediction.fail(event.detail.map(({ loc, msg }) => `${loc.join('.')}: ${msg}`).join('; '))
        return
      case 'output':
        prediction.addOutput(event.chunk)
        return
      case 'log':
        prediction.addLog(event.data, event.source)
        return
      case 'metric':
        prediction.addMetric(event.name, event.value, event.mode)
        return
      case 'ended':
        this.#end(
          event.key,
          () => {
            if (event.status === 'succeeded') prediction.succeed()
            else if (event.status === 'canceled') prediction.cancel()
            else prediction.fail(event.error ?? '')
          },
          event.errorName,
        )
        return
    }
  }

  /** Frees the slot, then ends the prediction: whoever hears of the end may send the next one at once. */
  #end(key: number, finish: (prediction: Prediction) => void, errorName?: string): void {
    const run = this.#runs.get(key)!
    this.#runs.delete(key)
    run.accept()
    finish(run.prediction)
    this.#settle()
    const { id, status, metrics } = run.prediction.body()
    // Numbers only: a text may be a user's.
    const numbers = Object.fromEntries(Object.entries(metrics).filter(([, value]) => typeof value === 'number'))
    this.#options.log.info(
      { id: id.slice(0, LONGEST_LOGGED_ID), status, ...(errorName && { errorName }), metrics: numbers },
      'prediction',
    )
  }

  #settle(): void {
    if (this.#runs.size === 0) this.#idle?.()
  }

  #died({ ending, restarts }: Extract<WorkerEvent, { type: 'died' }>): void {
    this.#options.log.error({ ending, restarts, running: this.#runs.size }, 'worker died')
    if (restarts) this.#status = 'DEFUNCT'
    else this.#setupFailed(`worker crashed: ${ending}`)
    this.#healthcheck?.resolve('worker crashed')
    const error = fill(PREDICTION_ERRORS.WORKER_CRASHED, { ending })
    for (const key of [...this.#runs.keys()]) this.#end(key, (prediction) => prediction.fail(error), 'WORKER_CRASHED')
  }

  #setupFailed(reason: string): void {
    this.#status = 'SETUP_FAILED'
    // As Cog does: after a failure only the reason, not the lines before it.
    this.#setup = { ...this.#setup, completedAt: new Date(), status: 'failed', logs: reason }
    this.#options.log.error({ setupMs: this.#setupMs() }, reason)
    this.#setupDone('failed')
  }

  #setupMs(): number {
    return Number(this.#setup.completedAt) - Number(this.#setup.startedAt)
  }

  /** One question at a time: those who ask meanwhile share its answer. */
  #askHealthcheck(): Promise<string | null> {
    if (this.#healthcheck) return this.#healthcheck.answer
    const call = this.#nextKey++
    let resolve!: (error: string | null) => void
    const answer = new Promise<string | null>((done) => {
      resolve = done
    })
    const timer = this.#options.schedule(HEALTHCHECK_MS, () => resolve(`no answer within ${HEALTHCHECK_MS / 1000} s`))
    this.#healthcheck = { call, answer, resolve }
    this.#post({ type: 'healthcheck', call })
    return answer.finally(() => {
      timer.cancel()
      this.#healthcheck = undefined
    })
  }
}

/**
 * 26 characters of lower-case base32: 128 random bits, the form that Cog's documentation recommends to clients.
 *
 * Cog's own ids are the clock's nanoseconds, which collide and can be guessed, and whoever knows an id can cancel.
 */
function newId(): string {
  let bits = BigInt(`0x${randomBytes(16).toString('hex')}`) << 2n
  let id = ''
  for (let i = 0; i < 26; i++) {
    id = BASE32[Number(bits & 31n)] + id
    bits >>= 5n
  }
  return id
}
const BASE32 = 'abcdefghijklmnopqrstuvwxyz234567'
