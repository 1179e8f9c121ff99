/**
 * What the engine sees of ONNX Runtime. Everything behind these types lives on one worker thread: calls are answered in the
 * order in which they were made, and at most one run is in flight.
 */

/** f16 and bf16 travel as their 16 bits. */
export type TensorType = 'f32' | 'f16' | 'bf16' | 'i64' | 'i32' | 'u8' | 'i8' | 'bool'

/** Where a tensor's bytes lie. On the CPU provider both are the same memory; on CUDA `host` is copied at each bind. */
export type Place = 'host' | 'device'

export interface Device {
  readonly kind: 'cpu' | 'cuda'
  /** CUDA ordinal; 0 on the CPU. */
  readonly id: number
  /** Why `DEVICE=auto` did not take the GPU; absent where it did, or where the CPU was asked for. */
  readonly fallbackReason?: string
}

export interface TensorInfo {
  readonly name: string
  readonly type: TensorType
  /** −1 where the graph leaves the dimension open. */
  readonly shape: readonly number[]
}

export interface Tensor extends AsyncDisposable {
  readonly type: TensorType
  readonly shape: readonly number[]
  readonly place: Place
  readonly byteLength: number
  /**
   * The bytes, for `host` tensors (and for `device` tensors of the CPU provider): shared memory, so that a write is seen by
   * the next run and a run's output is seen when its promise resolves. Not to be touched while a run that uses it is in
   * flight, nor after dispose.
   * @throws {TypeError} the tensor lies on a GPU.
   */
  readonly bytes: Uint8Array
  /**
   * A tensor over a part of this one's memory: no copy. It must be disposed before its owner.
   * @param byteOffset  a multiple of the element's size, within this tensor.
   */
  view(shape: readonly number[], byteOffset: number): Promise<Tensor>
}

export interface Session extends AsyncDisposable {
  readonly inputs: readonly TensorInfo[]
  readonly outputs: readonly TensorInfo[]
}

/** Which tensors a session reads and writes. A name stays bound until it is bound anew. */
export interface Binding extends AsyncDisposable {
  /** Takes effect with the next run. The same tensor may be bound as an input and an output (KV cache in place). */
  bindInput(name: string, tensor: Tensor): void
  bindOutput(name: string, tensor: Tensor): void
}

export interface SessionOptions {
  /** The model's file, with its external data beside it; or the bytes of a graph without external data. */
  readonly model: string | Uint8Array
  /**
   * 'packed': map a copy of the model that ONNX Runtime has already packed for this CPU, and make that copy when it is
   * missing, stale or foreign (see packed-cache.ts). 'plain': load as it is. Only for a model from a file on the CPU.
   */
  readonly load?: 'packed' | 'plain'
  /** Session config entries beyond those that the runtime sets itself. */
  readonly config?: Readonly<Record<string, string>>
  /**
   * On CUDA: a binding that names a graph is captured at one of its first runs, and replayed from then on. Needs a graph
   * whose every node runs there, or opening fails. Nothing is captured on the CPU.
   */
  readonly capture?: boolean
}

export interface BindingOptions {
  /**
   * The number, from 1, under which a session that captures keeps this binding's work. A replay repeats what was captured:
   * the same shapes, the same memory, and the values that host tensors had then. So all that varies lies on the device.
   */
  readonly graph?: number
}

/** Where the runtime says what an operator should know. A pino logger is one. */
export interface RuntimeLog {
  info(message: string): void
  warn(message: string): void
}

export interface Runtime extends AsyncDisposable {
  readonly device: Device
  /** ONNX Runtime's own version, "1.30.0". */
  readonly version: string
  readonly threads: number

  openSession(options: SessionOptions): Promise<Session>
  /** Zeroed memory of the given shape. @throws {OutOfMemoryError} there is no such memory. */
  createTensor(options: { type: TensorType; shape: readonly number[]; place: Place }): Promise<Tensor>
  createBinding(session: Session, options?: BindingOptions): Promise<Binding>
  /**
   * Runs bindings one after another on the worker thread, as one message there and one back.
   * @param signal  ends the run in flight (RunOptionsSetTerminate) and skips the bindings behind it.
   * @throws {RunCanceledError} the signal fired. Outputs are undefined, the sessions usable.
   * @throws {OrtError} ONNX Runtime refused a run; the bindings behind it did not run.
   */
  run(bindings: readonly Binding[], signal?: AbortSignal): Promise<void>
}
