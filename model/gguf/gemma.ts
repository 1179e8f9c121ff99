import { GgufError } from '../errors.js'
import type { GgufFile } from './file.js'
import { quote } from './header.js'
import { Keys } from './keys.js'
import type { SpecialTokens } from './tokenizer.js'

/** What a model folder's JSON files say, made from a GGUF file's metadata. */
export interface GemmaMetadata {
  /** As a config.json of Hugging Face's. */
  readonly configJson: Readonly<Record<string, unknown>>
  /** As a generation_config.json. */
  readonly generationConfigJson: Readonly<Record<string, unknown>>
}

/**
 * Reads the hyperparameters of a Gemma 1 as llama.cpp's converter writes them.
 *
 * @param vocabSize  pieces of the file's tokenizer
 * @param special  ids of its control tokens
 * @throws {GgufError} another architecture, a part of a file in several, or a key that is missing or out of range
 * Source: convert_hf_to_gguf.py (class GemmaModel) and the key names of gguf 0.19.
 */
export function readGemmaMetadata(file: GgufFile, vocabSize: number, special: SpecialTokens): GemmaMetadata {
  const { metadata, path } = file
  const keys = new Keys(file)
  const headSize = keys.count('gemma.attention.key_length', 1 << 14)
  keys.same('gemma.attention.value_length', headSize, 'values have the size of keys')
  keys.same('gemma.rope.dimension_count', headSize, 'Gemma 1 turns whole heads')
  const scaling = metadata.get('gemma.rope.scaling.type') ?? 'none'
  if (scaling !== 'none') {
    throw new GgufError(path, 'gemma.rope.scaling.type', quote(scaling), 'Gemma 1 has no such scaling')
  }
  const heads = keys.count('gemma.attention.head_count', 4096)
  const tokens = { bos_token_id: special.bos, eos_token_id: special.eos, pad_token_id: special.pad }
  const configJson = {
    architectures: ['GemmaForCausalLM'],
    model_type: 'gemma',
    num_hidden_layers: keys.count('gemma.block_count', 1024),
    hidden_size: keys.count('gemma.embedding_length', 1 << 20),
    intermediate_size: keys.count('gemma.feed_forward_length', 1 << 22),
    num_attention_heads: heads,
    num_key_value_heads: keys.count('gemma.attention.head_count_kv', 4096, heads),
    head_dim: headSize,
    vocab_size: vocabSize,
    max_position_embeddings: keys.count('gemma.context_length', 1 << 20),
    rms_norm_eps: keys.positive('gemma.attention.layer_norm_rms_epsilon', 1),
    rope_theta: keys.positive('gemma.rope.freq_base', 1e12, 10_000),
    rope_scaling: null,
    hidden_act: 'gelu_pytorch_tanh',
    hidden_activation: 'gelu_pytorch_tanh',
    attention_bias: false,
    tie_word_embeddings: true,
    ...tokens,
  }
  return { configJson, generationConfigJson: tokens }
}

/**
 * Refuses what is not a whole Gemma 1 before anything else of the file is looked at.
 * @throws {GgufError} it names the architecture that the file has
 */
export function assertGemma({ path, metadata }: GgufFile): void {
  const architecture = metadata.get('general.architecture')
  if (architecture !== 'gemma') {
    const value = architecture === undefined ? 'missing' : quote(architecture)
    throw new GgufError(
      path,
      'general.architecture',
      value,
      'only "gemma" (Gemma 1: 2b, 2b-it, 7b, 7b-it) can be served',
    )
  }
  const parts = metadata.get('split.count') ?? 1
  if (parts !== 1 && parts !== 0) {
    const wanted = 'a whole file is wanted. Join its parts with llama-gguf-split --merge'
    throw new GgufError(path, 'split.count', quote(parts), wanted)
  }
}

/** A tensor's name in a checkpoint → its name in a GGUF file. Source: tensor_mapping.py of gguf 0.19. */
export function ggufTensorName(name: string): string {
  const layer = /^model\.layers\.(\d+)\.(.+)\.weight$/.exec(name)
  if (layer) return `blk.${layer[1]}.${LAYER_TENSORS[layer[2]!]}.weight`
  return name === 'model.embed_tokens.weight' ? 'token_embd.weight' : 'output_norm.weight'
}

const LAYER_TENSORS: Readonly<Record<string, string>> = {
  input_layernorm: 'attn_norm',
  'self_attn.q_proj': 'attn_q',
  'self_attn.k_proj': 'attn_k',
  'self_attn.v_proj': 'attn_v',
  'self_attn.o_proj': 'attn_output',
  post_attention_layernorm: 'ffn_norm',
  'mlp.gate_proj': 'ffn_gate',
  'mlp.up_proj': 'ffn_up',
  'mlp.down_proj': 'ffn_down',
}
