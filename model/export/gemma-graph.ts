import type { GemmaConfig } from '../gemma.js'
import { bf16FromF32, f16FromF32 } from '../half.js'
import { float, GraphBuilder, int, string } from '../onnx/graph.js'
import { MICROSOFT } from '../onnx/proto.js'
import {
  externalData,
  type LayerWeights,
  type MatrixWeight,
  type NormWeight,
  type RotaryWeight,
  type WeightPlan,
} from './weights.js'

/**
 * The two graphs over one data file. They differ in what tells them the lengths, and in which rows reach the output matrix:
 *
 * - `engine`: our own. seqlens_k, total_sequence_length and logit_rows are inputs; no arithmetic on masks.
 * - `portable`: the signature of onnxruntime-genai and transformers.js. Lengths come from attention_mask (a row's tokens on
 *   its left, padding on its right), and the last position alone gets logits.
 */
export type Variant = 'engine' | 'portable'

/** int8 arithmetic inside MatMulNBits on the CPU; the other levels compute in f32, two to twenty times slower. */
const ACCURACY_INT8 = 4

/**
 * Builds Gemma 1 as ONNX.
 *
 * Axes: B batch rows, S tokens of this step, P tokens in the cache before it, T after it (or the cache's capacity when past
 * and present share a buffer), R rows that get logits, H hidden, G KV heads, D head size, V vocabulary.
 * A is the plan's activation type: f32 on the CPU, f16 or bf16 on CUDA.
 *
 * @returns the bytes of the .onnx file
 * Source: transformers 5.24, models/gemma/modeling_gemma.py; operators: ONNX opset 20 and docs/ContribOperators.md of
 *   ONNX Runtime 1.30.
 */
export function buildGemmaGraph(config: GemmaConfig, plan: WeightPlan, variant: Variant): Uint8Array {
  return new GemmaGraph(config, plan).build(variant)
}

/** What the attention of every layer needs beside its own weights. */
interface Lengths {
  readonly lastPositions: string
  readonly total: string
}

class GemmaGraph {
  readonly #config: GemmaConfig
  readonly #plan: WeightPlan
  readonly #graph: GraphBuilder

  constructor(config: GemmaConfig, plan: WeightPlan) {
    this.#config = config
    this.#plan = plan
    this.#graph = new GraphBuilder('gemma')
  }

  build(variant: Variant): Uint8Array {
    const graph = this.#graph
    // transformers.js knows the open dimensions by these names, and takes any other for 0.
    const ids = graph.input('input_ids', 'i64', ['batch_size', 'sequence_length'])
    const lengths = variant === 'engine' ? this.#lengthInputs() : this.#lengthsFromMask()
    const rows = variant === 'engine' ? graph.input('logit_rows', 'i64', ['rows']) : undefined
    const caches = this.#plan.layers.map((_, layer) => this.#cacheInputs(layer, variant))
    const rotary = this.#rotaryTables(this.#plan.rotary)

    // x is what the last block adds, residual the stream that it is added to.
    let x = ''
    let residual = this.#embed(ids)
    for (const [layer, weights] of this.#plan.layers.entries()) {
      const prefix = `layers.${layer}`
      let normed: string
      if (layer === 0) normed = this.#norm(residual, weights.inputNorm, `${prefix}.input_norm`)
      else [normed, residual] = this.#addAndNorm(x, residual, weights.inputNorm, `${prefix}.input_norm`)
      x = this.#attention(normed, weights, prefix, { cache: caches[layer]!, layer, lengths, rotary })
      ;[normed, residual] = this.#addAndNorm(x, residual, weights.mlpNorm, `${prefix}.mlp_norm`)
      x = this.#mlp(normed, weights, prefix)
    }
    const hidden = graph.node('Add', [x, residual])
    if (rows !== undefined) this.#logitsOfRows(hidden, rows)
    else this.#logitsOfLastPosition(hidden)

    for (const layer of this.#plan.layers.keys()) this.#cacheOutputs(layer, variant)
    return graph.encode()
  }

  /** seqlens_k [B]: tokens in the row after this step, minus one. total_sequence_length []: a bound ≥ the longest row. */
  #lengthInputs(): Lengths {
    return {
      lastPositions: this.#graph.input('seqlens_k', 'i32', ['batch_size']),
      total: this.#graph.input('total_sequence_length', 'i32', []),
    }
  }

  #lengthsFromMask(): Lengths {
    const graph = this.#graph
    const mask = graph.input('attention_mask', 'i64', ['batch_size', 'total_sequence_length'])
    const axis = graph.integers('mask.axis', [1])
    const one = graph.integers('mask.one', [1], [])
    const tokens = graph.node('ReduceSum', [mask, axis], { attributes: { keepdims: int(0) } })
    const last = graph.node('Sub', [tokens, one])
    const total = graph.node('Gather', [graph.node('Shape', [mask]), one], { attributes: { axis: int(0) } })
    const toInt32 = { attributes: { to: int(6) } }
    return { lastPositions: graph.node('Cast', [last], toInt32), total: graph.node('Cast', [total], toInt32) }
  }

  #cacheInputs(layer: number, variant: Variant): { key: string; value: string } {
    const { kvHeads: G, headSize: D } = this.#config
    const shape = ['batch_size', G, variant === 'engine' ? 'capacity' : 'past_sequence_length', D]
    const type = this.#plan.format.activationType
    return {
      key: this.#graph.input(`past_key_values.${layer}.key`, type, shape),
      value: this.#graph.input(`past_key_values.${layer}.value`, type, shape),
    }
  }

  #cacheOutputs(layer: number, variant: Variant): void {
    const { kvHeads: G, headSize: D } = this.#config
    const shape = ['batch_size', G, variant === 'engine' ? 'capacity' : 'total_sequence_length', D]
    const type = this.#plan.format.activationType
    this.#graph.output(`present.${layer}.key`, type, shape)
    this.#graph.output(`present.${layer}.value`, type, shape)
  }

  /** ids [B,S] → [B,S,H]: rows of the embedding, times √H. */
  #embed(ids: string): string {
    const graph = this.#graph
    const weight = this.#plan.embedding
    let rows: string
    if (weight.kind === 'quantized') {
      const { N: V, K: H, values, scales } = weight
      const { bits, blockSize } = weight.blocks
      // The bytes are those of the output matrix, seen without MatMulNBits' third axis.
      const data = graph.initializer('embedding.by_row', 'u8', [V, (H * bits) / 8], externalData(values))
      const steps = graph.initializer('embedding.by_row.scales', scales.type, [V, H / blockSize], externalData(scales))
      rows = graph.node('GatherBlockQuantized', [data, ids, steps], {
        domain: MICROSOFT,
        attributes: {
          bits: int(bits),
          block_size: int(blockSize),
          gather_axis: int(0),
          quantize_axis: int(1),
        },
      })
    } else {
      const data = graph.initializer('embedding', weight.values.type, [weight.N, weight.K], externalData(weight.values))
      rows = graph.node('Gather', [data, ids])
    }
    return graph.node('Mul', [rows, this.#embeddingFactor()])
  }

  /** √H, rounded to A: the reference computes it in the type that the model runs in (45.25 in bf16 and f16 for H 2048). */
  #embeddingFactor(): string {
    const factor = Math.sqrt(this.#config.hiddenSize)
    const type = this.#plan.format.activationType
    const data =
      type === 'f32'
        ? new Float32Array([factor])
        : new Uint16Array([type === 'f16' ? f16FromF32(factor) : bf16FromF32(factor)])
    return this.#graph.initializer('embedding.factor', type, [], new Uint8Array(data.buffer))
  }

  #rotaryTables(weight: RotaryWeight): { cos: string; sin: string } {
    const shape = [this.#config.maxPositions, this.#config.headSize / 2]
    return {
      cos: this.#graph.initializer('rotary.cos', weight.cos.type, shape, externalData(weight.cos)),
      sin: this.#graph.initializer('rotary.sin', weight.sin.type, shape, externalData(weight.sin)),
    }
  }

  /** RMS norm: x / √(mean(x²) + eps) · w, where w is Gemma's 1 + w already. */
  #norm(x: string, weight: NormWeight, name: string): string {
    return this.#graph.node('SimplifiedLayerNormalization', [x, this.#normWeight(weight, name)], {
      attributes: { axis: int(-1), epsilon: float(this.#config.rmsNormEps), stash_type: int(1) },
    })
  }

  /** residual + x, and its norm, in one node. Returns [normed, sum]. */
  #addAndNorm(x: string, residual: string, weight: NormWeight, name: string): [string, string] {
    const outputs = [`${name}.out`, '', '', `${name}.residual`] as const
    this.#graph.node('SkipSimplifiedLayerNormalization', [x, residual, this.#normWeight(weight, name)], {
      domain: MICROSOFT,
      outputs,
      attributes: { epsilon: float(this.#config.rmsNormEps) },
    })
    return [outputs[0], outputs[3]]
  }

  #normWeight(weight: NormWeight, name: string): string {
    return this.#graph.initializer(`${name}.weight`, weight.values.type, [weight.size], externalData(weight.values))
  }

  #attention(
    x: string,
    weights: LayerWeights,
    prefix: string,
    context: {
      layer: number
      cache: { key: string; value: string }
      lengths: Lengths
      rotary: { cos: string; sin: string }
    },
  ): string {
    const { layer, cache, lengths, rotary } = context
    const qkv = this.#linear(x, weights.qkv, `${prefix}.qkv`)
    // Query, key and value in one tensor: the operator takes them apart, turns them, and writes the cache.
    const inputs = [qkv, '', '', cache.key, cache.value, lengths.lastPositions, lengths.total, rotary.cos, rotary.sin]
    const attended = this.#graph.node('GroupQueryAttention', inputs, {
      domain: MICROSOFT,
      outputs: [`${prefix}.attended`, `present.${layer}.key`, `present.${layer}.value`],
      attributes: {
        num_heads: int(this.#config.heads),
        kv_num_heads: int(this.#config.kvHeads),
        scale: float(1 / Math.sqrt(this.#config.headSize)),
        do_rotary: int(1),
        rotary_interleaved: int(0),
      },
    })
    return this.#linear(attended, weights.output, `${prefix}.output`)
  }

  /** down(gelu(gate(x)) · up(x)) */
  #mlp(x: string, weights: LayerWeights, prefix: string): string {
    const gate = this.#linear(x, weights.gate, `${prefix}.gate`)
    const up = this.#linear(x, weights.up, `${prefix}.up`)
    const activated = this.#graph.node('Gelu', [gate], { attributes: { approximate: string('tanh') } })
    return this.#linear(this.#graph.node('Mul', [activated, up]), weights.down, `${prefix}.down`)
  }

  /** x [.., K] → [.., N] */
  #linear(x: string, weight: MatrixWeight, name: string): string {
    if (weight.kind === 'quantized') return this.#blockMatMul(x, weight, name)
    const shape = [weight.K, weight.N]
    const data = this.#graph.initializer(`${name}.weight`, weight.values.type, shape, externalData(weight.values))
    return this.#graph.node('MatMul', [x, data])
  }

  #blockMatMul(x: string, weight: MatrixWeight & { kind: 'quantized' }, name: string, output?: string): string {
    const { N, K, values, scales } = weight
    const { bits, blockSize } = weight.blocks
    const blocks = K / blockSize
    const data = this.#graph.initializer(
      `${name}.weight`,
      'u8',
      [N, blocks, (blockSize * bits) / 8],
      externalData(values),
    )
    const steps = this.#graph.initializer(`${name}.scales`, scales.type, [N * blocks], externalData(scales))
    return this.#graph.node('MatMulNBits', [x, data, steps], {
      domain: MICROSOFT,
      ...(output === undefined ? {} : { outputs: [output] }),
      attributes: {
        K: int(K),
        N: int(N),
        bits: int(bits),
        block_size: int(blockSize),
        accuracy_level: int(this.#plan.format.activationType === 'f32' ? ACCURACY_INT8 : 0),
      },
    })
  }

  /** hidden [B,S,H], rows [R] of the B·S → logits [R,V] */
  #logitsOfRows(hidden: string, rows: string): void {
    const flat = this.#graph.node('Reshape', [
      hidden,
      this.#graph.integers('rows.shape', [-1, this.#config.hiddenSize]),
    ])
    const chosen = this.#graph.node('Gather', [flat, rows], { attributes: { axis: int(0) } })
    this.#outputMatrix(this.#norm(chosen, this.#plan.finalNorm, 'final_norm'), 'logits')
    this.#graph.output('logits', this.#plan.format.activationType, ['rows', this.#config.vocabSize])
  }

  /** hidden [B,S,H] → logits [B,1,V] */
  #logitsOfLastPosition(hidden: string): void {
    const graph = this.#graph
    const last = graph.integers('last_position', [-1], [])
    const chosen = graph.node('Gather', [hidden, last], { attributes: { axis: int(1) } })
    const flat = this.#outputMatrix(this.#norm(chosen, this.#plan.finalNorm, 'final_norm'), 'logits.flat')
    const axis = graph.integers('logits.axis', [1])
    graph.node('Unsqueeze', [flat, axis], { outputs: ['logits'] })
    graph.output('logits', this.#plan.format.activationType, ['batch_size', 1, this.#config.vocabSize])
  }

  /** x [R,H] → [R,V], with the embedding as the matrix: Gemm takes it as it lies, [V,H], where MatMul would need a copy. */
  #outputMatrix(x: string, output: string): string {
    const weight = this.#plan.embedding
    if (weight.kind === 'quantized') return this.#blockMatMul(x, weight, 'output_matrix', output)
    return this.#graph.node('Gemm', [x, 'embedding'], { outputs: [output], attributes: { transB: int(1) } })
  }
}
