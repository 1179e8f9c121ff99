import { ExportError } from '../errors.js'
import type { ActivationType, Target, WeightDtype } from '../folder.js'
import type { GemmaConfig } from '../gemma.js'
import type { ModelSource } from './source.js'
import type { Blocks, WeightFormat } from './weights.js'

export const BLOCK_SIZES = [32, 64, 128] as const
export type BlockSize = (typeof BLOCK_SIZES)[number]

export interface ExportFormat {
  readonly target: Target
  readonly dtype: WeightDtype
  /** Weights per scale; of no meaning for floats. */
  readonly blockSize: BlockSize
}

/** What a caller asks for; all that is left open follows from the target and from how the source's weights lie. */
export interface AskedFormat {
  readonly target: Target
  readonly dtype?: WeightDtype | undefined
  readonly blockSize?: BlockSize | undefined
  /** Of the embedding, which is the output matrix too, where the others are q4 or q8. */
  readonly embedding?: 'q4' | 'q8' | undefined
}

/**
 * What runs best on a target: on the CPU large blocks, since decoding reads every byte once a token; on CUDA blocks of 32,
 * for which alone ONNX Runtime 1.30's packaged build has the fast weight-only kernels.
 */
export function defaultExport(target: Target): ExportFormat {
  return { target, dtype: 'q4', blockSize: target === 'cpu' ? 128 : 32 }
}

/** Bits of a weight in GGUF's quantized types, beside the scales. */
const STORED_BITS: Readonly<Record<string, number>> = {
  Q4_0: 4,
  Q4_1: 4,
  Q4_K: 4,
  Q5_0: 5,
  Q5_1: 5,
  Q5_K: 5,
  Q6_K: 6,
  Q8_0: 8,
}

/**
 * Decides how the weights are stored.
 *
 * Weights that were quantized before keep what they have, as far as 4 and 8 bits go: matrices of 4 bits become q4 in blocks
 * of 32, which for Q4_0 are the very same blocks; matrices of more become q8. An embedding of more bits than the matrices
 * becomes q8, too: whoever made the file spent them where they count most, as the last product of every token.
 * Floats become what the target runs best.
 *
 * @throws {ExportError} the target cannot run what was asked for, or a width is no multiple of the block size
 */
export function chooseFormat(source: ModelSource, asked: AskedFormat): WeightFormat {
  const fallback = defaultExport(asked.target)
  const bits = STORED_BITS[source.weights.matrices]
  const dtype = asked.dtype ?? (bits !== undefined && bits > 4 ? 'q8' : fallback.dtype)
  const activationType = activationTypeOf(asked.target, dtype)
  if (dtype !== 'q4' && dtype !== 'q8') {
    if (asked.embedding !== undefined) {
      throw new ExportError(`embedding ${asked.embedding} goes with dtype q4 and q8 only, but dtype is ${dtype}.`)
    }
    return { dtype, activationType, blocks: undefined }
  }
  const hasFineBlocks = dtype === 'q4' ? bits !== undefined : source.weights.matrices === 'Q8_0'
  const blockSize = asked.blockSize ?? (hasFineBlocks ? 32 : fallback.blockSize)
  assertBlocksFit(source.config, blockSize)
  const matrices: Blocks = { bits: dtype === 'q4' ? 4 : 8, blockSize }
  return { dtype, activationType, blocks: { matrices, embedding: embeddingBlocks(source, matrices, asked) } }
}

function embeddingBlocks(source: ModelSource, matrices: Blocks, asked: AskedFormat): Blocks {
  const type = source.weights.embedding
  const wider = matrices.bits === 4 && (STORED_BITS[type] ?? 4) > 4
  const dtype = asked.embedding ?? (wider ? 'q8' : undefined)
  const bits = dtype === undefined ? matrices.bits : dtype === 'q4' ? 4 : 8
  if (bits === matrices.bits || asked.blockSize !== undefined) return { bits, blockSize: matrices.blockSize }
  // Eight bits lose next to nothing in the largest blocks either; but Q8_0's own can be taken over as they are.
  const most = bits === 8 && type !== 'Q8_0' ? defaultExport(asked.target).blockSize : 32
  const fitting = BLOCK_SIZES.filter((size) => size <= most && source.config.hiddenSize % size === 0)
  return { bits, blockSize: fitting.at(-1)! }
}

/**
 * The activations that go with a dtype on a target. Refused is what ONNX Runtime 1.30 cannot run there, or only by casting
 * every weight at every step.
 * Source: docs/OperatorKernels.md and contrib_ops of ONNX Runtime 1.30 (docs/exporting.md has the table).
 */
function activationTypeOf(target: Target, dtype: WeightDtype): ActivationType {
  if (target === 'cpu') {
    if (dtype === 'bf16' || dtype === 'f16') {
      const why =
        dtype === 'bf16'
          ? 'ONNX Runtime has no bf16 kernels for attention and matrix products on the CPU'
          : 'ONNX Runtime computes f16 on the CPU by casting, slower than f32 and with no memory saved'
      throw new ExportError(`dtype ${dtype} is not for target cpu: ${why}. Ask for f32 (exact), q8 or q4.`)
    }
    return 'f32'
  }
  if (dtype === 'f32') {
    throw new ExportError(
      "dtype f32 is not for target cuda: ONNX Runtime's attention on CUDA takes f16 and bf16 only. Ask for bf16, f16, q8 or q4.",
    )
  }
  return dtype === 'bf16' ? 'bf16' : 'f16'
}

/** Blocks lie along K, which is H, heads · D, or I. */
function assertBlocksFit(config: GemmaConfig, blockSize: number): void {
  const widths = {
    hidden_size: config.hiddenSize,
    'num_attention_heads · head_dim': config.heads * config.headSize,
    intermediate_size: config.intermediateSize,
  }
  for (const [name, width] of Object.entries(widths)) {
    if (width % blockSize === 0) continue
    const fitting = BLOCK_SIZES.filter((size) => Object.values(widths).every((w) => w % size === 0))
    const advice = fitting.length > 0 ? `Ask for block size ${fitting.join(' or ')}` : 'Ask for dtype f32'
    throw new ExportError(`${name} is ${width}, no multiple of block size ${blockSize}. ${advice}.`)
  }
}
