import { z } from 'zod'
import { CheckpointError } from './errors.js'

/** What a Gemma 1 checkpoint's config.json says about the network. Counts and sizes are numbers of elements. */
export interface GemmaConfig {
  readonly layers: number
  /** H: width of the residual stream. */
  readonly hiddenSize: number
  /** I: width of the MLP. */
  readonly intermediateSize: number
  /** Query heads. */
  readonly heads: number
  /** G: key/value heads; divides `heads`. */
  readonly kvHeads: number
  /** D: size of one head. */
  readonly headSize: number
  /** V */
  readonly vocabSize: number
  readonly maxPositions: number
  readonly rmsNormEps: number
  readonly ropeTheta: number
  readonly bosTokenId: number
  readonly eosTokenIds: readonly number[]
  readonly padTokenId: number
  /** The type that the checkpoint says it was saved in, "bfloat16" for the published ones. */
  readonly torchDtype: string
}

/** No Gemma 1 comes near these; they keep a wrong file from asking for terabytes. */
const count = (most: number) => z.number().int().min(1).max(most)
const tokenId = z.number().int().min(0).max(0xff_ff_ff)

const configSchema = z.object({
  architectures: z.array(z.string()).min(1),
  num_hidden_layers: count(1024),
  hidden_size: count(1 << 20),
  intermediate_size: count(1 << 22),
  num_attention_heads: count(4096),
  num_key_value_heads: count(4096),
  head_dim: count(1 << 14),
  vocab_size: count(1 << 24),
  max_position_embeddings: count(1 << 20),
  rms_norm_eps: z.number().positive().max(1),
  rope_theta: z.number().positive().optional(),
  rope_scaling: z.unknown().optional(),
  rope_parameters: z.object({ rope_theta: z.number().positive(), rope_type: z.string().optional() }).nullish(),
  hidden_act: z.string().optional(),
  hidden_activation: z.string().nullish(),
  attention_bias: z.boolean().optional(),
  tie_word_embeddings: z.boolean().optional(),
  use_bidirectional_attention: z.boolean().nullish(),
  bos_token_id: tokenId,
  eos_token_id: z.union([tokenId, z.array(tokenId).min(1)]),
  pad_token_id: tokenId.nullish(),
  torch_dtype: z.string().optional(),
  dtype: z.string().optional(),
})

/** Both mean the tanh approximation: Gemma's first configs say "gelu", and the reference corrects it on reading. */
const TANH_GELU = ['gelu', 'gelu_pytorch_tanh']

/**
 * Reads a Hugging Face config.json of Gemma 1 (2b, 2b-it, 7b, 7b-it, or any other size of that architecture).
 *
 * @param json  the parsed file
 * @param file  its path, for the error
 * @throws {CheckpointError} a field is missing or out of range, or the config asks for what Gemma 1 does not have
 *   (another architecture or activation, rope scaling, biases, an untied output matrix).
 * Source: transformers 5.24, models/gemma/configuration_gemma.py.
 */
export function parseGemmaConfig(json: unknown, file: string): GemmaConfig {
  const parsed = configSchema.safeParse(json)
  if (!parsed.success) {
    const issue = parsed.error.issues[0]
    const field = issue?.path.join('.') || 'the file'
    throw new CheckpointError(file, `${field}: ${issue?.message ?? 'not a config.json'}. A Gemma 1 config is wanted.`)
  }
  const config = parsed.data
  const refuse = (field: string, found: unknown, wanted: string): never => {
    throw new CheckpointError(file, `${field} is ${JSON.stringify(found)}, but ${wanted}.`)
  }

  if (!config.architectures.includes('GemmaForCausalLM')) {
    refuse('architectures', config.architectures, 'only GemmaForCausalLM (Gemma 1) can be exported')
  }
  // Where both are given, hidden_activation is the later field, and the one that the reference has honoured.
  const activation = config.hidden_activation ?? config.hidden_act ?? 'gelu_pytorch_tanh'
  if (!TANH_GELU.includes(activation)) {
    const field = config.hidden_activation == null ? 'hidden_act' : 'hidden_activation'
    refuse(field, activation, `Gemma 1 computes ${TANH_GELU.join(' or ')} (the tanh approximation)`)
  }
  if (config.rope_scaling != null) refuse('rope_scaling', config.rope_scaling, 'Gemma 1 has none')
  const ropeType = config.rope_parameters?.rope_type ?? 'default'
  if (ropeType !== 'default') refuse('rope_parameters.rope_type', ropeType, 'Gemma 1 has "default"')
  if (config.attention_bias === true) refuse('attention_bias', true, 'Gemma 1 has no biases')
  if (config.tie_word_embeddings === false) {
    refuse('tie_word_embeddings', false, "Gemma 1's output matrix is its embedding")
  }
  if (config.use_bidirectional_attention === true) {
    refuse('use_bidirectional_attention', true, 'only causal attention generates text')
  }
  if (config.num_attention_heads % config.num_key_value_heads !== 0) {
    refuse('num_key_value_heads', config.num_key_value_heads, `it must divide ${config.num_attention_heads} heads`)
  }
  // GroupQueryAttention rotates in groups of 16.
  if (config.head_dim % 16 !== 0) refuse('head_dim', config.head_dim, 'it must be a multiple of 16')

  const eos = config.eos_token_id
  return {
    layers: config.num_hidden_layers,
    hiddenSize: config.hidden_size,
    intermediateSize: config.intermediate_size,
    heads: config.num_attention_heads,
    kvHeads: config.num_key_value_heads,
    headSize: config.head_dim,
    vocabSize: config.vocab_size,
    maxPositions: config.max_position_embeddings,
    rmsNormEps: config.rms_norm_eps,
    ropeTheta: config.rope_parameters?.rope_theta ?? config.rope_theta ?? 10_000,
    bosTokenId: config.bos_token_id,
    eosTokenIds: typeof eos === 'number' ? [eos] : eos,
    padTokenId: config.pad_token_id ?? 0,
    torchDtype: config.dtype ?? config.torch_dtype ?? 'float32',
  }
}

/**
 * Bytes that one token takes in the KV cache of all layers: layers · 2 · G · D · elementBytes.
 * @param elementBytes  4 for f32, 2 for f16 and bf16
 */
export function kvBytesPerToken(config: GemmaConfig, elementBytes: number): number {
  return config.layers * 2 * config.kvHeads * config.headSize * elementBytes
}
