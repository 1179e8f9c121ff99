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
 * How the scale of a block is found: `best` by least squared error, `plain` from the largest weight alone, as MLAS and GGML's
 * Q4_0 do. 8 bits have steps enough, so that both are the same there.
 */
export type ScaleChoice = 'best' | 'plain'

/**
 * Quantizes whole blocks, symmetrically: weight ≈ (q − 2^(bits−1)) · scale, with q from 0 to 2^bits − 1.
 *
 * 4 bits, plain: the scale comes from the value of the largest magnitude, with its sign. It becomes −8, so that all sixteen
 * steps are used and the step is 1/8 of it instead of 1/7. 4 bits, best: of several scales around that one the one that leaves
 * the least squared error (`bestScale`), so that a lone large weight may be cut for the sake of all others. What lies beyond
 * −8 and 7 steps is cut; everything else is within half a scale. 8 bits: −127 … 127, all within half a scale.
 * The scale is rounded to its stored type before the weights are divided by it.
 *
 * @param values  n weights, n a multiple of blockSize; whole rows of [N, K], one after another
 * @param packed  [n · bits / 8], written from its start; 4 bits: the even weight in the low nibble
 * @param scales  [n / blockSize], written from its start; Uint16Array for f16
 * @returns the index of the first block whose values or scale are not finite, or −1. Its output is garbage.
 * Source: MatMulNBits and GatherBlockQuantized (com.microsoft, version 1), which without zero points take the point
 * 8 (4 bits) or 128 (8 bits).
 */
export function quantizeBlocks(
  values: Float32Array,
  format: BlockFormat,
  packed: Uint8Array,
  scales: Float32Array | Uint16Array,
  choice: ScaleChoice = 'best',
): number {
  const { blockSize, bits } = format
  const halfScales = scales instanceof Uint16Array
  const blocks = values.length / blockSize
  const shares = new Float64Array(blockSize)
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
    let scale = magnitude / 127
    if (bits === 4) scale = choice === 'best' ? bestScale(values, start, largest, shares) : largest / -8
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
 * Steps of the largest weight that are tried: 8 is the plain choice; below it a block uses fewer steps, above it the largest
 * weight is cut. Then both neighbours of the best. Trying all from 6.5 to 16 by quarters leaves 0.2 % less error, and takes
 * six times as long.
 */
const LARGEST_STEPS = [8, 7.4, 8.8, 10] as const
const NEIGHBOUR = 0.25

/**
 * The scale of a block of 4 bits with the least squared error among those tried; never worse than the plain one.
 *
 * With the steps q of a scale at hand, the scale that fits them best is Σxq / Σq², and leaves the error Σx² − (Σxq)² / Σq².
 *
 * @param block  [blockSize], overwritten: the weights as shares of −largest
 */
function bestScale(values: Float32Array, start: number, largest: number, block: Float64Array): number {
  if (largest === 0) return 0
  for (let i = 0; i < block.length; i++) block[i] = values[start + i]! / -largest
  let best = fit(block, LARGEST_STEPS[0])
  for (let i = 1; i < LARGEST_STEPS.length; i++) best = better(best, fit(block, LARGEST_STEPS[i]!))
  const middle = best.steps
  best = better(best, fit(block, middle - NEIGHBOUR))
  best = better(best, fit(block, middle + NEIGHBOUR))
  return best.scale * -largest
}

interface Fit {
  readonly steps: number
  readonly scale: number
  /** By how much the squared error is less than that of all zeros. */
  readonly gain: number
}

function better(one: Fit, other: Fit): Fit {
  return other.gain > one.gain ? other : one
}

/** Rounds the block to steps of 1 / `steps`, and fits the scale to what each weight became. */
function fit(block: Float64Array, steps: number): Fit {
  let products = 0
  let squares = 0
  for (let i = 0; i < block.length; i++) {
    const value = block[i]!
    let q = (value * steps + 8.5) | 0
    if (q > 15) q = 15
    else if (q < 0) q = 0
    q = (q - 8) | 0
    products += value * q
    squares = (squares + Math.imul(q, q)) | 0
  }
  return { steps, scale: products / squares, gain: (products * products) / squares }
}

/**
 * `| 0` cuts towards zero, which rounds to the nearest where the sum is above 0. The clamps are needed at the cut ends, and
 * where the scale is so small that its f16 is far from it.
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
