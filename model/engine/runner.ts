import { OrtError } from '../errors.js'
import type { ModelFolder } from '../folder.js'
import type { Binding, Runtime, RuntimeLog, Session, TensorType } from '../runtime/types.js'
import { CapturedDecode, CaptureError, capturedSizes } from './captured-decode.js'
import type { KVCache } from './kv-cache.js'
import { type ChosenLogprob, type LogprobQuestion, LogprobRun } from './logprobs.js'
import type { Candidates, SamplingRow } from './sampler.js'
import { SamplingRun } from './sampling-run.js'
import type { DecodeStep, PrefillStep } from './scheduler.js'
import type { Occupant, Slot } from './slot.js'
import { elements, Views } from './views.js'

/** Neighbouring rows of the cache, and the tokens that they get. */
export interface Batch {
  /** First row of the cache. */
  readonly first: number
  /** One list of S ids for each of the B rows; B or S is 1. */
  readonly ids: readonly (readonly number[])[]
  /** Tokens of each row that the cache holds before. */
  readonly lengths: readonly number[]
  /** Which of the B·S tokens get logits, rising, from 0. */
  readonly wanted: readonly number[]
}

/** @param slots  all of the cache, in its order. */
export function batchesOf<R extends Occupant>(
  step: PrefillStep<R> | DecodeStep<R>,
  slots: readonly Slot<R>[],
): Batch[] {
  if (step.kind === 'prefill') {
    const { slot, tokens, last } = step
    const ids = slot.occupant!.sequence.slice(slot.length, slot.length + tokens)
    // A single token would take the attention kernel of decode steps, which rounds otherwise. So it gets another behind it,
    // which is written where nobody reads: a prompt leaves room for one token at least.
    if (tokens === 1) ids.push(ids[0]!)
    return [{ first: slot.index, ids: [ids], lengths: [slot.length], wanted: last ? [tokens - 1] : [] }]
  }
  return step.windows.map(({ first, rows, slots: decoding }) => {
    // The cache may have one row more than there are slots.
    const all = Array.from({ length: rows }, (_, row) => slots[first + row])
    return {
      first,
      // An idle row gets any token: it is written behind what the row holds, and its logits are not computed.
      ids: all.map((slot) => [slot && decoding.includes(slot) ? slot.occupant!.sequence[slot.length]! : 0]),
      lengths: all.map((slot) => slot?.length ?? 0),
      wanted: decoding.map((slot) => slot.index - first),
    }
  })
}

export interface RunnerOptions {
  readonly runtime: Runtime
  readonly folder: ModelFolder
  readonly cache: KVCache
  readonly slots: number
  /** T */
  readonly slotTokens: number
  readonly chunkTokens: number
  /** Logits of a decode step are computed for an even number of rows, as its rows are even in number. */
  readonly evenRows?: boolean
  readonly log?: RuntimeLog | undefined
}

/**
 * Weights from which on a packed copy pays: below, packing takes milliseconds. And ONNX Runtime 1.30 misreads a packed
 * weight of less than 1 MiB, which it saves without alignment; models of this size have none so small.
 */
const PACKED_FROM_BYTES = 256 * 2 ** 20

/** Candidates that are fetched for each row at first, of which the smallest that will do is taken; one row may get more. */
const FIRST_CANDIDATES = [64, 512]
const CANDIDATES_FACTOR = 8

/** Row counts for which the fast kernels look for their best shape as the model loads, by ONNX Runtime's own default. */
const PROFILED_ROWS = [1, 16, 64, 256]

/**
 * Session config for the model's graph. On CUDA, f16 with symmetric blocks of 32 is the one shape for which the packaged build
 * has its fast weight-only kernels, and they are off unless asked for. A row count that is captured must be profiled before.
 * Source: docs/contrib_ops/cuda/matmul_nbits.md of ONNX Runtime 1.30; read, not run.
 */
function modelConfig({ runtime, folder, slots }: RunnerOptions): Record<string, string> {
  const hasFastKernels = folder.activationType === 'f16' && folder.manifest.blockSize === 32
  if (runtime.device.kind !== 'cuda' || !hasFastKernels) return {}
  const rows = new Set([...PROFILED_ROWS, ...capturedSizes(slots)])
  return {
    'ep.cuda.fpa_intb_gemm': '1',
    'ep.cuda.fpa_intb_profile_m': [...rows].sort((a, b) => a - b).join(','),
  }
}

/** Runs steps of the model, and the sampling graph on the logits where they lie. */
export class Runner implements AsyncDisposable {
  readonly #runtime: Runtime
  readonly #cache: KVCache
  readonly #vocabSize: number
  readonly #model: Session
  readonly #sampling: SamplingRun
  readonly #logprobs: LogprobRun
  readonly #windows = new Map<string, Promise<Binding>>()
  readonly #tensors: RunnerTensors
  readonly #evenRows: boolean
  readonly #captured: CapturedDecode | undefined
  /** Where the logits of each row of the last run lie. */
  #logitRows: readonly number[] = []

  private constructor(options: RunnerOptions, parts: RunnerParts) {
    this.#runtime = options.runtime
    this.#cache = options.cache
    this.#vocabSize = options.folder.config.vocabSize
    this.#model = parts.model
    this.#sampling = parts.sampling
    this.#logprobs = parts.logprobs
    this.#tensors = parts.tensors
    this.#evenRows = options.evenRows ?? false
    this.#captured = parts.captured
  }

  /**
   * Loads the model. On CUDA, decode steps are captured as graphs, and must then answer as the same steps run plainly; if
   * they do not, or cannot be captured, the model is loaded anew without, and the log says why.
   *
   * @throws {OrtError} ONNX Runtime refuses the graph.
   */
  static async open(options: RunnerOptions): Promise<Runner> {
    if (options.runtime.device.kind === 'cpu') return Runner.#load(options, false)
    let runner: Runner | undefined
    try {
      runner = await Runner.#load(options, true)
      await runner.#proveCapture()
      return runner
    } catch (error) {
      await runner?.[Symbol.asyncDispose]()
      if (!(error instanceof OrtError || error instanceof CaptureError)) throw error
      options.log?.warn(`Decode steps run without CUDA graphs, which is slower: ${error.message}`)
      return Runner.#load(options, false)
    }
  }

  static async #load(options: RunnerOptions, capture: boolean): Promise<Runner> {
    const { runtime, folder } = options
    const load = runtime.device.kind === 'cpu' && folder.weightBytes >= PACKED_FROM_BYTES ? 'packed' : 'plain'
    const config = modelConfig(options)
    const model = await runtime.openSession({ model: folder.engineModel, load, config, capture })
    const { slots } = options
    const { vocabSize } = folder.config
    const about = { runtime, type: folder.activationType, vocabSize, slots }
    const sampling = await SamplingRun.open({
      ...about,
      mostEdits: options.slotTokens + folder.endTokenIds.length,
      mostCandidates: slots * FIRST_CANDIDATES.at(-1)!,
    })
    const logprobs = await LogprobRun.open(about)
    const tensors = await createTensors(options)
    const { logits } = tensors
    const captured = capture ? await CapturedDecode.open({ ...options, model, vocabSize, logits }) : undefined
    return new Runner(options, { model, sampling, logprobs, tensors, captured })
  }

  /** The row counts that a decode step may have, from row 0, where only those are captured; else undefined: any. */
  get batchSizes(): readonly number[] | undefined {
    return this.#captured?.batchSizes
  }

  /**
   * Runs the model on one or more batches, and the sampling graph on the logits of all of them.
   *
   * @param rows  one for each wanted row, in the order of the batches. None: no logits are computed.
   * @param signal  ends the run.
   * @returns candidates in the order of `rows`. They lie in memory that the next call reuses.
   * @throws {RunCanceledError} `signal` fired. Rows from `lengths` on are undefined, so the same step may be run again.
   * @throws {OrtError} ONNX Runtime refused the run. The same holds.
   */
  async run(batches: readonly Batch[], rows: readonly SamplingRow[], signal?: AbortSignal): Promise<Candidates[]> {
    const [batch, ...others] = batches
    const isCaptured = batch !== undefined && others.length === 0 && this.#isCaptured(batch)
    if (isCaptured) {
      const ids = batch.ids.map(([id]) => id!)
      return this.#sample(this.#captured!.bind(ids, batch.lengths), { rows, logitRows: batch.wanted, signal })
    }
    const { bindings, logitRows } = await this.#bindModel(batches)
    return this.#sample(bindings, { rows, logitRows, signal })
  }

  /** Whether a batch is a step of which there is a captured graph: one token for each row from the cache's first on. */
  #isCaptured({ first, ids }: Batch): boolean {
    const isDecode = first === 0 && ids.every((row) => row.length === 1)
    return isDecode && (this.#captured?.batchSizes.includes(ids.length) ?? false)
  }

  async #sample(
    model: readonly Binding[],
    run: { rows: readonly SamplingRow[]; logitRows: readonly number[]; signal?: AbortSignal | undefined },
  ): Promise<Candidates[]> {
    const { rows, logitRows, signal } = run
    this.#logitRows = logitRows
    if (rows.length === 0) {
      await this.#runtime.run(model, signal)
      return []
    }
    const wanted = Math.max(...rows.map((row) => row.candidates))
    const count = FIRST_CANDIDATES.find((size) => size >= wanted) ?? FIRST_CANDIDATES.at(-1)!
    const candidates = Math.min(count, this.#vocabSize)
    const place = { firstLogits: 0, candidates }
    const sampling = await this.#sampling.bind(this.#tensors.logits, placed(rows, logitRows), place)
    await this.#runtime.run([...model, sampling], signal)
    return logitRows.map((row) => this.#sampling.read(row, candidates))
  }

  /** @throws {CaptureError} replays give other logits. @throws {OrtError} a run cannot be captured. */
  async #proveCapture(): Promise<void> {
    const captured = this.#captured!
    const bestLogits = async (rowCount: number, model: readonly Binding[]) => {
      const rows = Array.from({ length: rowCount }, () => IDLE_ROW)
      const candidates = await this.#sample(model, { rows, logitRows: [...rows.keys()] })
      return candidates.flatMap(({ values }) => [...values])
    }
    await captured.prove({
      plain: async (ids, lengths) => {
        const batch = { first: 0, ids: ids.map((id) => [id]), lengths, wanted: [...ids.keys()] }
        return bestLogits(ids.length, (await this.#bindModel([batch])).bindings)
      },
      replayed: (ids, lengths) => bestLogits(ids.length, captured.bind(ids, lengths)),
    })
  }

  /**
   * More candidates for one row of the last run, for which those at hand did not do. Overwrites the candidates of all rows.
   * @param index  of the row in the last run
   * @param known  how many it had
   */
  async widen(index: number, row: SamplingRow, known: number): Promise<Candidates> {
    const candidates = Math.min(known * CANDIDATES_FACTOR, this.#vocabSize)
    const place = { firstLogits: this.#logitRows[index]!, candidates }
    await this.#runtime.run([await this.#sampling.bind(this.#tensors.logits, [row], place)])
    return this.#sampling.read(0, candidates)
  }

  /** Log-probabilities from the logits of the last run. @param questions  at least one, by rising row of that run. */
  logprobs(questions: readonly LogprobQuestion[]): Promise<ChosenLogprob[]> {
    const placed = questions.map((question) => ({ ...question, row: this.#logitRows[question.row]! }))
    return this.#logprobs.ask(this.#tensors.logits, placed)
  }

  /**
   * Makes the bindings anew: after a run that failed nobody knows which of its tensors were bound. The tensors themselves
   * stay. A run writes what it reads but for the cache, and of the cache it reads only what its own requests have written.
   * What is captured stays as well: it was bound once, and not by the run that failed.
   *
   * @throws {OrtError} {RuntimeStoppedError} the runtime cannot do even that.
   */
  async rebuild(): Promise<void> {
    await this.#disposeWindows()
    await this.#sampling.rebuild()
    await this.#logprobs.rebuild()
  }

  async #disposeWindows(): Promise<void> {
    const windows = await Promise.allSettled(this.#windows.values())
    this.#windows.clear()
    for (const window of windows) if (window.status === 'fulfilled') await window.value[Symbol.asyncDispose]()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#disposeWindows()
    await this.#captured?.[Symbol.asyncDispose]()
    for (const tensor of Object.values(this.#tensors)) await tensor[Symbol.asyncDispose]()
    await this.#sampling[Symbol.asyncDispose]()
    await this.#logprobs[Symbol.asyncDispose]()
    await this.#model[Symbol.asyncDispose]()
  }

  /** @returns also where the logits of each wanted row will lie. */
  async #bindModel(batches: readonly Batch[]): Promise<{ bindings: Binding[]; logitRows: number[] }> {
    const { inputIds, lastPositions, totalLength, logitRows, logits } = this.#tensors
    const ids = elements(inputIds, BigInt64Array)
    const positions = elements(lastPositions, Int32Array)
    const gathered = elements(logitRows, BigInt64Array)
    const ends = batches.flatMap((batch) => batch.ids.map((row, index) => batch.lengths[index]! + row.length))
    elements(totalLength, Int32Array)[0] = Math.max(...ends)

    const bindings: Binding[] = []
    const logitRowsOfWanted: number[] = []
    let [idCount, rowCount, logitCount] = [0, 0, 0]
    for (const { first, ids: batchIds, lengths, wanted } of batches) {
      const [B, S] = [batchIds.length, batchIds[0]!.length]
      const isOdd = this.#evenRows && S === 1 && wanted.length % 2 === 1
      const R = wanted.length + (isOdd ? 1 : 0)
      for (const [index, id] of batchIds.flat().entries()) ids[idCount + index] = BigInt(id)
      for (const [row, length] of lengths.entries()) positions[rowCount + row] = length + S - 1
      for (const [index, token] of wanted.entries()) {
        gathered[logitCount + index] = BigInt(token)
        logitRowsOfWanted.push(logitCount + index)
      }
      if (isOdd) gathered[logitCount + wanted.length] = BigInt(wanted.at(-1)!)

      const binding = await this.#window(first, B)
      binding.bindInput('input_ids', await inputIds.view([B, S], idCount))
      binding.bindInput('seqlens_k', await lastPositions.view([B], rowCount))
      binding.bindInput('total_sequence_length', await totalLength.view([]))
      binding.bindInput('logit_rows', await logitRows.view([R], logitCount))
      binding.bindOutput('logits', await logits.view([R, this.#vocabSize], logitCount * this.#vocabSize))
      bindings.push(binding)
      idCount += B * S
      rowCount += B
      logitCount += R
    }
    return { bindings, logitRows: logitRowsOfWanted }
  }

  /** A binding with the cache's rows bound for good; what a step feeds is bound anew each time. */
  #window(first: number, rows: number): Promise<Binding> {
    const name = `${first}+${rows}`
    const known = this.#windows.get(name)
    if (known !== undefined) return known
    const created = this.#createWindow(first, rows)
    this.#windows.set(name, created)
    return created
  }

  async #createWindow(first: number, rows: number): Promise<Binding> {
    const binding = await this.#runtime.createBinding(this.#model)
    for (const [name, tensor] of await this.#cache.window(first, rows)) {
      binding.bindInput(`past_key_values.${name}`, tensor)
      binding.bindOutput(`present.${name}`, tensor)
    }
    return binding
  }
}

interface RunnerParts {
  readonly model: Session
  readonly sampling: SamplingRun
  readonly logprobs: LogprobRun
  readonly tensors: RunnerTensors
  readonly captured: CapturedDecode | undefined
}

type RunnerTensors = Awaited<ReturnType<typeof createTensors>>

/** All that goes into a run and comes out of it, at its largest; each run uses views. */
async function createTensors({ runtime, folder, slots, chunkTokens }: RunnerOptions) {
  const host = async (type: TensorType, size: number) =>
    new Views(await runtime.createTensor({ type, shape: [size], place: 'host' }))
  // One row more than slots, where rows are made even.
  const rows = slots + 1
  const shape = [rows, folder.config.vocabSize]
  const logits = await runtime.createTensor({ type: folder.activationType, shape, place: 'device' })
  return {
    inputIds: await host('i64', Math.max(rows, chunkTokens)),
    lastPositions: await host('i32', rows),
    totalLength: await host('i32', 1),
    logitRows: await host('i64', rows),
    logits: new Views(logits),
  }
}

/** Rows that are computed for nobody. */
const IDLE_ROW: SamplingRow = { temperature: 1, penalty: 1, edits: new Map(), candidates: 1 }

/** Sampling rows as their logits lie, up to the last one. */
function placed(rows: readonly SamplingRow[], logitRows: readonly number[]): SamplingRow[] {
  const all = Array.from({ length: Math.max(...logitRows) + 1 }, () => IDLE_ROW)
  for (const [index, row] of rows.entries()) all[logitRows[index]!] = row
  return all
}
