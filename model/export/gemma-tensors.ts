import path from 'node:path'
import { CheckpointError } from '../errors.js'
import type { GemmaConfig } from '../gemma.js'
import { type SafetensorsFile, SOURCE_BYTES } from './safetensors.js'

export const EMBEDDING = 'model.embed_tokens.weight'
export const FINAL_NORM = 'model.norm.weight'
/** Gemma 1 has no such tensor of its own, but some savers write the embedding a second time under this name. */
export const OUTPUT_MATRIX = 'lm_head.weight'

/** Names of one layer's tensors, as Hugging Face saves them. */
export function layerTensors(layer: number) {
  const prefix = `model.layers.${layer}`
  return {
    inputNorm: `${prefix}.input_layernorm.weight`,
    query: `${prefix}.self_attn.q_proj.weight`,
    key: `${prefix}.self_attn.k_proj.weight`,
    value: `${prefix}.self_attn.v_proj.weight`,
    output: `${prefix}.self_attn.o_proj.weight`,
    mlpNorm: `${prefix}.post_attention_layernorm.weight`,
    gate: `${prefix}.mlp.gate_proj.weight`,
    up: `${prefix}.mlp.up_proj.weight`,
    down: `${prefix}.mlp.down_proj.weight`,
  }
}

/** Every tensor of the network with its shape: [N, K], or [H] for norms. */
export function expectedTensors(config: GemmaConfig): Map<string, number[]> {
  const { hiddenSize: H, intermediateSize: I, headSize: D, heads, kvHeads } = config
  const expected = new Map<string, number[]>([
    [EMBEDDING, [config.vocabSize, H]],
    [FINAL_NORM, [H]],
  ])
  for (let layer = 0; layer < config.layers; layer++) {
    const names = layerTensors(layer)
    expected.set(names.inputNorm, [H])
    expected.set(names.query, [heads * D, H])
    expected.set(names.key, [kvHeads * D, H])
    expected.set(names.value, [kvHeads * D, H])
    expected.set(names.output, [H, heads * D])
    expected.set(names.mlpNorm, [H])
    expected.set(names.gate, [I, H])
    expected.set(names.up, [I, H])
    expected.set(names.down, [H, I])
  }
  return expected
}

/**
 * Checks that the files hold what the config says, nothing less and nothing else. Their contents are not read.
 * @throws {CheckpointError} a tensor is missing, there twice, unknown, or of another shape or type
 */
export function checkTensors(config: GemmaConfig, shards: readonly SafetensorsFile[]): void {
  const expected = expectedTensors(config)
  const seen = new Map<string, string>()
  for (const file of shards) {
    for (const tensor of file.tensors.values()) {
      const refuse = (message: string): never => {
        throw new CheckpointError(file.path, `tensor ${tensor.name} ${message}`, { tensor: tensor.name })
      }
      const before = seen.get(tensor.name)
      if (before !== undefined) refuse(`is also in ${before}: which of the two counts cannot be known.`)
      seen.set(tensor.name, file.path)
      // Old savers kept this table of rotary frequencies; it follows from the config. The output matrix is compared later.
      if (tensor.name.endsWith('.rotary_emb.inv_freq')) continue
      const shape = tensor.name === OUTPUT_MATRIX ? expected.get(EMBEDDING)! : expected.get(tensor.name)
      if (!shape) refuse('is unknown: Gemma 1 with this config has no such tensor.')
      else if (shape.join() !== tensor.shape.join()) {
        refuse(`has shape [${tensor.shape.join(', ')}], but config.json makes it [${shape.join(', ')}].`)
      }
      if (!Object.hasOwn(SOURCE_BYTES, tensor.dtype)) {
        refuse(`has type ${tensor.dtype}, but ${Object.keys(SOURCE_BYTES).join(', ')} can be read.`)
      }
    }
  }
  for (const [name, shape] of expected) {
    if (!seen.has(name)) {
      const where = shards.length === 1 ? shards[0]!.path : path.dirname(shards[0]!.path)
      const message = `tensor ${name} [${shape.join(', ')}] is missing. Is the checkpoint complete?`
      throw new CheckpointError(where, message, { tensor: name })
    }
  }
}
