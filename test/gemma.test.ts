import t from 'tap'
import { CheckpointError } from '../model/errors.js'
import { kvBytesPerToken, parseGemmaConfig } from '../model/gemma.js'

/** google/gemma-2b-it as published. */
const PUBLISHED = {
  architectures: ['GemmaForCausalLM'],
  attention_bias: false,
  attention_dropout: 0.0,
  bos_token_id: 2,
  eos_token_id: 1,
  head_dim: 256,
  hidden_act: 'gelu',
  hidden_size: 2048,
  initializer_range: 0.02,
  intermediate_size: 16384,
  max_position_embeddings: 8192,
  model_type: 'gemma',
  num_attention_heads: 8,
  num_hidden_layers: 18,
  num_key_value_heads: 1,
  pad_token_id: 0,
  rms_norm_eps: 1e-6,
  rope_scaling: null,
  rope_theta: 10000.0,
  torch_dtype: 'bfloat16',
  transformers_version: '4.38.0.dev0',
  use_cache: true,
  vocab_size: 256000,
}

const GEMMA_2B = {
  layers: 18,
  hiddenSize: 2048,
  intermediateSize: 16384,
  heads: 8,
  kvHeads: 1,
  headSize: 256,
  vocabSize: 256000,
  maxPositions: 8192,
  rmsNormEps: 1e-6,
  ropeTheta: 10000,
  bosTokenId: 2,
  eosTokenIds: [1],
  padTokenId: 0,
  torchDtype: 'bfloat16',
}

t.test("gemma-2b-it's published config is read", async (t) => {
  t.same(parseGemmaConfig(PUBLISHED, 'config.json'), GEMMA_2B)
})

t.test('a config that today’s transformers writes says the same in newer words', async (t) => {
  const { hidden_act: _, rope_theta, rope_scaling, torch_dtype, ...rest } = PUBLISHED
  const newer = {
    ...rest,
    hidden_act: 'gelu_pytorch_tanh',
    hidden_activation: null,
    rope_parameters: { rope_theta: 10000.0, rope_type: 'default' },
    dtype: 'bfloat16',
    eos_token_id: [1, 107],
    tie_word_embeddings: true,
  }
  t.same(parseGemmaConfig(newer, 'config.json'), { ...GEMMA_2B, eosTokenIds: [1, 107] })
})

const REFUSED: { change: Record<string, unknown>; message: string | RegExp }[] = [
  {
    change: { architectures: ['Gemma2ForCausalLM'] },
    message: 'c.json: architectures is ["Gemma2ForCausalLM"], but only GemmaForCausalLM (Gemma 1) can be exported.',
  },
  {
    change: { hidden_act: 'silu' },
    message: 'c.json: hidden_act is "silu", but Gemma 1 computes gelu or gelu_pytorch_tanh (the tanh approximation).',
  },
  { change: { hidden_activation: 'relu' }, message: /hidden_activation is "relu"/ },
  { change: { rope_scaling: { type: 'linear', factor: 2 } }, message: /rope_scaling is {"type":"linear","factor":2}/ },
  { change: { rope_parameters: { rope_theta: 1e4, rope_type: 'yarn' } }, message: /rope_type is "yarn"/ },
  { change: { attention_bias: true }, message: /attention_bias is true, but Gemma 1 has no biases/ },
  { change: { tie_word_embeddings: false }, message: /tie_word_embeddings is false/ },
  { change: { use_bidirectional_attention: true }, message: /use_bidirectional_attention is true/ },
  { change: { num_key_value_heads: 3 }, message: /num_key_value_heads is 3, but it must divide 8 heads/ },
  { change: { head_dim: 20 }, message: /head_dim is 20, but it must be a multiple of 16/ },
  { change: { hidden_size: undefined }, message: /c\.json: hidden_size: .*number/ },
  { change: { hidden_size: 2048.5 }, message: /c\.json: hidden_size: .*int/ },
  { change: { vocab_size: 1e12 }, message: /c\.json: vocab_size: .*16777216/ },
  { change: { rms_norm_eps: 0 }, message: /c\.json: rms_norm_eps: / },
  { change: { eos_token_id: null }, message: /c\.json: eos_token_id: / },
]

for (const { change, message } of REFUSED) {
  t.test(`refuses ${JSON.stringify(change)}`, async (t) => {
    t.throws(() => parseGemmaConfig({ ...PUBLISHED, ...change }, 'c.json'), CheckpointError)
    t.throws(() => parseGemmaConfig({ ...PUBLISHED, ...change }, 'c.json'), { message })
  })
}

t.test('what is no object is refused as a file', async (t) => {
  for (const json of [null, [], 'gemma', 3]) t.throws(() => parseGemmaConfig(json, 'c.json'), CheckpointError)
})

t.test('a token of gemma-2b takes 18 KiB of cache in half precision', async (t) => {
  t.equal(kvBytesPerToken(parseGemmaConfig(PUBLISHED, 'c.json'), 2), 18 * 1024)
})
