import type { ActivationType, ModelFolder } from '../../model/folder.js'
import { f16Table } from '../../model/half.js'
import type { Place, Runtime, Session, Tensor, TensorType } from '../../model/runtime/types.js'

/** 'engine' is engine.onnx, 'portable' model.onnx, which other programs run. */
type Graph = 'engine' | 'portable'

/**
 * A graph of an export, run the plain way: one sequence, a cache of its own, no batches, no reuse. What it says is what the
 * engine must say as well.
 */
export class NaiveModel implements AsyncDisposable {
  readonly #runtime: Runtime
  readonly #session: Session
  readonly #vocabSize: number
  readonly #caches: { name: string; tensor: Tensor }[]
  readonly #capacity: number
  readonly #graph: Graph
  readonly #type: ActivationType
  #length = 0

  private constructor(
    runtime: Runtime,
    session: Session,
    caches: { name: string; tensor: Tensor }[],
    about: { vocabSize: number; capacity: number; graph: Graph; type: ActivationType },
  ) {
    this.#runtime = runtime
    this.#session = session
    this.#caches = caches
    this.#vocabSize = about.vocabSize
    this.#capacity = about.capacity
    this.#graph = about.graph
    this.#type = about.type
  }

  static async open(runtime: Runtime, folder: ModelFolder, graph: Graph = 'engine'): Promise<NaiveModel> {
    const { layers, kvHeads, headSize, maxPositions, vocabSize } = folder.config
    const type = folder.activationType
    const model = graph === 'engine' ? folder.engineModel : folder.portableModel
    const session = await runtime.openSession({ model, load: 'plain' })
    const caches = []
    for (let layer = 0; layer < layers; layer++) {
      for (const part of ['key', 'value']) {
        const shape = [1, kvHeads, maxPositions, headSize]
        caches.push({
          name: `${layer}.${part}`,
          tensor: await runtime.createTensor({ type, shape, place: 'device' }),
        })
      }
    }
    return new NaiveModel(runtime, session, caches, { vocabSize, capacity: maxPositions, graph, type })
  }

  /** Forgets the sequence. What lies in the cache stays there, as in a slot that is used again. */
  reset(): void {
    this.#length = 0
  }

  /**
   * Appends tokens [S] to the sequence.
   * @returns the logits [S][V] of each; the portable graph has only those of the last, [1][V]
   */
  async append(tokens: readonly number[]): Promise<Float32Array[]> {
    const S = tokens.length
    const length = this.#length + S
    await using binding = await this.#runtime.createBinding(this.#session)
    const tensors: Tensor[] = []
    const create = async (type: TensorType, shape: number[], place: Place) => {
      const tensor = await this.#runtime.createTensor({ type, shape, place })
      tensors.push(tensor)
      return tensor
    }
    const input = async (name: string, type: 'i64' | 'i32', shape: number[], values: readonly number[]) => {
      const tensor = await create(type, shape, 'host')
      const view = new DataView(tensor.bytes.buffer, tensor.bytes.byteOffset, tensor.byteLength)
      for (const [i, value] of values.entries()) {
        if (type === 'i64') view.setBigInt64(i * 8, BigInt(value), true)
        else view.setInt32(i * 4, value, true)
      }
      binding.bindInput(name, tensor)
    }
    await input('input_ids', 'i64', [1, S], tokens)
    const rows = this.#graph === 'engine' ? tokens.map((_, row) => row) : [0]
    if (this.#graph === 'engine') {
      await input('seqlens_k', 'i32', [1], [length - 1])
      await input('total_sequence_length', 'i32', [], [this.#capacity])
      await input('logit_rows', 'i64', [S], rows)
    } else {
      await input('attention_mask', 'i64', [1, length], new Array(length).fill(1))
    }
    for (const { name, tensor } of this.#caches) {
      binding.bindInput(`past_key_values.${name}`, tensor)
      binding.bindOutput(`present.${name}`, tensor)
    }
    const shape = this.#graph === 'engine' ? [S, this.#vocabSize] : [1, 1, this.#vocabSize]
    const logits = await create(this.#type, shape, 'device')
    binding.bindOutput('logits', logits)
    await this.#runtime.run([binding])
    this.#length = length
    const values = floats(logits.bytes.slice().buffer, this.#type)
    for (const tensor of tensors) await tensor[Symbol.asyncDispose]()
    return rows.map((row) => values.subarray(row * this.#vocabSize, (row + 1) * this.#vocabSize))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { tensor } of this.#caches) await tensor[Symbol.asyncDispose]()
    await this.#session[Symbol.asyncDispose]()
  }
}

/** bf16 is missing because ONNX Runtime does not run it on the CPU. */
function floats(buffer: ArrayBufferLike, type: ActivationType): Float32Array {
  if (type === 'f32') return new Float32Array(buffer)
  const table = f16Table()
  return Float32Array.from(new Uint16Array(buffer), (half) => table[half]!)
}

export function argmax(values: Float32Array): number {
  let best = 0
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i
  return best
}

export function largestDifference(a: Float32Array, b: Float32Array): number {
  let largest = 0
  for (let i = 0; i < a.length; i++) largest = Math.max(largest, Math.abs(a[i]! - b[i]!))
  return largest
}
