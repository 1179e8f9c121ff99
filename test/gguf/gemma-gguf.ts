import { createCipheriv, createHash } from 'node:crypto'
import { Checkpoint } from '../../model/export/checkpoint.js'
import { bf16FromF32, f16FromF32 } from '../../model/half.js'
import { type GemmaShape, gemmaTensors } from '../export/random-checkpoint.js'
import {
  bool,
  f32,
  type GgufTensor,
  type GgufValue,
  numbers,
  string,
  strings,
  TENSOR_TYPE,
  type TensorType,
  tensorBytes,
  u32,
} from './gguf-writer.js'

/** Values of tokenizer.ggml.token_type. Source: llama_token_type in llama.cpp. */
export const TOKEN_TYPE = { normal: 1, unknown: 2, control: 3, userDefined: 4, byte: 6 } as const

export interface TokenizerJson {
  readonly added_tokens: readonly { readonly id: number; readonly content: string; readonly special: boolean }[]
  readonly model: { readonly vocab: Readonly<Record<string, number>>; readonly merges: readonly (string | string[])[] }
}

/** The tables of a GGUF's tokenizer, one entry a piece. */
export interface TokenTables {
  readonly tokens: string[]
  readonly scores: number[]
  readonly types: number[]
}

/**
 * The tables that llama.cpp's converter makes of Gemma's tokenizer.model, made of a tokenizer.json of the same pieces: there
 * a piece's score is minus its rank among the merged results; pieces that are matched whole have −1000.
 * Source: convert_hf_to_gguf.py, _create_vocab_sentencepiece; seen in a published Gemma GGUF.
 */
export function tokenTables({ added_tokens, model }: TokenizerJson): TokenTables {
  const tokens = Object.entries(model.vocab)
    .sort(([, a], [, b]) => a - b)
    .map(([piece]) => piece)
  const types = tokens.map((piece) => (/^<0x[0-9A-F]{2}>$/.test(piece) ? TOKEN_TYPE.byte : TOKEN_TYPE.normal) as number)
  for (const { id, special } of added_tokens) types[id] = special ? TOKEN_TYPE.control : TOKEN_TYPE.userDefined
  // tokenizer.json renames this byte, so that longer runs of tabs can be merged.
  if (!tokens.includes('<0x09>') && tokens.includes('<0x08>')) {
    const tab = tokens.indexOf('<0x08>') + 1
    tokens[tab] = '<0x09>'
    types[tab] = TOKEN_TYPE.byte
  }
  const scores = tokens.map(() => 0)
  let rank = 0
  const ranked = new Set<string>()
  const rankOf = (piece: string) => {
    const id = model.vocab[piece]!
    if (ranked.has(piece) || types[id] !== TOKEN_TYPE.normal) return
    ranked.add(piece)
    scores[id] = -rank++
  }
  for (const merge of model.merges) rankOf(Array.isArray(merge) ? merge.join('') : merge.replace(' ', ''))
  for (const piece of tokens) if (model.vocab[piece] !== undefined) rankOf(piece)
  for (const [id, type] of types.entries()) {
    if (type === TOKEN_TYPE.control || type === TOKEN_TYPE.userDefined) scores[id] = -1000
  }
  return { tokens, scores, types }
}

/** The metadata of a Gemma 1, as llama.cpp's converter writes it. */
export function gemmaMetadata(
  shape: GemmaShape,
  tables: TokenTables,
  chatTemplate?: string,
): Record<string, GgufValue> {
  return {
    'general.architecture': string('gemma'),
    'general.name': string('Random weights in the shape of Gemma'),
    'gemma.context_length': u32(shape.maxPositions),
    'gemma.embedding_length': u32(shape.hiddenSize),
    'gemma.block_count': u32(shape.layers),
    'gemma.feed_forward_length': u32(shape.intermediateSize),
    'gemma.attention.head_count': u32(shape.heads),
    'gemma.attention.head_count_kv': u32(shape.kvHeads),
    'gemma.attention.layer_norm_rms_epsilon': f32(1e-6),
    'gemma.attention.key_length': u32(shape.headSize),
    'gemma.attention.value_length': u32(shape.headSize),
    'general.quantization_version': u32(2),
    'tokenizer.ggml.model': string('llama'),
    'tokenizer.ggml.pre': string('default'),
    'tokenizer.ggml.tokens': strings(tables.tokens),
    'tokenizer.ggml.scores': numbers('f32', tables.scores),
    'tokenizer.ggml.token_type': numbers('i32', tables.types),
    'tokenizer.ggml.bos_token_id': u32(2),
    'tokenizer.ggml.eos_token_id': u32(1),
    'tokenizer.ggml.unknown_token_id': u32(3),
    'tokenizer.ggml.padding_token_id': u32(0),
    'tokenizer.ggml.add_bos_token': bool(true),
    'tokenizer.ggml.add_eos_token': bool(false),
    'tokenizer.ggml.add_space_prefix': bool(false),
    ...(chatTemplate === undefined ? {} : { 'tokenizer.chat_template': string(chatTemplate) }),
  }
}

/** A tensor's name in a checkpoint → in a GGUF file. Written out anew here, so that a test can disagree with the reader. */
export function ggufName(name: string): string {
  const parts: Readonly<Record<string, string>> = {
    'model.embed_tokens.weight': 'token_embd.weight',
    'model.norm.weight': 'output_norm.weight',
    'input_layernorm.weight': 'attn_norm.weight',
    'post_attention_layernorm.weight': 'ffn_norm.weight',
    'self_attn.q_proj.weight': 'attn_q.weight',
    'self_attn.k_proj.weight': 'attn_k.weight',
    'self_attn.v_proj.weight': 'attn_v.weight',
    'self_attn.o_proj.weight': 'attn_output.weight',
    'mlp.gate_proj.weight': 'ffn_gate.weight',
    'mlp.up_proj.weight': 'ffn_up.weight',
    'mlp.down_proj.weight': 'ffn_down.weight',
  }
  const layer = /^model\.layers\.(\d+)\.(.*)$/.exec(name)
  return layer ? `blk.${layer[1]}.${parts[layer[2]!]}` : parts[name]!
}

export interface RandomTensorsOptions {
  /** The type of the matrices. */
  readonly type: TensorType
  /** The type of the embedding, which is the output matrix too; by default that of the others. */
  readonly embedding?: TensorType
  /** The same seed gives the same bytes. By default 1. */
  readonly seed?: number
  /** Standard deviation of the matrices. */
  readonly deviation: number
}

/** Tensors of random weights, no two megabytes of them equal. Norms are f32 around 1, as GGUF files hold them for Gemma. */
export function randomTensors(shape: GemmaShape, options: RandomTensorsOptions): GgufTensor[] {
  const random = new RandomBlocks(options.seed ?? 1, options.deviation)
  return gemmaTensors(shape).map(({ name, shape: size }): GgufTensor => {
    const isNorm = size.length === 1
    const ofMatrix = name.includes('embed_tokens') ? (options.embedding ?? options.type) : options.type
    const tensor = { name: ggufName(name), type: isNorm ? ('F32' as const) : ofMatrix, shape: size }
    return {
      ...tensor,
      data: isNorm ? () => [random.norm(size[0]!)] : () => random.pieces(tensor.type, tensorBytes(tensor)),
    }
  })
}

const PIECE_BLOCKS = 1 << 16

class RandomBlocks {
  readonly #stream
  readonly #deviation: number

  constructor(seed: number, deviation: number) {
    const key = createHash('sha256').update(`bezel gguf ${seed}`).digest().subarray(0, 16)
    this.#stream = createCipheriv('aes-128-ctr', key, new Uint8Array(16))
    this.#deviation = deviation
  }

  norm(size: number): Uint8Array {
    const bytes = this.#bytes(size)
    return new Uint8Array(Float32Array.from(bytes, (byte) => 0.8 + byte / 640).buffer)
  }

  *pieces(type: TensorType, byteLength: number): Generator<Uint8Array> {
    const blockBytes = TENSOR_TYPE[type].bytes
    for (let left = byteLength / blockBytes; left > 0; left -= PIECE_BLOCKS) {
      const blocks = Math.min(left, PIECE_BLOCKS)
      const bytes = this.#bytes(blocks * blockBytes)
      this.#setScales(type, bytes, blocks)
      yield bytes
    }
  }

  #bytes(count: number): Uint8Array {
    return this.#stream.update(new Uint8Array(count))
  }

  /** Random bytes are good steps as they are, all of them equally likely; scales must be floats of the wanted size. */
  #setScales(type: TensorType, bytes: Uint8Array, blocks: number): void {
    const { bytes: blockBytes } = TENSOR_TYPE[type]
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    // The deviation of a whole number drawn evenly from −n/2 … n/2 is n/√12.
    const steps = { Q4_0: 16, Q8_0: 256, Q6_K: 64 * 8 } as const
    if (!Object.hasOwn(steps, type)) throw new RangeError(`no random tensors of type ${type}`)
    const step = (this.#deviation * Math.sqrt(12)) / steps[type as keyof typeof steps]
    for (let block = 0; block < blocks; block++) {
      const start = block * blockBytes
      if (type === 'Q6_K') {
        // 16 scales of 8 bits, 6 … 10 in size, with either sign; after them the scale of all.
        for (let i = 0; i < 16; i++) {
          const byte = bytes[start + 192 + i]!
          view.setInt8(start + 192 + i, (byte & 1 ? 1 : -1) * (6 + ((byte >> 1) % 5)))
        }
        view.setUint16(start + 208, f16FromF32(step * (0.75 + bytes[start + 208]! / 512)), true)
      } else view.setUint16(start, f16FromF32(step * (0.75 + bytes[start]! / 512)), true)
    }
  }
}

/** The tensors of a checkpoint folder as floats of a GGUF file: norms with 1 added, in f32, as llama.cpp's converter has them. */
export async function checkpointTensors(folder: string, type: 'F32' | 'F16' | 'BF16'): Promise<GgufTensor[]> {
  await using checkpoint = await Checkpoint.open(folder)
  const { config } = checkpoint
  const tensors: GgufTensor[] = []
  for (const { name, shape } of gemmaTensors(config)) {
    const values = new Float32Array(shape.reduce((product, size) => product * size, 1))
    const isNorm = shape.length === 1
    const scratch = new Uint8Array(values.byteLength)
    if (isNorm) await checkpoint.readNorm(name, values, scratch)
    else await checkpoint.readRows(name, 0, shape[0]!, values, scratch)
    const bytes = encode(values, isNorm ? 'F32' : type)
    tensors.push({ name: ggufName(name), type: isNorm ? 'F32' : type, shape, data: () => [bytes] })
  }
  return tensors
}

function encode(values: Float32Array, type: 'F32' | 'F16' | 'BF16'): Uint8Array {
  if (type === 'F32') return new Uint8Array(values.buffer)
  return new Uint8Array(Uint16Array.from(values, type === 'F16' ? f16FromF32 : bf16FromF32).buffer)
}
