import type { Tensor } from '../runtime/types.js'

const ELEMENT_BYTES = { f32: 4, f16: 2, bf16: 2, i64: 8, i32: 4, u8: 1, i8: 1, bool: 1 } as const

/**
 * A tensor of which each run uses a part, in a shape of its own. A part's view is made once and kept, so they must be few:
 * batch sizes, lengths of a chunk, powers of a base.
 */
export class Views implements AsyncDisposable {
  readonly tensor: Tensor
  readonly #views = new Map<string, Promise<Tensor>>()

  constructor(tensor: Tensor) {
    this.tensor = tensor
  }

  /** @param offset  in elements. */
  view(shape: readonly number[], offset = 0): Promise<Tensor> {
    const name = `${shape.join('x')}+${offset}`
    const known = this.#views.get(name)
    if (known !== undefined) return known
    const view = this.tensor.view(shape, offset * ELEMENT_BYTES[this.tensor.type])
    this.#views.set(name, view)
    // One that could not be made is tried again when it is needed again.
    view.catch(() => this.#views.delete(name))
    return view
  }

  /** Frees the views, then the tensor. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const view of await Promise.allSettled(this.#views.values())) {
      if (view.status === 'fulfilled') await view.value[Symbol.asyncDispose]()
    }
    await this.tensor[Symbol.asyncDispose]()
  }
}

type ElementArray = BigInt64Array | Int32Array | Float32Array | Uint8Array
interface ElementArrayType<T extends ElementArray> {
  readonly BYTES_PER_ELEMENT: number
  new (buffer: ArrayBufferLike, byteOffset: number, length: number): T
}

/** All elements of a host tensor, in its memory. */
export function elements<T extends ElementArray>({ tensor }: Views, Type: ElementArrayType<T>): T {
  const { bytes } = tensor
  return new Type(bytes.buffer, bytes.byteOffset, bytes.byteLength / Type.BYTES_PER_ELEMENT)
}
