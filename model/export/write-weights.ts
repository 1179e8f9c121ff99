import { CheckpointError } from '../errors.js'
import type { GemmaConfig } from '../gemma.js'
import { bf16FromF32, f16FromF32 } from '../half.js'
import type { WriteAt } from './export-folder.js'
import { quantizeBlocks, type ScaleChoice } from './quantize.js'
import type { ModelSource, SourceBlocks } from './source.js'
import type { MatrixWeight, NormWeight, QuantizedWeight, Region, RotaryWeight, WeightPlan } from './weights.js'

/** Weights in one piece of work: 16 MB as f32, small enough to stay near the cache and to answer a signal quickly. */
const CHUNK_WEIGHTS = 4 << 20

type FloatType = 'f32' | 'f16' | 'bf16'

/**
 * Reads a model's weights, converts them as planned and writes them out, piece by piece; blocks that the source has as they
 * are planned are taken over. Besides two buffers of a
 * piece it holds one float matrix at a time, and that only where the plan transposes.
 *
 * @param report  called with the bytes written so far
 * @throws {CheckpointError} a weight is not finite, or too large for the type that it is stored in
 */
export async function writeWeights(options: {
  source: ModelSource
  plan: WeightPlan
  write: WriteAt
  scaleChoice: ScaleChoice
  report: (bytesWritten: number) => void
  signal?: AbortSignal | undefined
}): Promise<void> {
  await new WeightWriter(options).run()
}

/** The source's own blocks of a tensor, where they are those that its weight is planned in. */
export function takenOver(source: ModelSource, tensor: string, { blocks }: QuantizedWeight): SourceBlocks | undefined {
  const own = source.blocksOf(tensor)
  return own?.bits === blocks.bits && own.blockSize === blocks.blockSize ? own : undefined
}

class WeightWriter {
  readonly #source: ModelSource
  readonly #config: GemmaConfig
  readonly #plan: WeightPlan
  readonly #write: WriteAt
  readonly #scaleChoice: ScaleChoice
  readonly #report: (bytesWritten: number) => void
  readonly #signal: AbortSignal | undefined
  readonly #scratch = new Uint8Array(CHUNK_WEIGHTS * 4)
  readonly #values = new Float32Array(CHUNK_WEIGHTS)
  #written = 0

  constructor(options: Parameters<typeof writeWeights>[0]) {
    this.#source = options.source
    this.#config = options.source.config
    this.#plan = options.plan
    this.#write = options.write
    this.#scaleChoice = options.scaleChoice
    this.#report = options.report
    this.#signal = options.signal
  }

  async run(): Promise<void> {
    for (const weight of this.#plan.all) {
      if (weight.kind === 'rotary') await this.#rotary(weight)
      else if (weight.kind === 'norm') await this.#norm(weight)
      else if (weight.kind === 'quantized') await this.#quantized(weight)
      else if (weight.transposed) await this.#transposed(weight)
      else await this.#float(weight)
    }
  }

  async #put(bytes: Uint8Array, position: number): Promise<void> {
    this.#signal?.throwIfAborted()
    await this.#write(bytes, position)
    this.#written += bytes.byteLength
    this.#report(this.#written)
  }

  /** Walks over the rows of a matrix [N, K] in pieces. `firstRow` counts over all stacked tensors, `row` in its own. */
  *#pieces(weight: MatrixWeight): Generator<{ source: string; firstRow: number; row: number; rows: number }> {
    const rowsAtOnce = Math.max(1, Math.floor(CHUNK_WEIGHTS / weight.K))
    let before = 0
    for (const source of weight.sources) {
      const { rows: allRows } = this.#source.shape(source)
      for (let row = 0; row < allRows; row += rowsAtOnce) {
        yield { source, firstRow: before + row, row, rows: Math.min(rowsAtOnce, allRows - row) }
      }
      before += allRows
    }
  }

  /** The values are overwritten by the next piece. */
  async *#floatPieces(
    weight: MatrixWeight,
  ): AsyncGenerator<{ source: string; firstRow: number; values: Float32Array }> {
    for (const { source, firstRow, row, rows } of this.#pieces(weight)) {
      const values = this.#values.subarray(0, rows * weight.K)
      await this.#source.readRows(source, row, rows, values, this.#scratch)
      yield { source, firstRow, values }
    }
  }

  async #quantized(weight: QuantizedWeight): Promise<void> {
    const { bits, blockSize } = weight.blocks
    const scaleType = weight.scales.type === 'f16' ? 'f16' : 'f32'
    for (const { source, firstRow, row, rows } of this.#pieces(weight)) {
      const weights = rows * weight.K
      const packed = new Uint8Array((weights * bits) / 8)
      const blocks = weights / blockSize
      const scales = scaleType === 'f16' ? new Uint16Array(blocks) : new Float32Array(blocks)
      let bad: number
      const ready = takenOver(this.#source, source, weight)
      if (ready !== undefined) bad = await ready.readRows(row, packed, scales, this.#scratch)
      else {
        const values = this.#values.subarray(0, weights)
        await this.#source.readRows(source, row, rows, values, this.#scratch)
        bad = quantizeBlocks(values, { bits, blockSize, scaleType }, packed, scales, this.#scaleChoice)
      }
      if (bad >= 0) this.#refuse(source, firstRow + Math.floor((bad * blockSize) / weight.K), scaleType)
      const firstWeight = firstRow * weight.K
      await this.#put(packed, weight.values.offset + (firstWeight * bits) / 8)
      await this.#put(bytesOf(scales), weight.scales.offset + (firstWeight / blockSize) * scales.BYTES_PER_ELEMENT)
    }
  }

  async #float(weight: MatrixWeight & { kind: 'float' }): Promise<void> {
    for await (const { source, firstRow, values } of this.#floatPieces(weight)) {
      const bytes = this.#encode(values, weight.values, source)
      await this.#put(bytes, weight.values.offset + firstRow * weight.K * (bytes.byteLength / values.length))
    }
  }

  /** [N, K] → [K, N]. The whole matrix is held, in its stored type: 134 MB for Gemma-2B's largest in f32. */
  async #transposed(weight: MatrixWeight & { kind: 'float' }): Promise<void> {
    const { N, K } = weight
    const whole = weight.values.type === 'f32' ? new Float32Array(N * K) : new Uint16Array(N * K)
    for await (const { source, firstRow, values } of this.#floatPieces(weight)) {
      const bytes = this.#encode(values, weight.values, source)
      const piece =
        whole instanceof Float32Array
          ? new Float32Array(bytes.buffer, bytes.byteOffset, values.length)
          : new Uint16Array(bytes.buffer, bytes.byteOffset, values.length)
      transposeInto(whole, piece, { firstRow, rows: values.length / K, N, K })
    }
    const bytes = bytesOf(whole)
    for (let at = 0; at < bytes.byteLength; at += this.#scratch.byteLength) {
      const end = Math.min(bytes.byteLength, at + this.#scratch.byteLength)
      await this.#put(bytes.subarray(at, end), weight.values.offset + at)
    }
  }

  /** Gemma's norms multiply by 1 + w, in f32 whatever the weight's type. */
  async #norm(weight: NormWeight): Promise<void> {
    const values = this.#values.subarray(0, weight.size)
    await this.#source.readNorm(weight.source, values, this.#scratch)
    await this.#put(this.#encode(values, weight.values, weight.source), weight.values.offset)
  }

  /**
   * cos and sin of position · theta^(−2i/D), i < D/2: each pair of halves (i, i + D/2) of a head turns by that angle. The
   * steps are rounded to f32 where the reference rounds them.
   * Source: GemmaRotaryEmbedding in transformers 5.24.
   */
  async #rotary(weight: RotaryWeight): Promise<void> {
    const { maxPositions, headSize, ropeTheta } = this.#config
    const half = headSize / 2
    const frequencies = Float32Array.from({ length: half }, (_, i) => {
      const power = Math.fround(ropeTheta ** Math.fround((2 * i) / headSize))
      return 1 / power
    })
    const tables = [
      { region: weight.cos, of: Math.cos },
      { region: weight.sin, of: Math.sin },
    ]
    for (const { region, of } of tables) {
      const values = new Float32Array(maxPositions * half)
      for (let position = 0; position < maxPositions; position++) {
        for (let i = 0; i < half; i++) {
          values[position * half + i] = of(Math.fround(position * frequencies[i]!))
        }
      }
      await this.#put(this.#encode(values, region, 'rotary'), region.offset)
    }
  }

  #encode(values: Float32Array, region: Region, source: string): Uint8Array {
    const encoded = encodeFloats(values, region.type as FloatType)
    if (encoded.bad >= 0) this.#refuse(source, 0, region.type)
    return encoded.bytes
  }

  #refuse(source: string, row: number, type: string): never {
    const message =
      `tensor ${source} holds, from row ${row} on, a value that is not finite or too large for ${type}. ` +
      'Is the checkpoint damaged? If not, export it to a type with a wider range.'
    throw new CheckpointError(this.#source.path, message, { tensor: source })
  }
}

/** f32 → stored bytes (for f32 the same memory, seen as bytes), and the index of the first that is not finite in the stored type, or −1. */
function encodeFloats(values: Float32Array, type: FloatType): { bytes: Uint8Array; bad: number } {
  let bad = -1
  if (type === 'f32') {
    bad = values.findIndex((value) => !Number.isFinite(value))
    return { bytes: bytesOf(values), bad }
  }
  const halves = new Uint16Array(values.length)
  const encode = type === 'f16' ? f16FromF32 : bf16FromF32
  const infinity = type === 'f16' ? 0x7c_00 : 0x7f_80
  for (let i = 0; i < values.length; i++) {
    const half = encode(values[i]!)
    halves[i] = half
    if ((half & infinity) === infinity && bad < 0) bad = i
  }
  return { bytes: bytesOf(halves), bad }
}

/** Tiles keep both sides' lines in the cache. */
const TILE = 64

function transposeInto(
  whole: Float32Array | Uint16Array,
  piece: Float32Array | Uint16Array,
  at: { firstRow: number; rows: number; N: number; K: number },
): void {
  const { firstRow, rows, N, K } = at
  for (let k0 = 0; k0 < K; k0 += TILE) {
    const k1 = Math.min(K, k0 + TILE)
    for (let n0 = 0; n0 < rows; n0 += TILE) {
      const n1 = Math.min(rows, n0 + TILE)
      for (let k = k0; k < k1; k++) {
        for (let n = n0; n < n1; n++) whole[k * N + firstRow + n] = piece[n * K + k]!
      }
    }
  }
}

function bytesOf(array: Float32Array | Uint16Array): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength)
}
