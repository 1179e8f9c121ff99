import { EngineDefunctError, LogitsError, ModelFolderError, RunCanceledError, RuntimeStoppedError } from '../errors.js'
import type { ModelFolder } from '../folder.js'
import { type AvailableMemory, availableMemory } from '../memory.js'
import type { ReportProgress } from '../progress.js'
import type { Runtime, RuntimeLog } from '../runtime/types.js'
import { chooseTokens, type Tokens } from './choose-tokens.js'
import { ChunkPacer, chunkSizes } from './chunk-pacer.js'
import { roundsInPairs } from './even-rows.js'
import { FaultWatch, MOST_FAILED_STEPS, stepError } from './faults.js'
import { KVCache } from './kv-cache.js'
import { PromptMaker } from './prompt.js'
import {
  type EndedBy,
  type GenerateEvent,
  type GenerateRequest,
  type PreparedRequest,
  prepareRequest,
  Request,
} from './request.js'
import { batchesOf, Runner, type RunnerOptions } from './runner.js'
import { assertFinite } from './sampler.js'
import { occupantsOf, Scheduler, type Step } from './scheduler.js'
import { chooseSize } from './size.js'

export interface EngineOptions {
  readonly folder: ModelFolder
  /** Stays the caller's: to be disposed after the engine. */
  readonly runtime: Runtime
  /** Requests that are generated at once. Fewer are made where memory does not hold their caches. */
  readonly slots: number
  /** T: tokens of prompt and answer together; by default, and at most, what the model was made for. */
  readonly contextLength?: number
  /** Most tokens of a prompt that are read between two steps of those who generate. */
  readonly chunkTokens?: number
  /** Milliseconds that those who generate should wait at most while a chunk is read; by default they wait for whole chunks. */
  readonly streamPauseMs?: number
  /**
   * Whether an answer is to be the same to the last bit in any batch, where that takes another row in odd ones; by default so.
   */
  readonly batchInvariant?: boolean
  readonly log?: RuntimeLog
  readonly progress?: ReportProgress
  /** Milliseconds, monotonic. */
  readonly now?: () => number
  /** What weights, caches and steps may take together; by default what machine and container have left. */
  readonly memory?: AvailableMemory
  /** Called once if the engine has to give up, after all of its requests have failed. It can only be disposed then. */
  readonly onDefunct?: (error: EngineDefunctError) => void
}

/** What an engine is, for the log and for whoever asks the server. */
export interface EngineDescription {
  readonly model: string
  readonly dtype: string
  readonly device: string
  readonly threads: number
  readonly contextLength: number
  readonly slots: number
  readonly chunkTokens: number
  readonly weightBytes: number
  /** Of all slots, when they are full. */
  readonly cacheBytes: number
  /** What the process and its steps take beside both, at most. */
  readonly runBytes: number
  /** What was left when slots were counted; undefined on CUDA, where it is not known. */
  readonly memory: AvailableMemory | undefined
}

/**
 * On the CPU a chunk of 64 takes 5 % more time a token than one of 256, and others wait a quarter of the time for it
 * (measured: docs/engine.md). For CUDA it is a guess: a GPU is only busy with larger ones.
 */
const CHUNK_TOKENS = { cpu: 64, cuda: 512 } as const
/**
 * A prompt is cut at multiples of it only, since where it is cut may change how its keys and values are rounded. On the CPU
 * chunks of 16, 32 and 64 that do not cross a multiple of 64 give the same bits (measured: docs/engine.md); on CUDA nobody
 * has looked, so there it is the whole chunk.
 */
const UNIT_TOKENS = { cpu: 16, cuda: CHUNK_TOKENS.cuda } as const
/** On the CPU another batch costs as much as two rows; on a GPU a row costs next to nothing. */
const MAX_IDLE_ROWS = { cpu: 2, cuda: Number.POSITIVE_INFINITY } as const

type GenerateStep = Step<Request>

interface Outcome {
  /** Whether the cache holds now what the step was to compute. */
  readonly whole: boolean
  readonly tokens: Tokens
}

/**
 * Generates text for many requests at once. Here text becomes ids and ids become text; scheduler, runner and sampler see
 * ids only.
 */
export class Engine implements AsyncDisposable {
  readonly slots: number
  readonly #folder: ModelFolder
  readonly #prompts: PromptMaker
  readonly #runner: Runner
  readonly #cache: KVCache
  readonly #scheduler: Scheduler<Request>
  readonly #description: EngineDescription
  readonly #now: () => number
  readonly #log: RuntimeLog | undefined
  readonly #onDefunct: EngineOptions['onDefunct']
  readonly #faults = new FaultWatch()
  readonly #pacer: ChunkPacer
  readonly #loop: Promise<void>
  /** All that have not ended. */
  readonly #live = new Set<Request>()
  /** Those whose caller left while their step ran: they end with it. */
  readonly #leaving = new Set<Request>()
  #running: { readonly step: GenerateStep; readonly abort: AbortController } | undefined
  #wake = () => {}
  #closing = false
  #defunct: EngineDefunctError | undefined
  #disposed: Promise<void> | undefined

  private constructor(options: EngineOptions, parts: EngineParts) {
    const { description } = parts
    this.slots = description.slots
    this.#folder = options.folder
    this.#prompts = parts.prompts
    this.#runner = parts.runner
    this.#cache = parts.cache
    this.#description = description
    this.#now = options.now ?? (() => performance.now())
    this.#log = options.log
    this.#onDefunct = options.onDefunct
    const { chunkTokens } = description
    const unitTokens = unitOf(chunkTokens, options.runtime.device.kind)
    this.#pacer = new ChunkPacer({
      sizes: chunkSizes({ chunkTokens, unitTokens }),
      pauseMs: options.streamPauseMs ?? Number.POSITIVE_INFINITY,
    })
    this.#scheduler = new Scheduler({
      slots: description.slots,
      slotTokens: description.contextLength,
      chunkTokens,
      unitTokens,
      maxIdleRows: MAX_IDLE_ROWS[options.runtime.device.kind],
      evenRows: hasEvenRows(options, description.slots),
      batchSizes: parts.runner.batchSizes,
    })
    this.#loop = this.#serve().catch((error: unknown) => this.#giveUp(error))
  }

  /**
   * Loads tokenizer and model, makes the caches, and runs a first step, so that no request pays for it.
   *
   * @throws {SettingsError} `CONTEXT_LENGTH` is longer than the model was made for.
   * @throws {NotEnoughMemoryError} memory does not hold weights and one slot. Nothing was loaded.
   * @throws {ModelFolderError} tokenizer, chat template or weights cannot be used.
   * @throws {OrtError} ONNX Runtime refuses the model.
   */
  static async open(options: EngineOptions): Promise<Engine> {
    const { folder, runtime, progress } = options
    const { chunkTokens = CHUNK_TOKENS[runtime.device.kind] } = options
    const memory = options.memory ?? (await memoryOf(runtime))
    const { notice, runBytes, ...size } = chooseSize({ ...options, chunkTokens, memory: memory ?? BOUNDLESS })
    if (notice !== undefined) options.log?.warn(notice)
    let done = 0
    const report = () => progress?.({ phase: 'load model', done: done++, total: 4, unit: 'steps' })

    report()
    const evenRows = hasEvenRows(options, size.slots)
    const rows = size.slots + (evenRows ? size.slots % 2 : 0)
    const { config, activationType: type } = folder
    const cache = await KVCache.create(runtime, { config, type, ...size, slots: rows })
    report()
    try {
      // Side by side: the weights are loaded on the runtime's thread, while the tokenizer holds this one.
      const [loading, parsing] = await Promise.allSettled([
        openRunner({ runtime, folder, cache, chunkTokens, evenRows, log: options.log, ...size }, report),
        PromptMaker.open(folder).finally(report),
      ])
      if (loading.status === 'rejected') throw loading.reason
      const runner = loading.value
      if (parsing.status === 'rejected') {
        await runner[Symbol.asyncDispose]()
        throw parsing.reason
      }
      const prompts = parsing.value
      const description = {
        model: folder.path,
        dtype: folder.weightDtype,
        device: runtime.device.kind,
        threads: runtime.threads,
        contextLength: size.slotTokens,
        slots: size.slots,
        chunkTokens,
        weightBytes: folder.weightBytes,
        cacheBytes: cache.byteLength,
        runBytes,
        memory,
      }
      return new Engine(options, { prompts, runner, cache, description })
    } catch (error) {
      await cache[Symbol.asyncDispose]()
      throw error
    }
  }

  describe(): EngineDescription {
    return this.#description
  }

  /**
   * Text → ids: applies the model's chat template, or with `raw` takes the prompt as it is.
   *
   * @throws {InvalidRequestError} a value cannot be served; `field` names it as GenerateRequest does.
   * @throws {PromptTooLongError} the prompt leaves no room for one token in a slot.
   */
  async prepare(request: GenerateRequest): Promise<PreparedRequest> {
    return prepareRequest(request, await this.#prompts.ids(request), this.#description.contextLength)
  }

  /**
   * Generates the answer: text events as the steps give text, then one end event. The request is queued with the first
   * `next()`, and served in that order.
   *
   * @param options.signal  ends it with `canceled`: in the queue or between steps at once; while its prompt is read, or a
   *   token is made for it alone, by ending the run; while one is made for it and others when that step is through. Leaving
   *   the iteration early does the same. Either way its slot is free when the generator has ended.
   * @throws {StepFailedError} {StepOutOfMemoryError} {LogitsError} its step failed. Pieces that were given stay valid; other
   *   requests go on, and this one may be sent again.
   * @throws {TokenMaskError} its mask threw, or leaves no token.
   * @throws {EngineDefunctError} too many steps in a row have failed: this and all other requests end.
   * @throws {RuntimeStoppedError} the engine, or the runtime under it, was disposed.
   */
  async *generate(
    prepared: PreparedRequest,
    options: { readonly signal?: AbortSignal } = {},
  ): AsyncGenerator<GenerateEvent, void, undefined> {
    if (this.#defunct) throw this.#defunct
    if (this.#closing) throw new RuntimeStoppedError('The engine was disposed.')
    const request = new Request({
      prepared,
      vocabulary: this.#prompts.tokenizer,
      endTokenIds: this.#folder.endTokenIds,
      vocabSize: this.#folder.config.vocabSize,
      now: this.#now,
    })
    const leave = () => this.#leave(request)
    this.#live.add(request)
    this.#scheduler.add(request)
    options.signal?.addEventListener('abort', leave, { once: true })
    if (options.signal?.aborted) leave()
    this.#wake()
    try {
      yield* request.events()
    } finally {
      options.signal?.removeEventListener('abort', leave)
      leave()
      await request.closed
    }
  }

  /** Ends all requests with `canceled`, then frees caches and sessions. */
  [Symbol.asyncDispose](): Promise<void> {
    this.#disposed ??= this.#dispose()
    return this.#disposed
  }

  async #dispose(): Promise<void> {
    this.#closing = true
    for (const request of this.#live) this.#leave(request)
    this.#wake()
    await this.#loop
    await this.#runner[Symbol.asyncDispose]()
    await this.#cache[Symbol.asyncDispose]()
  }

  /** The loop: choose the step, run it, apply what it gave. */
  async #serve(): Promise<void> {
    while (!this.#closing) {
      const step = this.#scheduler.next({
        taken: (request, kept) => request.start(kept),
        busyChunkTokens: this.#pacer.tokens,
      })
      if (step === undefined) await this.#work()
      else {
        const outcome = await this.#run(step)
        this.#apply(step, outcome)
        await this.#mend(outcome.tokens)
      }
    }
  }

  /** After a fault: makes anew what the run used, or gives up. The requests of that step have ended; all others go on. */
  async #mend(tokens: Tokens): Promise<void> {
    const fault = this.#faults.note(tokens.values())
    if (fault === undefined || this.#closing) return
    const { message } = fault.cause instanceof Error ? fault.cause : fault
    this.#log?.warn(`A step failed (${this.#faults.inARow} in a row; ${MOST_FAILED_STEPS} end the engine): ${message}`)
    this.#scheduler.forget()
    await this.#runner.rebuild()
  }

  /** Resolves when there may be something to do. */
  #work(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve
    })
  }

  async #run(step: GenerateStep): Promise<Outcome> {
    const abort = new AbortController()
    this.#running = { step, abort }
    try {
      if (step.kind === 'copy') {
        await this.#cache.copy(step.from.index, step.slot.index, { start: step.slot.length, tokens: step.tokens })
        return { whole: true, tokens: new Map() }
      }
      const due = step.kind === 'prefill' && !step.last ? [] : occupantsOf(step)
      const batches = batchesOf(step, this.#scheduler.slots)
      const startedAt = step.kind === 'prefill' ? this.#now() : 0
      const tokens = await chooseTokens(this.#runner, batches, due, abort.signal)
      if (step.kind === 'prefill') this.#pacer.note({ tokens: step.tokens, ms: this.#now() - startedAt })
      return { whole: true, tokens }
    } catch (error) {
      const reason = stepError(error)
      return { whole: false, tokens: new Map(occupantsOf(step).map((request) => [request, reason])) }
    }
  }

  #apply(step: GenerateStep, { whole, tokens }: Outcome): void {
    this.#running = undefined
    if (whole) this.#scheduler.advance(step)
    for (const request of occupantsOf(step)) {
      if (whole && step.kind === 'copy') request.addCachedTokens(step.tokens)
      const token = tokens.get(request)
      if (token instanceof Error && !(token instanceof RunCanceledError)) this.#scheduler.discard(request)
      if (this.#leaving.has(request)) this.#finish(request, 'canceled')
      else if (token instanceof Error) this.#finish(request, token)
      else if (token !== undefined) {
        const endedBy = request.accept(token)
        if (endedBy !== undefined) this.#finish(request, endedBy)
      }
    }
  }

  #leave(request: Request): void {
    if (request.ended) return
    if (this.#running === undefined || !occupantsOf(this.#running.step).includes(request)) {
      this.#finish(request, 'canceled')
      return
    }
    this.#leaving.add(request)
    const { step, abort } = this.#running
    // Others wait for a decode step too, so it ends before its time only if they all have left.
    if (step.kind !== 'copy' && occupantsOf(step).every((one) => this.#leaving.has(one))) abort.abort()
  }

  #finish(request: Request, how: EndedBy | Error): void {
    this.#scheduler.remove(request)
    this.#live.delete(request)
    this.#leaving.delete(request)
    if (how instanceof Error) request.fail(how)
    else request.end(how)
  }

  /** The loop has ended before its time: nobody shall wait for it. */
  #giveUp(error: unknown): void {
    this.#defunct = error instanceof EngineDefunctError ? error : new EngineDefunctError('its loop has ended', error)
    for (const request of this.#live) this.#finish(request, this.#leaving.has(request) ? 'canceled' : this.#defunct)
    if (!this.#closing) this.#onDefunct?.(this.#defunct)
  }
}

/** One slot alone needs none: its steps are always of one row. */
function hasEvenRows({ runtime, folder, batchInvariant = true }: EngineOptions, slots: number): boolean {
  return batchInvariant && slots > 1 && runtime.device.kind === 'cpu' && roundsInPairs(folder)
}

/** As UNIT_TOKENS, or as a whole chunk where a chunk is not made of those. */
function unitOf(chunkTokens: number, device: keyof typeof UNIT_TOKENS): number {
  return chunkTokens % UNIT_TOKENS[device] === 0 ? UNIT_TOKENS[device] : chunkTokens
}

interface EngineParts {
  readonly prompts: PromptMaker
  readonly runner: Runner
  readonly cache: KVCache
  readonly description: EngineDescription
}

const BOUNDLESS: AvailableMemory = { bytes: Number.POSITIVE_INFINITY, boundBy: 'an unknown device' }

/** A GPU's memory is not known here; where it does not do, making the caches fails. */
async function memoryOf(runtime: Runtime): Promise<AvailableMemory | undefined> {
  return runtime.device.kind === 'cuda' ? undefined : availableMemory()
}

/**
 * Loads the model and runs both kinds of steps once: memory is taken, and the weights are read, at the first of each.
 * @throws {ModelFolderError} they give no numbers. Else each request would fail.
 */
async function openRunner(options: RunnerOptions, report: () => void): Promise<Runner> {
  const runner = await Runner.open(options)
  report()
  const { config, path } = options.folder
  const id = config.bosTokenId
  const row = { temperature: 1, penalty: 1, edits: new Map(), candidates: 1 }
  try {
    for (const batch of [
      { first: 0, ids: [[id, id]], lengths: [0], wanted: [0] },
      { first: 0, ids: [[id]], lengths: [2], wanted: [0] },
    ]) {
      const [candidates] = await runner.run([batch], [row])
      assertFinite(candidates!)
    }
  } catch (error) {
    await runner[Symbol.asyncDispose]()
    if (!(error instanceof LogitsError)) throw error
    throw new ModelFolderError(path, 'its weights give logits that are no numbers. Export the checkpoint again.', {
      cause: error,
    })
  }
  report()
  return runner
}
