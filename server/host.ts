import { fill, PREDICTION_ERRORS } from './errors.js'
import type { FromWorker, InputProblem, PredictMessage, RunEvent, ToWorker } from './messages.js'
import { openApiDocument } from './openapi.js'
import { InputError, isOutputStream, type Predictor } from './predictor.js'

export interface HostOptions {
  readonly predictor: Predictor
  readonly concurrency: number
  /** Sends to the server. A promise means that the channel is full; it resolves when there is room again. */
  readonly post: (message: FromWorker) => Promise<void> | undefined
}

/** The Predictor's side of the border: runs its functions, and tells the server in plain messages what they do. */
export class PredictorHost {
  readonly #predictor: Predictor
  readonly #post: HostOptions['post']
  readonly #outbox: Outbox
  readonly #stopped = new AbortController()
  readonly #running = new Map<number, AbortController>()
  #concurrency: number
  #state: unknown
  #isSetUp = false

  constructor({ predictor, concurrency, post }: HostOptions) {
    this.#predictor = predictor
    this.#concurrency = concurrency
    this.#post = post
    this.#outbox = new Outbox(post)
  }

  /** Runs `setup`; ends with `ready` or `setup-failed`, and never rejects. */
  async setup(): Promise<void> {
    const most = this.#concurrency
    try {
      this.#state = await this.#predictor.setup?.({
        signal: this.#stopped.signal,
        concurrency: most,
        limitConcurrency: (max) => {
          if (!Number.isInteger(max) || max < 1 || max > most) {
            throw new RangeError(`limitConcurrency(${max}): must be a whole number from 1 to ${most}`)
          }
          this.#concurrency = max
        },
        log: (line, level = 'info') => void this.#post({ type: 'log', line, level }),
        progress: (report) => void this.#post({ type: 'progress', report }),
      })
      this.#isSetUp = true
      this.#isSetUp = true
      this.#post({
        type: 'ready',
        document: openApiDocument(this.#predictor),
        streaming: this.#predictor.streaming,
        iterator: isOutputStream(this.#predictor.output),
        healthcheck: this.#predictor.healthcheck !== undefined,
        concurrency: this.#concurrency,
      })
    } catch (error) {
      this.#post({ type: 'setup-failed', reason: describe(error) })
    }
  }

  /** Takes any message but `setup` and `shutdown`. What it starts is reported by messages, never by a rejection. */
  receive(message: Exclude<ToWorker, { type: 'setup' | 'shutdown' }>): void {
    switch (message.type) {
      case 'predict':
        void this.#run(message)
        return
      case 'cancel':
        this.#running.get(message.key)?.abort()
        return
      case 'healthcheck':
        void this.#healthcheck(message.call)
        return
    }
  }

  /** Cancels what runs and calls `teardown`, if `setup` has made what it would take down. */
  async stop(): Promise<void> {
    this.#stopped.abort()
    for (const controller of this.#running.values()) controller.abort()
    if (this.#isSetUp) await this.#predictor.teardown?.(this.#state)
  }

  async #run(request: PredictMessage): Promise<void> {
    const { key } = request
    const controller = new AbortController()
    this.#running.set(key, controller)
    try {
      const checked = await this.#check(request, controller.signal)
      if ('detail' in checked) {
        this.#outbox.push({ key, kind: 'rejected', detail: checked.detail })
        return
      }
      controller.signal.throwIfAborted()
      this.#outbox.push({ key, kind: 'accepted' })
      await this.#predict({ request, signal: controller.signal, ...checked })
      this.#outbox.push({ key, kind: 'ended', status: controller.signal.aborted ? 'canceled' : 'succeeded' })
    } catch (error) {
      // An error after a cancel is how many libraries obey it.
      if (controller.signal.aborted) this.#outbox.push({ key, kind: 'ended', status: 'canceled' })
      else this.#outbox.push({ key, kind: 'ended', status: 'failed', ...failure(error) })
    } finally {
      this.#running.delete(key)
    }
  }

  /** Fills in defaults, applies the rules that JSON Schema cannot carry, and asks the Predictor's own `check`. */
  async #check(request: PredictMessage, signal: AbortSignal): Promise<Checked> {
    const parsed = this.#predictor.input.safeParse(this.#withoutNulls(request.input))
    if (!parsed.success) {
      return { detail: parsed.error.issues.map(({ path, message }) => inputProblem(path.join('/'), message)) }
    }
    const context = { id: request.id, signal, context: request.context }
    try {
      return { input: parsed.data, prepared: await this.#predictor.check?.(parsed.data, this.#state, context) }
    } catch (error) {
      if (error instanceof InputError) return { detail: [inputProblem(error.field, error.message)] }
      throw error
    }
  }

  /** Clients may send null for an optional input (openapi.json says nullable); zod's `optional` knows only absence. */
  #withoutNulls(input: Readonly<Record<string, unknown>>): Record<string, unknown> {
    const { shape } = this.#predictor.input
    return Object.fromEntries(
      Object.entries(input).filter(([name, value]) => value !== null || shape[name]?.safeParse(null).success),
    )
  }

  async #predict(run: { request: PredictMessage; signal: AbortSignal } & Accepted): Promise<void> {
    const { request, signal } = run
    const { key } = request
    const result = this.#predictor.predict(run.input, this.#state, {
      id: request.id,
      signal,
      context: request.context,
      prepared: run.prepared,
      log: (line, source = 'stdout') => this.#outbox.push({ key, kind: 'log', data: `${line}\n`, source }),
      metrics: {
        record: (name, value, mode = 'replace') => this.#outbox.push({ key, kind: 'metric', name, value, mode }),
      },
    })
    if (!isOutputStream(this.#predictor.output)) {
      const value = await result
      if (!signal.aborted) this.#outbox.push({ key, kind: 'output', chunk: value })
      return
    }
    for await (const chunk of result as AsyncIterable<string>) {
      if (signal.aborted) return
      this.#outbox.push({ key, kind: 'output', chunk })
      await this.#outbox.turn()
    }
  }

  async #healthcheck(call: number): Promise<void> {
    try {
      const healthy = await this.#predictor.healthcheck?.(this.#state)
      // Python's word, since clients may look for the text of the real server.
      const error = healthy === false ? 'user-defined healthcheck returned False' : null
      this.#post({ type: 'health', call, error })
    } catch (error) {
      this.#post({ type: 'health', call, error: describe(error) })
    }
  }
}

interface Accepted {
  readonly input: Record<string, unknown>
  readonly prepared: unknown
}

type Checked = Accepted | { readonly detail: readonly InputProblem[] }

/** How long a Predictor may keep the event loop with chunks before the outbox takes a turn for itself. */
const LONGEST_HOLD_MS = 5

/**
 * Gathers what all runs do in one turn of the event loop and posts it as one message: a decode step of many streams
 * crosses the border once.
 */
class Outbox {
  readonly #post: HostOptions['post']
  #events: RunEvent[] = []
  #oldestAt = 0
  #full: Promise<void> | undefined

  constructor(post: HostOptions['post']) {
    this.#post = post
  }

  push(event: RunEvent): void {
    if (this.#events.push(event) > 1) return
    this.#oldestAt = performance.now()
    // Not a microtask: streams that share a step resume one after another over several of them.
    setImmediate(() => this.#flush())
  }

  /**
   * Waits while the channel is full, and lets the event loop turn if a Predictor that never waits has kept it for
   * long: else its chunks would not leave, and no cancel would come in.
   */
  async turn(): Promise<void> {
    if (this.#full) await this.#full
    else if (this.#events.length > 0 && performance.now() - this.#oldestAt > LONGEST_HOLD_MS) {
      await new Promise((resolve) => setImmediate(resolve))
    }
  }

  #flush(): void {
    const events = this.#events
    this.#events = []
    const full = this.#post({ type: 'batch', events })
    if (!full) return
    this.#full = full.then(() => {
      this.#full = undefined
    })
  }
}

function inputProblem(field: string, msg: string): InputProblem {
  return { loc: ['body', 'input', field === '' ? '__root__' : field], msg, type: 'value_error' }
}

/** What the client is told, and what may go into the log: a name or code, never the message, which may quote a prompt. */
function failure(error: unknown): { error: string; errorName: string } {
  const { name, message } = error instanceof Error ? error : { name: 'Error', message: String(error) }
  const code = error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : name
  return { error: fill(PREDICTION_ERRORS.PREDICT_FAILED, { name, message }), errorName: code }
}

function describe(error: unknown): string {
  return error instanceof Error ? `${error.name}: ${error.message}` : String(error)
}
