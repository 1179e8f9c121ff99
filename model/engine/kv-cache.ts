import { type GemmaConfig, kvBytesPerToken } from '../gemma.js'
import type { Runtime, Tensor } from '../runtime/types.js'
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
  readonly #slotTokens: number
  readonly #buffers: ReadonlyMap<string, Views>

  private constructor(options: KVCacheOptions, buffers: ReadonlyMap<string, Views>) {
    this.byteLength = options.slots * slotBytes(options)
    this.#config = options.config
    this.#slotTokens = options.slotTokens
    this.#buffers = buffers
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
    } catch (error) {
      for (const buffer of buffers.values()) await buffer[Symbol.asyncDispose]()
      throw error
    }
    return new KVCache(options, buffers)
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

  async [Symbol.asyncDispose](): Promise<void> {
    for (const buffer of this.#buffers.values()) await buffer[Symbol.asyncDispose]()
  }
}
