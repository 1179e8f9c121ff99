import { type ActivationType, FILES, type WeightDtype } from '../folder.js'
import type { GemmaConfig } from '../gemma.js'
import { ELEMENT_BYTES, type ElementType, type ExternalData } from '../onnx/proto.js'
import { EMBEDDING, FINAL_NORM, layerTensors } from './gemma-tensors.js'
import type { ScaleType } from './quantize.js'

/** ONNX Runtime maps external data only at multiples of this (the page size). */
const ALIGNMENT = 4096

/** How a quantized matrix is stored. */
export interface Blocks {
  readonly bits: 4 | 8
  /** Weights per scale, along K. */
  readonly blockSize: number
}

/**
 * How weights are stored: the same for all matrices, but that the embedding, which is the output matrix too, may have other
 * blocks. Norms and rotary tables are always floats of `activationType`.
 */
export interface WeightFormat {
  readonly dtype: WeightDtype
  readonly activationType: ActivationType
  /** Of q4 and q8; undefined for floats. */
  readonly blocks: { readonly matrices: Blocks; readonly embedding: Blocks } | undefined
}

/** A contiguous part of the data file. */
export interface Region {
  readonly type: ElementType
  readonly offset: number
  readonly byteLength: number
}

/**
 * One weight of the graph: which tensors of the checkpoint it comes from and where its bytes go. A matrix [N, K] may be
 * several tensors stacked along N (query, key and value are one product).
 */
export type Weight =
  | {
      kind: 'quantized'
      sources: readonly string[]
      N: number
      K: number
      blocks: Blocks
      values: Region
      scales: Region
    }
  /** Stored as [N, K], or for MatMul, which wants its second operand so, as [K, N]. */
  | { kind: 'float'; sources: readonly string[]; N: number; K: number; transposed: boolean; values: Region }
  | { kind: 'norm'; source: string; size: number; values: Region }
  /** [maxPositions, D/2] each. */
  | { kind: 'rotary'; cos: Region; sin: Region }

export type MatrixWeight = Extract<Weight, { kind: 'quantized' | 'float' }>
export type QuantizedWeight = Extract<Weight, { kind: 'quantized' }>
export type NormWeight = Extract<Weight, { kind: 'norm' }>
export type RotaryWeight = Extract<Weight, { kind: 'rotary' }>

export interface LayerWeights {
  readonly inputNorm: NormWeight
  /** Query, key and value heads, stacked: [(heads + 2G) · D, H]. */
  readonly qkv: MatrixWeight
  /** [H, heads · D] */
  readonly output: MatrixWeight
  readonly mlpNorm: NormWeight
  /** [I, H] */
  readonly gate: MatrixWeight
  /** [I, H] */
  readonly up: MatrixWeight
  /** [H, I] */
  readonly down: MatrixWeight
}

/** All weights of the network and their places in one data file. */
export interface WeightPlan {
  readonly format: WeightFormat
  /** [V, H], never transposed: read by row as the embedding, and as the output matrix. */
  readonly embedding: MatrixWeight
  readonly rotary: RotaryWeight
  readonly layers: readonly LayerWeights[]
  readonly finalNorm: NormWeight
  /** In the order of their places, which is the order in which a run reads them. */
  readonly all: readonly Weight[]
  readonly byteLength: number
}

/** Gives every weight its place. Nothing is read or written. */
export function planWeights(config: GemmaConfig, format: WeightFormat): WeightPlan {
  const { hiddenSize: H, intermediateSize: I, headSize: D, heads, kvHeads, vocabSize: V } = config
  const { dtype, activationType } = format
  const all: Weight[] = []
  let end = 0

  const place = (type: ElementType, elements: number): Region => {
    const offset = Math.ceil(end / ALIGNMENT) * ALIGNMENT
    const byteLength = elements * ELEMENT_BYTES[type]
    end = offset + byteLength
    return { type, offset, byteLength }
  }
  const keep = <W extends Weight>(weight: W): W => {
    all.push(weight)
    return weight
  }
  const matrix = (sources: string[], N: number, K: number, of: 'matrices' | 'embedding' = 'matrices'): MatrixWeight => {
    const blocks = format.blocks?.[of]
    if (blocks !== undefined) {
      const values = place('u8', (N * K * blocks.bits) / 8)
      const scales = place(scaleTypeOf(activationType), (N * K) / blocks.blockSize)
      return keep({ kind: 'quantized', sources, N, K, blocks, values, scales })
    }
    const type = dtype as ActivationType
    return keep({ kind: 'float', sources, N, K, transposed: of === 'matrices', values: place(type, N * K) })
  }
  const norm = (source: string): NormWeight => keep({ kind: 'norm', source, size: H, values: place(activationType, H) })

  const embedding = matrix([EMBEDDING], V, H, 'embedding')
  const rotaryElements = (config.maxPositions * D) / 2
  const rotary: RotaryWeight = keep({
    kind: 'rotary',
    cos: place(activationType, rotaryElements),
    sin: place(activationType, rotaryElements),
  })
  const layers = Array.from({ length: config.layers }, (_, layer): LayerWeights => {
    const names = layerTensors(layer)
    return {
      inputNorm: norm(names.inputNorm),
      qkv: matrix([names.query, names.key, names.value], (heads + 2 * kvHeads) * D, H),
      output: matrix([names.output], H, heads * D),
      mlpNorm: norm(names.mlpNorm),
      gate: matrix([names.gate], I, H),
      up: matrix([names.up], I, H),
      down: matrix([names.down], H, I),
    }
  })
  const finalNorm = norm(FINAL_NORM)
  return { format, embedding, rotary, layers, finalNorm, all, byteLength: end }
}

/** GatherBlockQuantized takes f32 and f16 scales on both providers; q4 and q8 exports have activations of these two only. */
export function scaleTypeOf(activationType: ActivationType): ScaleType {
  if (activationType === 'bf16') throw new RangeError('quantized weights need f32 or f16 activations')
  return activationType
}

/** A region as ONNX names it. */
export function externalData(region: Region): ExternalData {
  return { location: FILES.data, offset: region.offset, length: region.byteLength }
}
