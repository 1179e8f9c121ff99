import { type GemmaConfig, kvBytesPerToken } from '../gemma.js'
import type { Binding, Runtime, Session, Tensor } from '../runtime/types.js'
import { buildCopyGraph } from './copy-graph.js'
import { Views } from './views.js'

export interface KVCacheOptions {
  readonly config: GemmaConfig
  readonly slots: number
  /** T */
  readonly slotTokens: number
  /** f32 on the CPU; f16 or bf16 on CUDA. */
  readonly type: 'f32' | 'f16' | 'bf16'
}

/** Bytes that one slot takes in all layers. */
export function slotBytes({ config, slotTokens, type }: Omit<KVCacheOptions, 'slots'>): number {
  return slotTokens * kvBytesPerToken(config, type === 'f32' ? 4 : 2)
}

/**
 * Keys and values of all slots: per layer one buffer [slots, G, T, D] for each, on the device. A run reads and writes them
 * in place, through a view of the rows that take part.
 */
export class KVCache implements AsyncDisposable {
  readonly byteLength: number
  readonly #config: GemmaConfig
  readonly #slots: number
  readonly #slotTokens: number
  readonly #buffers: ReadonlyMap<string, Views>
  readonly #runtime: Runtime
  readonly #copying: Session

  private constructor(
    runtime: Runtime,
    options: KVCacheOptions,
    buffers: ReadonlyMap<string, Views>,
    copying: Session,
  ) {
    this.byteLength = options.slots * slotBytes(options)
    this.#config = options.config
    this.#slots = options.slots
    this.#slotTokens = options.slotTokens
    this.#buffers = buffers
    this.#runtime = runtime
    this.#copying = copying
  }

  /** @throws {OutOfMemoryError} the device has not that much memory. */
  static async create(runtime: Runtime, options: KVCacheOptions): Promise<KVCache> {
    const { config, slots, slotTokens, type } = options
    const shape = [slots, config.kvHeads, slotTokens, config.headSize]
    const buffers = new Map<string, Views>()
    try {
      for (let layer = 0; layer < config.layers; layer++) {
        for (const part of ['key', 'value']) {
          buffers.set(`${layer}.${part}`, new Views(await runtime.createTensor({ type, shape, place: 'device' })))
        }
      }
      const copying = await runtime.openSession({ model: buildCopyGraph(type, copiesOf(config)) })
      return new KVCache(runtime, options, buffers, copying)
    } catch (error) {
      for (const buffer of buffers.values()) await buffer[Symbol.asyncDispose]()
      throw error
    }
  }

  /**
   * Rows first … first + rows − 1 of every layer, without a copy, by their part of the graph's names: `0.key` is
   * `past_key_values.0.key` and `present.0.key`.
   */
  async window(first: number, rows: number): Promise<ReadonlyMap<string, Tensor>> {
    const { kvHeads: G, headSize: D } = this.#config
    const shape = [rows, G, this.#slotTokens, D]
    const views = [...this.#buffers].map(
      async ([name, buffer]) => [name, await buffer.view(shape, first * G * this.#slotTokens * D)] as const,
    )
    return new Map(await Promise.all(views))
  }

  /**
   * Copies keys and values of tokens start … start + tokens − 1 from one row to the same places of another, on the device and
   * in one run.
   *
   * @throws {OrtError} the run failed; what the target has there is undefined.
   */
  async copy(from: number, to: number, { start, tokens }: { start: number; tokens: number }): Promise<void> {
    // Of this length and place for once, so not among the views that are kept.
    const used: (Tensor | Binding)[] = []
    try {
      const binding = await this.#runtime.createBinding(this.#copying)
      used.push(binding)
      for (const [index, [source, target]] of this.#pieces(from, to, start).entries()) {
        const shape = [tokens * this.#config.headSize]
        const views = await Promise.all(
          [source, target].map(({ tensor, byteOffset }) => tensor.view(shape, byteOffset)),
        )
        used.push(...views)
        binding.bindInput(`from.${index}`, views[0]!)
        binding.bindOutput(`to.${index}`, views[1]!)
      }
      await this.#runtime.run([binding])
    } finally {
      for (const one of used) await one[Symbol.asyncDispose]()
    }
  }

  /** Where tokens from `start` on lie in two rows: one pair for each layer, part and KV head. */
  #pieces(from: number, to: number, start: number): (readonly [Place, Place])[] {
    const { kvHeads: G } = this.#config
    return [...this.#buffers.values()].flatMap(({ tensor }) => {
      const tokenBytes = tensor.byteLength / (this.#slots * G * this.#slotTokens)
      const at = (row: number, head: number) => ({
        tensor,
        byteOffset: ((row * G + head) * this.#slotTokens + start) * tokenBytes,
      })
      return Array.from({ length: G }, (_, head) => [at(from, head), at(to, head)] as const)
    })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#copying[Symbol.asyncDispose]()
    for (const buffer of this.#buffers.values()) await buffer[Symbol.asyncDispose]()
  }
}

interface Place {
  readonly tensor: Tensor
  readonly byteOffset: number
}

/** Pieces of a row that lie apart: keys and values of each layer and KV head. */
function copiesOf(config: GemmaConfig): number {
  return config.layers * 2 * config.kvHeads
}
