import { f16FromF32, f32FromF16 } from '../half.js'

/** Scales are stored in the type of the activations that they meet. */
export type ScaleType = 'f32' | 'f16'

export interface BlockFormat {
  readonly bits: 4 | 8
  /** Weights that share a scale, along K. */
  readonly blockSize: number
  readonly scaleType: ScaleType
}

/**
 * Quantizes whole blocks, symmetrically: weight ≈ (q − 2^(bits−1)) · scale, with q from 0 to 2^bits − 1.
 *
 * 4 bits take the scale from the value of the largest magnitude, with its sign: it becomes −8, so that all sixteen steps are
 * used and the step is 1/8 of it instead of 1/7. What lies at the other end (7.5 … 8 steps away) is cut to 7: at most one
 * scale off; everything else is within half a scale. 8 bits have steps enough for −127 … 127, all within half a scale.
 * The scale is rounded to its stored type before the weights are divided by it.
 *
 * @param values  n weights, n a multiple of blockSize; whole rows of [N, K], one after another
 * @param packed  [n · bits / 8], written from its start; 4 bits: the even weight in the low nibble
 * @param scales  [n / blockSize], written from its start; Uint16Array for f16
 * @returns the index of the first block whose values or scale are not finite, or −1. Its output is garbage.
 * Source: MatMulNBits and GatherBlockQuantized (com.microsoft, version 1), which without zero points take the point
 * 8 (4 bits) or 128 (8 bits); the choice of scale is that of MLAS' own symmetric quantizer and of GGML's Q4_0.
 */
export function quantizeBlocks(
  values: Float32Array,
  format: BlockFormat,
  packed: Uint8Array,
  scales: Float32Array | Uint16Array,
): number {
  const { blockSize, bits } = format
  const halfScales = scales instanceof Uint16Array
  const blocks = values.length / blockSize
  let bad = -1
  for (let block = 0; block < blocks; block++) {
    const start = block * blockSize
    const end = start + blockSize
    let largest = 0
    let magnitude = 0
    let sum = 0
    for (let i = start; i < end; i++) {
      const value = values[i]!
      const size = Math.abs(value)
      sum += size
      if (size > magnitude) {
        magnitude = size
        largest = value
      }
    }
    let scale = bits === 4 ? largest / -8 : magnitude / 127
    if (halfScales) {
      const half = f16FromF32(scale)
      scales[block] = half
      scale = f32FromF16(half)
    } else {
      scale = Math.fround(scale)
      scales[block] = scale
    }
    // NaN compares with nothing, but it and infinities stay in a sum.
    if (bad < 0 && !(Number.isFinite(sum) && Number.isFinite(scale))) bad = block
    const inverse = scale === 0 ? 0 : 1 / scale
    if (bits === 4) packNibbles(values, start, end, inverse, packed)
    else packBytes(values, start, end, inverse, packed)
  }
  return bad
}

/**
 * `| 0` cuts towards zero, which rounds to the nearest where the sum is above 0. The clamps are needed at the cut end, and
 * at both ends where the scale is so small that its f16 is far from it.
 */
function packNibbles(values: Float32Array, start: number, end: number, inverse: number, packed: Uint8Array): void {
  let at = start >> 1
  for (let i = start; i < end; i += 2) {
    let low = (values[i]! * inverse + 8.5) | 0
    let high = (values[i + 1]! * inverse + 8.5) | 0
    if (low > 15) low = 15
    else if (low < 0) low = 0
    if (high > 15) high = 15
    else if (high < 0) high = 0
    packed[at++] = low | (high << 4)
  }
}

function packBytes(values: Float32Array, start: number, end: number, inverse: number, packed: Uint8Array): void {
  for (let i = start; i < end; i++) {
    let q = (values[i]! * inverse + 128.5) | 0
    if (q > 255) q = 255
    else if (q < 0) q = 0
    packed[i] = q
  }
}

/** The weights that the operators see: the inverse of `quantizeBlocks`, for tests and comparisons. */
export function dequantizeBlocks(
  packed: Uint8Array,
  scales: Float32Array | Uint16Array,
  format: BlockFormat,
): Float32Array {
  const { bits, blockSize } = format
  const values = new Float32Array((packed.length * 8) / bits)
  for (let i = 0; i < values.length; i++) {
    const stored = scales[Math.floor(i / blockSize)]!
    const scale = scales instanceof Uint16Array ? f32FromF16(stored) : stored
    const q = bits === 8 ? packed[i]! - 128 : ((packed[i >> 1]! >> (i % 2 === 0 ? 0 : 4)) & 15) - 8
    values[i] = q * scale
  }
  return values
}
