import { join } from 'node:path'
import type { z } from 'zod'
import { fill, PREDICTION_ERRORS } from './errors.js'
import type { FromWorker, InputProblem, PredictMessage, RunEvent, RunKind, ToWorker } from './messages.js'
import { openApiDocument } from './openapi.js'
import {
  type CheckContext,
  InputError,
  isOutputStream,
  type LogSource,
  type OutputType,
  type PredictContext,
  type Predictor,
  type PredictResult,
  type SetupContext,
} from './predictor.js'
import { isPublicAddress } from './public-address.js'
import { RunBudget } from './run-budget.js'
import { type FileLimits, RunFiles } from './run-files.js'
import { createMetrics } from './run-metrics.js'
import { withOutput } from './run-output.js'
import { hideSecrets, Secret } from './secret.js'

export interface HostOptions {
  readonly predictor: Predictor
  readonly concurrency: number
  /** For the temporary files of runs. It is made when one needs it, and is the caller's to remove. */
  readonly folder: string
  readonly files: FileLimits
  /** Most bytes of JSON that one prediction may tell. Default: 256 MB. */
  readonly outputBytes?: number | undefined
  /** Sends to the server. A promise means that the channel is full; it resolves when there is room again. */
  readonly post: (message: FromWorker) => Promise<void> | undefined
}

const DEFAULT_OUTPUT_BYTES = 256e6

/** The Predictor's side of the border: runs its functions, and tells the server in plain messages what they do. */
export class PredictorHost {
  readonly #predictor: Predictor
  readonly #folder: string
  readonly #files: FileLimits
  readonly #outputBytes: number
  readonly #post: HostOptions['post']
  readonly #outbox: Outbox
  readonly #stopped = new AbortController()
  readonly #running = new Map<number, AbortController>()
  #concurrency: number
  #state: unknown
  #isSetUp = false
  #checkup: Promise<string | null> | undefined

  constructor({ predictor, concurrency, folder, files, outputBytes = DEFAULT_OUTPUT_BYTES, post }: HostOptions) {
    this.#predictor = predictor
    this.#concurrency = concurrency
    this.#folder = folder
    this.#files = files
    this.#outputBytes = outputBytes
    this.#post = post
    this.#outbox = new Outbox(post)
  }

  /** Runs `setup`; ends with `ready` or `setup-failed`, and never rejects. */
  async setup(): Promise<void> {
    const most = this.#concurrency
    try {
      const context: SetupContext = {
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
        defunct: (reason) => void this.#post({ type: 'defunct', reason }),
      }
      const write = (line: string) => context.log(line)
      this.#state = await withOutput(write, async () => await this.#predictor.setup?.(context))
      this.#isSetUp = true
      const { train } = this.#predictor
      this.#post({
        type: 'ready',
        document: openApiDocument(this.#predictor),
        streaming: this.#predictor.streaming,
        iterator: isOutputStream(this.#predictor.output),
        ...(train && { training: { iterator: isOutputStream(train.output) } }),
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
    const { key, kind } = request
    const parts = this.#partsOf(kind)
    const controller = new AbortController()
    this.#running.set(key, controller)
    const { signal } = controller
    const files = new RunFiles({
      folder: join(this.#folder, String(key)),
      limits: this.#files,
      isAllowed: this.#files.allowPrivate ? () => true : isPublicAddress,
    })
    const budget = new RunBudget(this.#outputBytes)
    const secrets: Secret[] = []
    // Nothing may come before `accepted`: what the check writes waits for it.
    let early: [line: string, source: LogSource][] | undefined = []
    const log = (line: string, source: LogSource) => {
      if (early) early.push([line, source])
      else {
        const kept = budget.cut(hideSecrets(line, secrets))
        if (kept !== undefined) this.#outbox.push({ key, kind: 'log', data: `${kept}\n`, source })
      }
    }
    const logEarly = () => {
      const lines = early ?? []
      early = undefined
      for (const [line, source] of lines) log(line, source)
    }
    let last: RunEvent
    try {
      last = await withOutput(log, async () => {
        const checked = await this.#check(request, { parts, signal, secrets })
        if ('detail' in checked) return { key, kind: 'rejected', detail: checked.detail }
        signal.throwIfAborted()
        this.#outbox.push({ key, kind: 'accepted' })
        logEarly()
        await files.fetch(checked.input, signal)
        await this.#predict({ request, parts, signal, files, budget, log, ...checked })
        return { key, kind: 'ended', status: signal.aborted ? 'canceled' : 'succeeded' }
      })
    } catch (error) {
      // An error after a cancel is how many libraries obey it.
      if (signal.aborted) last = { key, kind: 'ended', status: 'canceled' }
      else last = { key, kind: 'ended', status: 'failed', ...failure(error, { kind, secrets }) }
    }
    if (last.kind !== 'rejected') logEarly()
    await files.dispose().catch((error) => log(`The files of this prediction could not be removed: ${error}`, 'stderr'))
    this.#running.delete(key)
    this.#outbox.push(last)
  }

  /** Fills in defaults, applies the rules that JSON Schema cannot carry, and asks the Predictor's own `check`. */
  async #check(
    request: PredictMessage,
    run: { readonly parts: RunParts; readonly signal: AbortSignal; readonly secrets: Secret[] },
  ): Promise<Checked> {
    const { input, check } = run.parts
    const parsed = input.safeParse(withoutNulls(request.input, input))
    if (!parsed.success) {
      return { detail: parsed.error.issues.map(({ path, message }) => inputProblem(path.join('/'), message)) }
    }
    run.secrets.push(...secretsIn(parsed.data))
    const context = { id: request.id, signal: run.signal, context: request.context }
    try {
      return { input: parsed.data, prepared: await check?.(parsed.data, context) }
    } catch (error) {
      if (error instanceof InputError) return { detail: [inputProblem(error.field, error.message)] }
      throw error
    }
  }

  /** The schemas and functions that a run of this kind goes by. A training has no check but its schema. */
  #partsOf(kind: RunKind): RunParts {
    const predictor = this.#predictor
    const state = this.#state
    if (kind === 'training') {
      const train = predictor.train!
      return { ...train, run: (input, context) => train.run(input, state, context) }
    }
    return {
      input: predictor.input,
      output: predictor.output,
      check: (input, context) => predictor.check?.(input, state, context),
      run: (input, context) => predictor.predict(input, state, context),
    }
  }

  async #predict(run: Run & Accepted): Promise<void> {
    const { request, parts, signal, files, budget, log } = run
    const { key } = request
    const { output } = parts
    const push = (chunk: unknown) => {
      budget.take(chunk)
      this.#outbox.push({ key, kind: 'output', chunk })
    }
    const result = parts.run(run.input, {
      id: request.id,
      signal,
      context: request.context,
      prepared: run.prepared,
      log: (line, source = 'stdout') => log(line, source),
      metrics: createMetrics((name, value, mode) => {
        budget.take(value)
        this.#outbox.push({ key, kind: 'metric', name, value, mode })
      }),
      folder: () => files.folder(),
    })
    if (!isOutputStream(output)) {
      const value = await result
      if (!signal.aborted) push(await checkedOutput(value, { schema: output, files, signal }))
      return
    }
    if (!isIterable(result)) throw new OutputError('it returned no iterator')
    let index = 0
    for await (const item of result) {
      if (signal.aborted) return
      const isText = output.display === 'concatenate' && typeof item === 'string'
      push(isText ? item : await checkedOutput(item, { schema: output.item, files, signal, index }))
      index++
      await this.#outbox.turn()
    }
  }

  async #healthcheck(call: number): Promise<void> {
    // One at a time: the server asks again and again, and one that hangs must not pile up.
    this.#checkup ??= this.#askHealthcheck().finally(() => {
      this.#checkup = undefined
    })
    this.#post({ type: 'health', call, error: await this.#checkup })
  }

  /** Why the Predictor is not healthy, or null; never rejects. */
  async #askHealthcheck(): Promise<string | null> {
    try {
      const healthy = await this.#predictor.healthcheck?.(this.#state)
      // Python's word, since clients may look for the text of the real server.
      return healthy === false ? 'user-defined healthcheck returned False' : null
    } catch (error) {
      return describe(error)
    }
  }
}

interface RunParts extends Pick<Predictor, 'input' | 'output'> {
  check?(input: Record<string, unknown>, context: CheckContext): unknown
  run(input: Record<string, unknown>, context: PredictContext<unknown>): PredictResult<OutputType>
}

interface Run {
  readonly request: PredictMessage
  readonly parts: RunParts
  readonly signal: AbortSignal
  readonly files: RunFiles
  readonly budget: RunBudget
  readonly log: (line: string, source: LogSource) => void
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

/** Clients may send null for an optional input (openapi.json says nullable); zod's `optional` knows only absence. */
function withoutNulls(input: Readonly<Record<string, unknown>>, { shape }: z.ZodObject): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(input).filter(([name, value]) => value !== null || shape[name]?.safeParse(null).success),
  )
}

function inputProblem(field: string, msg: string): InputProblem {
  return { loc: ['body', 'input', field === '' ? '__root__' : field], msg, type: 'value_error' }
}

/** A Predictor returned or yielded what its output schema does not allow. The message tells no value. */
class OutputError extends TypeError {
  constructor(reason: string) {
    super(`The Predictor's output is not what its schema says: ${reason}.`)
    this.name = 'OutputError'
  }
}

interface CheckedOutputOptions {
  readonly schema: z.ZodType
  readonly files: RunFiles
  readonly signal: AbortSignal
  /** Which piece of a stream it is. */
  readonly index?: number
}

/**
 * An output as it goes to clients: held against the schema, with URIs in place of files.
 *
 * @throws {OutputError} naming the first part that is wrong. @throws {FileOutputError}
 */
async function checkedOutput(value: unknown, { schema, files, signal, index }: CheckedOutputOptions): Promise<unknown> {
  const parsed = await schema.safeParseAsync(value)
  if (!parsed.success) {
    const { path, message } = parsed.error.issues[0]!
    const place = [...(index === undefined ? [] : [`item ${index}`]), ...path.map(String)].join('/')
    throw new OutputError(place === '' ? message : `${place}: ${message}`)
  }
  assertJson(parsed.data)
  const published = await files.publish(parsed.data, signal)
  // JSON knows no undefined; Cog answers null for None.
  return published ?? null
}

/** The channel to the server carries JSON: what it cannot carry would end this process. */
function assertJson(value: unknown): void {
  if (typeof value !== 'object' && typeof value !== 'bigint') return
  try {
    JSON.stringify(value)
  } catch (error) {
    throw new OutputError(error instanceof Error ? error.message : String(error))
  }
}

function isIterable(value: unknown): value is AsyncIterable<unknown> | Iterable<unknown> {
  return typeof value === 'object' && value !== null && (Symbol.asyncIterator in value || Symbol.iterator in value)
}

function secretsIn(value: unknown): Secret[] {
  if (value instanceof Secret) return [value]
  if (typeof value !== 'object' || value === null) return []
  return Object.values(value).flatMap(secretsIn)
}

/** What the client is told, and what may go into the log: a name or code, never the message, which may quote a prompt. */
function failure(
  error: unknown,
  { kind, secrets }: { readonly kind: RunKind; readonly secrets: readonly Secret[] },
): { error: string; errorName: string } {
  const template = kind === 'training' ? PREDICTION_ERRORS.TRAIN_FAILED : PREDICTION_ERRORS.PREDICT_FAILED
  const { name, message } = error instanceof Error ? error : { name: 'Error', message: String(error) }
  const code = error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : name
  return {
    error: hideSecrets(fill(template, { name, message }), secrets),
    errorName: code,
  }
}

function describe(error: unknown): string {
  return error instanceof Error ? `${error.name}: ${error.message}` : String(error)
}
