import type { Logger } from 'pino'
import { fill, PREDICTION_ERRORS, ServerError } from './errors.js'
import { FinishedPredictions } from './finished.js'
import type {
  OpenApiDocument,
  ReadyMessage,
  RunEvent,
  RunKind,
  SetupRequest,
  ToWorker,
  Worker,
  WorkerEvent,
} from './messages.js'
import { Counter, DURATIONS, Histogram } from './metrics.js'
import { Prediction } from './prediction.js'
import { newId } from './prediction-id.js'
import type { SetupProgress } from './predictor.js'
import { Queue } from './queue.js'
import { checkInput, withoutSecrets } from './validation.js'

/** Runs `action` after `ms` unless canceled; `refresh` begins the wait anew. Replaced in tests. */
export type Schedule = (ms: number, action: () => void) => { cancel(): void; refresh(): void }

export interface ServiceOptions {
  readonly worker: Worker
  /** Which Predictor the worker is to host, how many run at once, and what files may cost. */
  readonly predictor: Omit<SetupRequest, 'type'>
  readonly dollarsPerSecond: number
  readonly log: Logger
  readonly schedule: Schedule
  /** Milliseconds on a clock that never goes back. */
  readonly now: () => number
  /** How many of a prediction's last events are kept for readers that join it. Default: 1,024, or 16,384 if they may come back. */
  readonly historyLimit?: number
  /** How many predictions may wait for a slot; default 0: none, as in Cog. */
  readonly queueLimit?: number
  /** Most bytes of all inputs that wait, as JSON; default: no bound. */
  readonly queueBytes?: number
  /** How long a prediction that has ended can be asked for, in milliseconds; default 0: not at all, as in Cog. */
  readonly keepMs?: number
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
  /** Default: a prediction. A training may be asked for once {@link Service.trains} is true. */
  readonly kind?: RunKind
  /** Drawn if absent. */
  readonly id: string | undefined
  /** As it was sent: not yet validated. */
  readonly input: unknown
  /** The text that `input` was read from, for errors to show its numbers as they were written. */
  readonly body?: string | undefined
  readonly context: Readonly<Record<string, string>>
  /** Milliseconds from now after which it is canceled, whether it waits or runs. */
  readonly cancelAfterMs?: number | undefined
  /** Called at once when it is let in, before it runs or waits: who may have to cancel it at any time gets it here. */
  readonly onAdmit?: (prediction: Prediction) => void
  /**
   * Called when the worker has accepted the prediction, before anything happens to it: who subscribes here misses no
   * event. (The worker may report acceptance and all output in one message, more than the history keeps.)
   */
  readonly onAccept?: (prediction: Prediction) => void
  /** Called instead, and earlier, when the prediction has to wait for a slot; then a refusal, too, is its failed end. */
  readonly onQueue?: (prediction: Prediction) => void
}

/** Where a prediction stands that waits for a slot. */
export interface Place {
  /** 1 is the next. */
  readonly position: number
  /** Undefined while nothing is known about how long runs take. */
  readonly estimateMs: number | undefined
}

/** How many of a prediction's events are kept for streams that join it: Cog's number. */
const HISTORY_LIMIT = 1024
/** The same where readers may come back: more than the 8,192 tokens of a whole answer. */
const LONG_HISTORY_LIMIT = 16_384
/** Bounds of what is kept of predictions that have ended. */
const MOST_KEPT = 1000
const MOST_KEPT_BYTES = 64 * 1024 * 1024
/** How long the Predictor's `healthcheck` may take: Cog's limit. */
const HEALTHCHECK_MS = 5000
/** An id is the client's and may fill a whole body. */
const LONGEST_LOGGED_ID = 100

interface Run {
  readonly prediction: Prediction
  readonly request: NewPrediction
  readonly input: Readonly<Record<string, unknown>>
  /** Why it is being canceled, if no client asked for it. */
  cancelReason?: string
  deadline?: { cancel(): void }
  readonly accept: () => void
  readonly refuse: (error: ServerError) => void
}

interface Waiting {
  readonly key: number
  readonly run: Run
}

/**
 * The only owner of predictions: admits them, runs them on the worker, cancels them, and knows how the server is.
 *
 * A slot is tied to the work: it is taken when the input goes to the worker, and free again when the worker says that
 * the Predictor has let go, before anyone is told that the prediction has ended.
 */
export class Service {
  /** What has happened so far, for /metrics. */
  readonly metrics = {
    ended: new Counter('status'),
    queueSeconds: new Histogram(DURATIONS),
    predictSeconds: new Histogram(DURATIONS),
    workerDeaths: new Counter(),
  }
  readonly #options: ServiceOptions
  readonly #runs = new Map<number, Run>()
  /** Those that wait for a slot, under the keys that they will run with. */
  readonly #queue: Queue<Waiting>
  readonly #finished: FinishedPredictions
  #nextKey = 1
  #ready: ReadyMessage | undefined
  #status: 'STARTING' | 'READY' | 'SETUP_FAILED' | 'DEFUNCT' = 'STARTING'
  #setup: Setup = { startedAt: new Date(), status: 'starting', logs: '' }
  #setupStartedMs = 0
  #draining = false
  #leaving = false
  #isReady = false
  #onReadiness: (ready: boolean) => void = () => {}
  #idle: (() => void) | undefined
  #healthcheck: { call: number; answer: Promise<string | null>; resolve: (error: string | null) => void } | undefined
  #setupDone!: (status: 'succeeded' | 'failed') => void
  /** How the first setup ended; never rejects. */
  readonly firstSetup: Promise<'succeeded' | 'failed'> = new Promise((resolve) => {
    this.#setupDone = resolve
  })

  constructor(options: ServiceOptions) {
    this.#options = options
    this.#queue = new Queue(options.queueLimit ?? 0, options.queueBytes)
    this.#finished = new FinishedPredictions({
      keepMs: options.keepMs ?? 0,
      mostPredictions: MOST_KEPT,
      mostBytes: MOST_KEPT_BYTES,
      now: options.now,
    })
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

  /** Whether there are trainings; undefined before setup is over. */
  get trains(): boolean | undefined {
    return this.#ready && this.#ready.training !== undefined
  }

  get status(): ServiceStatus {
    if (this.#status !== 'READY') return this.#status
    return this.#runs.size < this.#ready!.concurrency ? 'READY' : 'BUSY'
  }

  /** How many run, wait, and may run at once. */
  get load(): { readonly running: number; readonly waiting: number; readonly slots: number } {
    return { running: this.#runs.size, waiting: this.#queue.length, slots: this.#ready?.concurrency ?? 0 }
  }

  /** The process that hosts the Predictor. */
  get workerPid(): number | undefined {
    return this.#options.worker.pid
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
   * Where no slot is free, it waits in the queue, if there is one: first come, first served. Its status is `starting` then.
   *
   * @returns the prediction, once the worker has accepted it; it may have ended by then.
   * @throws {ServerError} INVALID_INPUT, then NOT_READY or DRAINING, then AT_CAPACITY, as Cog orders them, or QUEUE_FULL
   *   where there is a queue; or INVALID_INPUT from the Predictor's own check, which takes a slot. Nothing ran.
   */
  async create({ body, ...request }: NewPrediction): Promise<Prediction> {
    // Before the first setup is over the schema is not known, so that even a bad input gets a 503.
    if (!this.#ready) throw ServerError.of('NOT_READY', {})
    const checked = checkInput(request.input, { document: this.#ready.document, kind: request.kind, body })
    if (checked.problems) throw ServerError.withDetail('INVALID_INPUT', checked.problems)
    if (this.#draining) throw ServerError.of('DRAINING', {})
    if (this.#status !== 'READY') throw ServerError.of('NOT_READY', {})
    const waits = this.status === 'BUSY' || this.#queue.length > 0
    const bytes = waits ? this.#bytesInQueue(checked.input) : 0
    return await this.#admit(request, { input: checked.input, bytes })
  }

  /** The prediction with this id that runs or waits now; the oldest, should there be several. */
  find(id: string): Prediction | undefined {
    for (const { prediction } of this.#runs.values()) if (prediction.id === id) return prediction
    for (const { run } of this.#queue) if (run.prediction.id === id) return run.prediction
    return undefined
  }

  /** The same, or the last one with this id that has ended, while it is kept. */
  recall(id: string): Prediction | undefined {
    return this.find(id) ?? this.#finished.find(id)
  }

  /** Whether predictions that have ended can be asked for. */
  get keeps(): boolean {
    return (this.#options.keepMs ?? 0) > 0
  }

  /** Where a prediction waits; undefined for one that does not. */
  place(prediction: Prediction): Place | undefined {
    const waiting = this.#waiting(prediction)
    if (!waiting) return undefined
    const position = this.#queue.position(waiting)!
    return { position, estimateMs: this.#queue.estimateMs(position, this.#ready!.concurrency) }
  }

  /**
   * Ends a prediction that waits; asks the worker to end one that runs, which happens when the Predictor gives way. One that
   * has ended stays as it is.
   */
  cancel(prediction: Prediction): void {
    for (const [key, run] of this.#runs) if (run.prediction === prediction) this.#post({ type: 'cancel', key })
    const waiting = this.#waiting(prediction)
    if (waiting) this.#cancelWaiting(waiting)
  }

  /**
   * Cancels every prediction with this id that runs or waits.
   *
   * @returns false if there is none.
   */
  cancelById(id: string): boolean {
    const keys = [...this.#runs].filter(([, run]) => run.prediction.id === id).map(([key]) => key)
    const waiting = [...this.#queue].filter(({ run }) => run.prediction.id === id)
    for (const key of keys) this.#post({ type: 'cancel', key })
    for (const one of waiting) this.#cancelWaiting(one)
    return keys.length + waiting.length > 0
  }

  /** Tells the one listener, now and whenever it changes, whether predictions should be sent here. */
  onReadiness(listener: (ready: boolean) => void): void {
    this.#onReadiness = listener
    listener(this.#isReady)
  }

  /** From now on it says that it is leaving, to whoever asks before sending; it still takes predictions. */
  leave(): void {
    this.#leaving = true
    this.#tellReadiness()
  }

  get isLeaving(): boolean {
    return this.#leaving
  }

  /**
   * Takes no more predictions, lets those that run or wait end, and cancels what is left after `limitMs`.
   *
   * @returns when none runs; a Predictor that does not obey the cancel is given up after `graceMs` more.
   */
  async drain({ limitMs, graceMs }: { readonly limitMs: number; readonly graceMs: number }): Promise<void> {
    this.leave()
    this.#draining = true
    if (this.#isIdle) return
    const idle = new Promise<void>((resolve) => {
      this.#idle = resolve
    })
    const limit = this.#options.schedule(limitMs, () => {
      this.#options.log.warn(
        { running: this.#runs.size, waiting: this.#queue.length, limitMs },
        'drain limit reached, canceling',
      )
      for (const waiting of [...this.#queue]) this.#cancelWaiting(waiting)
      for (const key of this.#runs.keys()) this.#post({ type: 'cancel', key })
    })
    const grace = this.#options.schedule(limitMs + graceMs, () => {
      for (const key of [...this.#runs.keys()]) this.#end(key, (prediction) => prediction.cancel())
    })
    await idle
    limit.cancel()
    grace.cancel()
  }

  /** Runs a prediction, or lets it wait where no slot is free. @param bytes of the input, where it has to wait. */
  #admit(
    request: NewPrediction,
    { input, bytes }: { readonly input: Readonly<Record<string, unknown>>; readonly bytes: number },
  ): Promise<Prediction> {
    const key = this.#nextKey++
    const { document, iterator, training } = this.#ready!
    const prediction = new Prediction({
      id: request.id ?? newId(),
      input: withoutSecrets(input, document, request.kind),
      iterator: request.kind === 'training' ? training!.iterator : iterator,
      dollarsPerSecond: this.#options.dollarsPerSecond,
      historyLimit: this.#options.historyLimit ?? (this.keeps ? LONG_HISTORY_LIMIT : HISTORY_LIMIT),
      queue: this.#queue.limit > 0,
      now: this.#options.now,
    })
    return new Promise((resolve, reject) => {
      let accepted = false
      const run: Run = {
        prediction,
        request,
        input,
        accept: () => {
          if (accepted) return
          accepted = true
          request.onAccept?.(prediction)
          resolve(prediction)
        },
        refuse: reject,
      }
      const { cancelAfterMs } = request
      if (cancelAfterMs !== undefined) {
        run.deadline = this.#options.schedule(cancelAfterMs, () => {
          run.cancelReason = fill(PREDICTION_ERRORS.DEADLINE_PASSED, { seconds: cancelAfterMs / 1000 })
          this.cancel(prediction)
        })
      }
      // Whoever waits goes first: a slot may just have been freed.
      if (this.status === 'READY' && this.#queue.length === 0) this.#begin(key, run)
      else {
        this.#queue.add({ key, run }, bytes)
        request.onQueue?.(prediction)
      }
      request.onAdmit?.(prediction)
    })
  }

  #begin(key: number, run: Run): void {
    this.#runs.set(key, run)
    const { prediction, input, request } = run
    prediction.begin()
    this.metrics.queueSeconds.observe(prediction.waitedMs / 1000)
    const { kind = 'prediction', context } = request
    this.#post({ type: 'predict', key, kind, id: prediction.id, input, context })
  }

  /** Begins what waits, as far as there are free slots. */
  #beginWaiting(): void {
    while (this.status === 'READY') {
      const next = this.#queue.take()
      if (!next) return
      this.#begin(next.key, next.run)
    }
  }

  #waiting(prediction: Prediction): Waiting | undefined {
    for (const waiting of this.#queue) if (waiting.run.prediction === prediction) return waiting
    return undefined
  }

  #cancelWaiting(waiting: Waiting): void {
    this.#queue.remove(waiting)
    this.#close(waiting.run, (prediction) => prediction.cancel(waiting.run.cancelReason))
  }

  /** The size of an input that has to wait. @throws {ServerError} it may not: AT_CAPACITY, QUEUE_FULL, QUEUE_TOO_LARGE. */
  #bytesInQueue(input: Readonly<Record<string, unknown>>): number {
    const { limit, length, mostBytes } = this.#queue
    if (limit === 0) throw ServerError.of('AT_CAPACITY', {})
    const estimateMs = this.#queue.estimateMs(1, this.#ready!.concurrency) ?? 0
    if (length >= limit) throw ServerError.of('QUEUE_FULL', { limit }).after(estimateMs)
    const bytes = JSON.stringify(input).length
    if (this.#queue.fits(bytes)) return bytes
    throw ServerError.of('QUEUE_TOO_LARGE', { megabytes: mostBytes / 1e6 }).after(estimateMs)
  }

  #post(message: ToWorker): void {
    this.#options.worker.post(message)
  }

  #receive(event: WorkerEvent): void {
    const { log } = this.#options
    switch (event.type) {
      case 'starting':
        this.#enter('STARTING')
        this.#setup = { startedAt: new Date(), status: 'starting', logs: '' }
        this.#setupStartedMs = this.#options.now()
        return
      case 'log': {
        const inSetup = this.#status === 'STARTING'
        log[event.level]({ source: inSetup ? 'setup' : 'predictor' }, event.line)
        if (inSetup) this.#setup = { ...this.#setup, logs: `${this.#setup.logs}[predictor] ${event.line}\n` }
        return
      }
      case 'progress':
        this.#options.onProgress?.(event.report)
        return
      case 'ready':
        this.#ready = event
        this.#enter('READY')
        this.#setup = { ...this.#setup, completedAt: new Date(), status: 'succeeded' }
        log.info({ concurrency: event.concurrency, setupMs: this.#setupMs() }, 'ready')
        this.#setupDone('succeeded')
        this.#beginWaiting()
        return
      case 'setup-failed':
        this.#setupFailed(`worker setup failed: ${event.reason}`)
        return
      case 'setup-timed-out':
        this.#setupFailed('worker setup timed out')
        return
      case 'defunct':
        log.error({ reason: event.reason }, 'the Predictor has given up')
        if (this.#status === 'READY') this.#enter('DEFUNCT')
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
        run.deadline?.cancel()
        this.#beginWaiting()
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
            else if (event.status === 'canceled') prediction.cancel(run.cancelReason)
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
    this.#queue.recordRun(run.prediction.runMs)
    this.metrics.predictSeconds.observe(run.prediction.runMs / 1000)
    this.#beginWaiting()
    this.#close(run, finish, errorName)
  }

  /** Ends a prediction that neither runs nor waits any more. */
  #close(run: Run, finish: (prediction: Prediction) => void, errorName?: string): void {
    run.deadline?.cancel()
    run.accept()
    finish(run.prediction)
    this.metrics.ended.add(run.prediction.status)
    this.#finished.add(run.prediction)
    this.#settle()
    if (!this.#options.log.isLevelEnabled('info')) return
    const { id, status, metrics } = run.prediction.body()
    // Numbers only: a text may be a user's.
    const numbers = Object.fromEntries(Object.entries(metrics).filter(([, value]) => typeof value === 'number'))
    this.#options.log.info(
      { id: id.slice(0, LONGEST_LOGGED_ID), status, ...(errorName && { errorName }), metrics: numbers },
      run.request.kind ?? 'prediction',
    )
  }

  get #isIdle(): boolean {
    return this.#runs.size === 0 && this.#queue.length === 0
  }

  #settle(): void {
    if (this.#isIdle) this.#idle?.()
  }

  #died({ ending, restarts }: Extract<WorkerEvent, { type: 'died' }>): void {
    this.metrics.workerDeaths.add()
    const counts = { running: this.#runs.size, waiting: this.#queue.length }
    this.#options.log.error({ ending, restarts, ...counts }, 'worker died')
    if (restarts) this.#enter('DEFUNCT')
    // A setup that had failed before tells why already.
    else if (this.#status !== 'SETUP_FAILED') this.#setupFailed(`worker crashed: ${ending}`)
    this.#healthcheck?.resolve('worker crashed')
    const error = fill(PREDICTION_ERRORS.WORKER_CRASHED, { ending })
    for (const key of [...this.#runs.keys()]) this.#end(key, (prediction) => prediction.fail(error), 'WORKER_CRASHED')
  }

  #setupFailed(reason: string): void {
    this.#enter('SETUP_FAILED')
    // As Cog does: after a failure only the reason, not the lines before it.
    this.#setup = { ...this.#setup, completedAt: new Date(), status: 'failed', logs: reason }
    this.#options.log.error({ setupMs: this.#setupMs() }, reason)
    this.#setupDone('failed')
  }

  #setupMs(): number {
    return Math.round(this.#options.now() - this.#setupStartedMs)
  }

  #enter(status: Exclude<ServiceStatus, 'BUSY'>): void {
    this.#status = status
    this.#tellReadiness()
  }

  #tellReadiness(): void {
    const ready = this.#status === 'READY' && !this.#leaving
    if (ready === this.#isReady) return
    this.#isReady = ready
    this.#onReadiness(ready)
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
