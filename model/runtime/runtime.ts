import { constants } from 'node:buffer'
import { stat } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { resolve } from 'node:path'
import { OrtError, OutOfMemoryError, RunCanceledError, RuntimeStoppedError } from '../errors.js'
import { type Api, bindApi, pointerOut } from './api.js'
import { cpuIdentity } from './cpu.js'
import { elementSize, tensorBytes } from './element-type.js'
import { findLibrary, loadLibrary } from './library.js'
import type { BindingRun, Calls, Id, Kind, Ready } from './messages.js'
import type { SharedBytes } from './native-tensor.js'
import { discardPacked, findOrMakePacked } from './packed-cache.js'
import type {
  Binding,
  BindingOptions,
  Device,
  Place,
  Runtime,
  RuntimeLog,
  Session,
  SessionOptions,
  Tensor,
  TensorInfo,
  TensorType,
} from './types.js'
import { ignoreStopped, RuntimeWorker } from './worker.js'

export interface RuntimeOptions {
  /** 'auto': the GPU where ONNX Runtime can use it, else the CPU, with `device.fallbackReason`. */
  readonly device: 'auto' | 'cpu' | 'cuda'
  /** CUDA ordinal; 0 by default. */
  readonly deviceId?: number
  /** Threads of one run, the calling one among them; by default as many as this process may use. */
  readonly threads?: number
  /** Most bytes that the arena of one session takes on the GPU. Has no meaning on the CPU. */
  readonly memoryLimitBytes?: number
  /** TensorFloat-32 for f32 products on the GPU; true by default. Has no meaning for f16, bf16 and the CPU. */
  readonly tf32?: boolean
  readonly log?: RuntimeLog
}

/**
 * Starts ONNX Runtime on a thread of its own.
 *
 * @throws {LibraryError} there is no library for this platform, or it is of another version.
 * @throws {DeviceError} `device` is 'cuda' and there is no GPU that ONNX Runtime can use.
 */
export async function openRuntime(options: RuntimeOptions): Promise<Runtime> {
  const threads = options.threads ?? availableParallelism()
  if (!Number.isInteger(threads) || threads < 1) throw new RangeError(`threads is ${threads}; it must be 1 or more.`)
  const libraryPath = findLibrary()
  // This thread has it first and last: it must not be unloaded with the worker, whose library has threads of its own.
  const api = bindApi(loadLibrary(libraryPath))
  const { worker, ready } = await RuntimeWorker.start({
    libraryPath,
    threads,
    device: options.device,
    deviceId: options.deviceId ?? 0,
    memoryLimitBytes: options.memoryLimitBytes,
    tf32: options.tf32 ?? true,
  })
  return new WorkerRuntime({ worker, ready, api, threads, log: options.log })
}

// onnxruntime_run_options_config_keys.h: which captured graph a run is, and what says that it is none.
const GRAPH_ID = 'gpu_graph_id'
const NO_GRAPH = -1

class WorkerRuntime implements Runtime {
  readonly device: Device
  readonly version: string
  readonly threads: number
  readonly #worker: RuntimeWorker
  readonly #api: Api
  readonly #build: string
  readonly #log: RuntimeLog | undefined
  /** OrtRunOptions * of the runs that were asked for and not answered. */
  readonly #runs = new Set<bigint>()
  readonly #terminateAll = () => {
    for (const run of this.#runs) this.#api.RunOptionsSetTerminate(run)
  }
  #closing: Promise<void> | undefined

  constructor(parts: {
    worker: RuntimeWorker
    ready: Ready
    api: Api
    threads: number
    log: RuntimeLog | undefined
  }) {
    this.device = parts.ready.device
    this.version = parts.ready.version
    this.threads = parts.threads
    this.#worker = parts.worker
    this.#api = parts.api
    this.#build = parts.ready.build
    this.#log = parts.log
    // Node waits for its threads as it exits, so a run in flight would hold up the end of the process.
    process.on('exit', this.#terminateAll)
  }

  async openSession({ model, load = 'plain', config = {}, capture = false }: SessionOptions): Promise<Session> {
    if (typeof model === 'string') await stat(model)
    const packable = load === 'packed' && typeof model === 'string' && this.device.kind === 'cpu'
    return packable ? this.#openPacked(resolve(model), config) : this.#open(model, config, capture)
  }

  async #openPacked(model: string, config: Readonly<Record<string, string>>): Promise<Session> {
    const packed = await findOrMakePacked({
      model,
      library: `${this.version}, ${this.#build}`,
      cpu: await cpuIdentity(),
      config,
      pack: async (save) => {
        await this.#call('savePacked', { model, config, save })
      },
      log: this.#log,
    })
    if (packed === undefined) return this.#open(model, config)
    try {
      return await this.#open(packed, config)
    } catch (error) {
      if (!(error instanceof OrtError)) throw error
      await discardPacked(packed)
      this.#log?.warn(
        `The packed copy ${packed} is broken and was removed; the next start makes it again: ${error.message}`,
      )
      return this.#open(model, config)
    }
  }

  async #open(model: string | Uint8Array, config: Readonly<Record<string, string>>, capture = false): Promise<Session> {
    const { id, inputs, outputs } = await this.#call('openSession', { model, config, capture })
    return new RemoteSession(this.#call, { id, inputs, outputs, captures: capture && this.device.kind === 'cuda' })
  }

  async createTensor(options: { type: TensorType; shape: readonly number[]; place: Place }): Promise<Tensor> {
    const { type, place } = options
    const shape = [...options.shape]
    const byteLength = tensorBytes(type, shape)
    if (byteLength > constants.MAX_LENGTH - 64) throw new OutOfMemoryError(byteLength, 'One buffer of Node')
    const { id, shared } = await this.#call('createTensor', { type, shape, place })
    return new RemoteTensor(this.#call, { id, type, shape, place, byteLength, shared })
  }

  async createBinding(session: Session, { graph }: BindingOptions = {}): Promise<Binding> {
    if (graph !== undefined && !(Number.isInteger(graph) && graph >= 1)) {
      throw new RangeError(`graph is ${graph}; it must be an integer from 1 on.`)
    }
    const remote = this.#own(session, RemoteSession, 'session')
    const { id } = await this.#call('createBinding', { session: remote.id })
    return new RemoteBinding(this.#call, id, remote, graph)
  }

  async run(bindings: readonly Binding[], signal?: AbortSignal): Promise<void> {
    if (signal?.aborted) throw new RunCanceledError()
    const remotes = bindings.map((binding) => this.#own(binding, RemoteBinding, 'binding'))
    for (const remote of remotes) remote.assertRunnable()

    // One of its own for each run: a terminate flag that comes late then meets no other run.
    const runs = remotes.map((remote) => this.#createRunOptions(remote))
    for (const run of runs) this.#runs.add(run)
    const terminate = () => {
      for (const run of runs) this.#api.RunOptionsSetTerminate(run)
    }
    signal?.addEventListener('abort', terminate, { once: true })
    try {
      await this.#call('run', { bindings: remotes.map((remote, index) => remote.takeChanges(runs[index]!)) })
    } catch (error) {
      if (error instanceof OrtError && (signal?.aborted || this.#closing)) throw new RunCanceledError()
      throw error
    } finally {
      signal?.removeEventListener('abort', terminate)
      for (const run of runs) {
        this.#runs.delete(run)
        this.#api.ReleaseRunOptions(run)
      }
    }
  }

  #createRunOptions(binding: RemoteBinding): bigint {
    const runOptions = pointerOut((out) => this.#api.CreateRunOptions(out))
    if (binding.captures) this.#api.AddRunConfigEntry(runOptions, GRAPH_ID, String(binding.graph ?? NO_GRAPH))
    return runOptions
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close(): Promise<void> {
    this.#terminateAll()
    process.off('exit', this.#terminateAll)
    await this.#worker.close()
  }

  readonly #call: Call = (kind, question) => {
    if (this.#closing) return Promise.reject(new RuntimeStoppedError('The runtime was disposed.'))
    return this.#worker.call(kind, question)
  }

  #own<T extends Remote>(object: unknown, type: new (...values: never[]) => T, what: string): T {
    if (!(object instanceof type) || object.call !== this.#call) {
      throw new TypeError(`The ${what} is not one of this runtime.`)
    }
    object.assertLive()
    return object
  }
}

type Call = <K extends Kind>(kind: K, question: Calls[K]['question']) => Promise<Calls[K]['answer']>

/** The main thread's side of a native object: its id, and whether it still lives. */
abstract class Remote implements AsyncDisposable {
  readonly call: Call
  readonly id: Id
  protected abstract readonly what: string
  #disposed: Promise<void> | undefined

  constructor(call: Call, id: Id) {
    this.call = call
    this.id = id
  }

  /** @throws {TypeError} it was disposed. */
  assertLive(): void {
    if (this.#disposed) throw new TypeError(`The ${this.what} was disposed.`)
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#disposed ??= this.call('dispose', { id: this.id }).catch(ignoreStopped)
    return this.#disposed
  }
}

class RemoteSession extends Remote implements Session {
  readonly inputs: readonly TensorInfo[]
  readonly outputs: readonly TensorInfo[]
  /** Each of its runs has to say which graph it is. */
  readonly captures: boolean
  protected readonly what = 'session'

  constructor(
    call: Call,
    parts: { id: Id; inputs: readonly TensorInfo[]; outputs: readonly TensorInfo[]; captures: boolean },
  ) {
    super(call, parts.id)
    this.inputs = parts.inputs
    this.outputs = parts.outputs
    this.captures = parts.captures
  }
}

class RemoteTensor extends Remote implements Tensor {
  readonly type: TensorType
  readonly shape: readonly number[]
  readonly place: Place
  readonly byteLength: number
  protected readonly what = 'tensor'
  readonly #shared: SharedBytes | undefined

  constructor(
    call: Call,
    parts: {
      id: Id
      type: TensorType
      shape: readonly number[]
      place: Place
      byteLength: number
      shared: SharedBytes | undefined
    },
  ) {
    super(call, parts.id)
    this.type = parts.type
    this.shape = parts.shape
    this.place = parts.place
    this.byteLength = parts.byteLength
    this.#shared = parts.shared
  }

  get bytes(): Uint8Array {
    this.assertLive()
    if (!this.#shared) throw new TypeError('The tensor lies on the GPU: its bytes cannot be seen from here.')
    return new Uint8Array(this.#shared.memory, this.#shared.byteOffset, this.byteLength)
  }

  async view(shape: readonly number[], byteOffset: number): Promise<Tensor> {
    this.assertLive()
    const byteLength = tensorBytes(this.type, shape)
    if (!Number.isSafeInteger(byteOffset) || byteOffset < 0 || byteOffset % elementSize(this.type) !== 0) {
      throw new RangeError(`byteOffset is ${byteOffset}; it must be a multiple of ${elementSize(this.type)}, from 0.`)
    }
    if (byteOffset + byteLength > this.byteLength) {
      throw new RangeError(
        `A view of ${byteLength} bytes at ${byteOffset} does not lie within the tensor's ${this.byteLength} bytes.`,
      )
    }
    const { type, place } = this
    const { id } = await this.call('createView', { owner: this.id, type, shape: [...shape], byteOffset })
    const shared = this.#shared && { ...this.#shared, byteOffset: this.#shared.byteOffset + byteOffset }
    return new RemoteTensor(this.call, { id, type, shape: [...shape], place, byteLength, shared })
  }
}

class RemoteBinding extends Remote implements Binding {
  readonly graph: number | undefined
  protected readonly what = 'binding'
  readonly #session: RemoteSession
  #changes: { side: 'input' | 'output'; name: string; tensor: RemoteTensor }[] = []

  constructor(call: Call, id: Id, session: RemoteSession, graph: number | undefined) {
    super(call, id)
    this.#session = session
    this.graph = graph
  }

  get captures(): boolean {
    return this.#session.captures
  }

  bindInput(name: string, tensor: Tensor): void {
    this.#bind('input', name, tensor)
  }

  bindOutput(name: string, tensor: Tensor): void {
    this.#bind('output', name, tensor)
  }

  /** @throws {TypeError} the session, or a tensor that was to be bound, was disposed meanwhile. */
  assertRunnable(): void {
    this.#session.assertLive()
    for (const { name, tensor } of this.#changes) {
      try {
        tensor.assertLive()
      } catch (cause) {
        throw new TypeError(`The tensor bound to ${name} was disposed before the run.`, { cause })
      }
    }
  }

  /** What was bound since the last run; from now on it is the worker's. */
  takeChanges(runOptions: bigint): BindingRun {
    const changes = this.#changes.map(({ side, name, tensor }) => ({ side, name, tensor: tensor.id }))
    this.#changes = []
    return { binding: this.id, runOptions, changes }
  }

  #bind(side: 'input' | 'output', name: string, tensor: Tensor): void {
    this.assertLive()
    if (!(tensor instanceof RemoteTensor) || tensor.call !== this.call) {
      throw new TypeError(`The tensor for ${name} is not one of this runtime.`)
    }
    tensor.assertLive()
    const known = side === 'input' ? this.#session.inputs : this.#session.outputs
    const info = known.find((candidate) => candidate.name === name)
    if (!info) {
      throw new TypeError(`The session has no ${side} ${name}. It has: ${known.map((one) => one.name).join(', ')}.`)
    }
    if (tensor.type !== info.type || !fits(tensor.shape, info.shape)) {
      throw new TypeError(
        `The ${side} ${name} is ${info.type} ${shapeText(info.shape)}, but the tensor is ${tensor.type} ${shapeText(tensor.shape)}.`,
      )
    }
    this.#changes.push({ side, name, tensor })
  }
}

/** Whether a shape agrees with one of the graph, in which −1 stands for any dimension. */
function fits(shape: readonly number[], graph: readonly number[]): boolean {
  return (
    shape.length === graph.length && graph.every((dimension, axis) => dimension === -1 || dimension === shape[axis])
  )
}

function shapeText(shape: readonly number[]): string {
  return `[${shape.map((dimension) => (dimension === -1 ? '?' : dimension)).join(', ')}]`
}
