import { createCipheriv, createHash } from 'node:crypto'
import { mkdir, open, writeFile } from 'node:fs/promises'
import path from 'node:path'

/** The shape of a Gemma 1 of any size. */
export interface GemmaShape {
  readonly layers: number
  readonly hiddenSize: number
  readonly intermediateSize: number
  readonly heads: number
  readonly kvHeads: number
  readonly headSize: number
  readonly vocabSize: number
  readonly maxPositions: number
}

/** Big enough that every operator has work of more than one block and head, small enough to export in milliseconds. */
export const TINY: GemmaShape = {
  layers: 2,
  hiddenSize: 64,
  intermediateSize: 128,
  heads: 4,
  kvHeads: 1,
  headSize: 32,
  vocabSize: 512,
  maxPositions: 256,
}

/** google/gemma-2b: 2,506,172,416 parameters. */
export const GEMMA_2B: GemmaShape = {
  layers: 18,
  hiddenSize: 2048,
  intermediateSize: 16_384,
  heads: 8,
  kvHeads: 1,
  headSize: 256,
  vocabSize: 256_000,
  maxPositions: 8192,
}

export interface RandomCheckpointOptions {
  /** By default TINY. */
  readonly shape?: GemmaShape
  /** By default F32. */
  readonly dtype?: 'F32' | 'F16' | 'BF16'
  /** The same seed gives the same bytes. By default 1. */
  readonly seed?: number
  /** Standard deviation of the matrices. By default 0.3, at which a tiny model's greedy tokens are no mere repetition. */
  readonly deviation?: number
  /** Begins a new shard with an index, as Hugging Face does, when one would pass this. By default one file. */
  readonly shardBytes?: number
  /** tokenizer.json and tokenizer_config.json; by default `tinyTokenizer()`. */
  readonly tokenizer?: { readonly tokenizer: unknown; readonly config: unknown }
}

/**
 * Writes a Hugging Face checkpoint of Gemma 1 with random weights: config.json, generation_config.json, safetensors, and
 * tokenizer files. Streams, so that a checkpoint of 5 GB needs no more memory than one of 5 KB. No two megabytes are equal
 * (ONNX Runtime keeps equal weights once, which would make every measurement of memory a lie).
 */
export async function writeRandomCheckpoint(folder: string, options: RandomCheckpointOptions = {}): Promise<void> {
  const shape = options.shape ?? TINY
  const dtype = options.dtype ?? 'F32'
  const tokenizer = options.tokenizer ?? tinyTokenizer()
  await mkdir(folder, { recursive: true })
  await writeFile(path.join(folder, 'config.json'), JSON.stringify(configJson(shape, dtype), null, 2))
  const generation = { bos_token_id: 2, eos_token_id: 1, pad_token_id: 0 }
  await writeFile(path.join(folder, 'generation_config.json'), JSON.stringify(generation, null, 2))
  await writeFile(path.join(folder, 'tokenizer.json'), JSON.stringify(tokenizer.tokenizer))
  await writeFile(path.join(folder, 'tokenizer_config.json'), JSON.stringify(tokenizer.config, null, 2))

  const random = new RandomWeights(options.seed ?? 1, options.deviation ?? 0.3)
  const shards = intoShards(gemmaTensors(shape), ELEMENT_BYTES[dtype], options.shardBytes ?? Number.POSITIVE_INFINITY)
  const weightMap: Record<string, string> = {}
  for (const [index, tensors] of shards.entries()) {
    const pad = (n: number) => String(n).padStart(5, '0')
    const name =
      shards.length === 1 ? 'model.safetensors' : `model-${pad(index + 1)}-of-${pad(shards.length)}.safetensors`
    for (const tensor of tensors) weightMap[tensor.name] = name
    await writeShard(path.join(folder, name), tensors, dtype, random)
  }
  if (shards.length > 1) {
    const total = shards.flat().reduce((sum, tensor) => sum + elements(tensor) * ELEMENT_BYTES[dtype], 0)
    const index = { metadata: { total_size: total }, weight_map: weightMap }
    await writeFile(path.join(folder, 'model.safetensors.index.json'), JSON.stringify(index, null, 2))
  }
}

export function configJson(shape: GemmaShape, dtype: 'F32' | 'F16' | 'BF16'): Record<string, unknown> {
  return {
    architectures: ['GemmaForCausalLM'],
    attention_bias: false,
    bos_token_id: 2,
    eos_token_id: 1,
    head_dim: shape.headSize,
    hidden_act: 'gelu',
    hidden_size: shape.hiddenSize,
    intermediate_size: shape.intermediateSize,
    max_position_embeddings: shape.maxPositions,
    model_type: 'gemma',
    num_attention_heads: shape.heads,
    num_hidden_layers: shape.layers,
    num_key_value_heads: shape.kvHeads,
    pad_token_id: 0,
    rms_norm_eps: 1e-6,
    rope_scaling: null,
    rope_theta: 10_000,
    torch_dtype: { F32: 'float32', F16: 'float16', BF16: 'bfloat16' }[dtype],
    vocab_size: shape.vocabSize,
  }
}

export interface RandomTensor {
  readonly name: string
  readonly shape: readonly number[]
}

/** The tensors of a Gemma 1 checkpoint, in the order in which Hugging Face saves them. */
export function gemmaTensors(shape: GemmaShape): RandomTensor[] {
  const { hiddenSize: H, intermediateSize: I, heads, kvHeads, headSize: D } = shape
  const tensors: RandomTensor[] = [{ name: 'model.embed_tokens.weight', shape: [shape.vocabSize, H] }]
  for (let layer = 0; layer < shape.layers; layer++) {
    const prefix = `model.layers.${layer}`
    tensors.push(
      { name: `${prefix}.input_layernorm.weight`, shape: [H] },
      { name: `${prefix}.mlp.down_proj.weight`, shape: [H, I] },
      { name: `${prefix}.mlp.gate_proj.weight`, shape: [I, H] },
      { name: `${prefix}.mlp.up_proj.weight`, shape: [I, H] },
      { name: `${prefix}.post_attention_layernorm.weight`, shape: [H] },
      { name: `${prefix}.self_attn.k_proj.weight`, shape: [kvHeads * D, H] },
      { name: `${prefix}.self_attn.o_proj.weight`, shape: [H, heads * D] },
      { name: `${prefix}.self_attn.q_proj.weight`, shape: [heads * D, H] },
      { name: `${prefix}.self_attn.v_proj.weight`, shape: [kvHeads * D, H] },
    )
  }
  tensors.push({ name: 'model.norm.weight', shape: [H] })
  return tensors
}

const elements = (tensor: RandomTensor) => tensor.shape.reduce((product, size) => product * size, 1)
const ELEMENT_BYTES = { F32: 4, F16: 2, BF16: 2 }
const CHUNK = 4 << 20

function intoShards(tensors: readonly RandomTensor[], elementBytes: number, shardBytes: number): RandomTensor[][] {
  const shards: RandomTensor[][] = []
  let filled = Number.POSITIVE_INFINITY
  for (const tensor of tensors) {
    const bytes = elements(tensor) * elementBytes
    if (filled + bytes > shardBytes || shards.length === 0) {
      shards.push([])
      filled = 0
    }
    shards.at(-1)!.push(tensor)
    filled += bytes
  }
  return shards
}

async function writeShard(
  file: string,
  tensors: readonly RandomTensor[],
  dtype: 'F32' | 'F16' | 'BF16',
  random: RandomWeights,
): Promise<void> {
  const handle = await open(file, 'w')
  try {
    await handle.write(safetensorsHeader(tensors, dtype))
    for (const tensor of tensors) {
      const isNorm = tensor.shape.length === 1
      for (let left = elements(tensor); left > 0; left -= CHUNK) {
        await handle.write(random.next(Math.min(left, CHUNK), dtype, isNorm))
      }
    }
  } finally {
    await handle.close()
  }
}

/** Length and JSON of a safetensors header for tensors that follow one another. */
export function safetensorsHeader(tensors: readonly RandomTensor[], dtype: 'F32' | 'F16' | 'BF16'): Uint8Array {
  let end = 0
  const entries = tensors.map((tensor) => {
    const begin = end
    end += elements(tensor) * ELEMENT_BYTES[dtype]
    return [tensor.name, { dtype, shape: tensor.shape, data_offsets: [begin, end] }]
  })
  const json = JSON.stringify({ __metadata__: { format: 'pt' }, ...Object.fromEntries(entries) })
  // Padded with blanks so that the data begin at a multiple of 8, as the format asks.
  const text = new TextEncoder().encode(json.padEnd(Math.ceil(json.length / 8) * 8))
  const header = new Uint8Array(8 + text.byteLength)
  new DataView(header.buffer).setBigUint64(0, BigInt(text.byteLength), true)
  header.set(text, 8)
  return header
}

/** Normal values from a keyed stream: each 16 bits of it choose one of 65,536 quantiles. */
class RandomWeights {
  readonly #stream
  readonly #quantiles: Float32Array

  constructor(seed: number, deviation: number) {
    const key = createHash('sha256').update(`bezel ${seed}`).digest().subarray(0, 16)
    this.#stream = createCipheriv('aes-128-ctr', key, new Uint8Array(16))
    this.#quantiles = Float32Array.from({ length: 65_536 }, (_, i) => deviation * normalQuantile((i + 0.5) / 65_536))
  }

  next(count: number, dtype: 'F32' | 'F16' | 'BF16', isNorm: boolean): Uint8Array {
    const bytes = this.#stream.update(new Uint8Array(count * 2))
    const choices = new Uint16Array(bytes.buffer, bytes.byteOffset, count)
    const factor = isNorm ? 0.2 : 1
    if (dtype === 'F32') {
      const values = new Float32Array(count)
      for (let i = 0; i < count; i++) values[i] = this.#quantiles[choices[i]!]! * factor
      return new Uint8Array(values.buffer)
    }
    const table = Uint16Array.from(this.#quantiles, (value) => halfBits(value * factor, dtype))
    const halves = new Uint16Array(count)
    for (let i = 0; i < count; i++) halves[i] = table[choices[i]!]!
    return new Uint8Array(halves.buffer)
  }
}

/** Cut, not rounded: for random weights it is all the same. f16: flushes what is subnormal to zero. */
function halfBits(value: number, dtype: 'F16' | 'BF16'): number {
  const bits = new Uint32Array(new Float32Array([value]).buffer)[0]!
  if (dtype === 'BF16') return bits >>> 16
  const exponent = ((bits >>> 23) & 0xff) - 112
  return exponent <= 0 ? 0 : ((bits >>> 16) & 0x80_00) | (exponent << 10) | ((bits >>> 13) & 0x3_ff)
}

/** Acklam's rational approximation of the normal distribution's inverse, to nine digits. */
function normalQuantile(p: number): number {
  const a = [
    -39.6968302866538, 220.946098424521, -275.928510446969, 138.357751867269, -30.6647980661472, 2.50662827745924,
  ]
  const b = [-54.4760987982241, 161.585836858041, -155.698979859887, 66.8013118877197, -13.2806815528857]
  const c = [
    -0.00778489400243029, -0.322396458041136, -2.40075827716184, -2.54973253934373, 4.37466414146497, 2.93816398269878,
  ]
  const d = [0.00778469570904146, 0.32246712907004, 2.445134137143, 3.75440866190742]
  const polynomial = (factors: readonly number[], x: number) => factors.reduce((sum, factor) => sum * x + factor, 0)
  if (p > 0.5) return -normalQuantile(1 - p)
  if (p < 0.02425) {
    const q = Math.sqrt(-2 * Math.log(p))
    return polynomial(c, q) / polynomial([...d, 1], q)
  }
  const q = p - 0.5
  return (polynomial(a, q * q) * q) / polynomial([...b, 1], q * q)
}

/**
 * A tokenizer of Gemma's kind (BPE, byte fallback, "▁" for blanks, control tokens) with 512 pieces: enough to encode any
 * text. Ids of the control tokens differ from Gemma's on purpose, all but pad, eos, bos and unk: nobody may know them by heart.
 */
export function tinyTokenizer(): { tokenizer: unknown; config: unknown } {
  const control = ['<pad>', '<eos>', '<bos>', '<unk>', '<start_of_turn>', '<end_of_turn>']
  const bytes = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`)
  const ascii = Array.from({ length: 94 }, (_, i) => String.fromCharCode(33 + i))
  const merges = [
    't h',
    'th e',
    '▁ the',
    'i n',
    'e r',
    'a n',
    'o n',
    'u s',
    'us er',
    'm o',
    'd e',
    'mo de',
    'mode l',
    '▁ a',
    '▁ w',
  ]
  const merged = merges.map((merge) => merge.replace(' ', ''))
  const pieces = [...control, '\n', '▁', ...bytes, ...ascii, ...merged]
  while (pieces.length < 512) pieces.push(`<unused${pieces.length}>`)
  const vocab = Object.fromEntries(pieces.map((piece, id) => [piece, id]))
  const tokenizer = {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: control.map((content, id) => ({
      id,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    })),
    normalizer: { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
    pre_tokenizer: { type: 'Split', pattern: { String: ' ' }, behavior: 'MergedWithPrevious', invert: false },
    post_processor: {
      type: 'TemplateProcessing',
      single: [{ SpecialToken: { id: '<bos>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
      pair: [{ Sequence: { id: 'A', type_id: 0 } }, { Sequence: { id: 'B', type_id: 1 } }],
      special_tokens: { '<bos>': { id: '<bos>', ids: [2], tokens: ['<bos>'] } },
    },
    decoder: {
      type: 'Sequence',
      decoders: [
        { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
        { type: 'ByteFallback' },
        { type: 'Fuse' },
      ],
    },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: '<unk>',
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: true,
      byte_fallback: true,
      ignore_merges: false,
      vocab,
      merges,
    },
  }
  const config = {
    add_bos_token: true,
    add_eos_token: false,
    bos_token: '<bos>',
    eos_token: '<eos>',
    pad_token: '<pad>',
    unk_token: '<unk>',
    clean_up_tokenization_spaces: false,
    tokenizer_class: 'GemmaTokenizer',
    chat_template: CHAT_TEMPLATE,
  }
  return { tokenizer, config }
}

/** Gemma-2b-it's own template. */
const CHAT_TEMPLATE =
  "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" +
  "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}" +
  "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}" +
  "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}" +
  "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}" +
  "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
