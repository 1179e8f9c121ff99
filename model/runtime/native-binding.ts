import { type Api, pointerOut } from './api.js'
import type { NativeSession } from './native-session.js'
import type { NativeTensor } from './native-tensor.js'
import { Resource } from './resource.js'

/** One change to what a binding holds, in the order in which the caller made it. */
export interface BindChange {
  readonly side: 'input' | 'output'
  readonly name: string
  readonly tensor: NativeTensor
}

/**
 * An OrtIoBinding with all that it borrows: a session, and for each bound name a tensor, which stays in memory until the
 * name is bound anew or the binding is freed.
 */
export class NativeBinding {
  readonly resource: Resource
  readonly #api: Api
  readonly #session: NativeSession
  readonly #handle: bigint
  readonly #bound = { input: new Map<string, NativeTensor>(), output: new Map<string, NativeTensor>() }

  constructor(api: Api, session: NativeSession) {
    this.#api = api
    this.#session = session
    this.#handle = pointerOut((out) => api.CreateIoBinding(session.handle, out))
    this.resource = new Resource(() => this.#free(), { uses: [session.resource] })
  }

  /**
   * Binds and runs, until the run is through.
   *
   * @param runOptions  OrtRunOptions *; whoever sets its terminate flag meanwhile, from whatever thread, ends the run.
   * @throws {OrtError} C refused a tensor or the run. What is bound stays bound.
   */
  run(changes: readonly BindChange[], runOptions: bigint): void {
    for (const change of changes) this.#bind(change)
    const copied = [...this.#bound.input].filter(([, tensor]) => tensor.copiedAtBind)
    const changed = new Set(changes.filter(({ side }) => side === 'input').map(({ name }) => name))
    for (const [name, { value }] of copied) {
      // What is bound since an earlier run: ONNX Runtime copied its bytes then, and does not look at them again.
      if (!changed.has(name)) this.#api.BindInput(this.#handle, name, value)
    }
    if (copied.length > 0) this.#api.SynchronizeBoundInputs(this.#handle)
    this.#api.RunWithBinding(this.#session.handle, runOptions, this.#handle)
  }

  #bind({ side, name, tensor }: BindChange): void {
    if (side === 'input') this.#api.BindInput(this.#handle, name, tensor.value)
    else this.#api.BindOutput(this.#handle, name, tensor.value)
    const before = this.#bound[side].get(name)
    tensor.resource.hold()
    this.#bound[side].set(name, tensor)
    before?.resource.release()
  }

  #free(): void {
    this.#api.ReleaseIoBinding(this.#handle)
    for (const tensors of [this.#bound.input, this.#bound.output]) {
      for (const tensor of tensors.values()) tensor.resource.release()
      tensors.clear()
    }
  }
}
