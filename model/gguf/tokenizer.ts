import { GgufError } from '../errors.js'
import type { GgufFile } from './file.js'
import { type MetadataValue, quote } from './header.js'
import { Keys } from './keys.js'
import { sentencePieceMerges } from './merges.js'

/** The arrays of the metadata that a tokenizer is made of. */
export const TOKENIZER_ARRAYS = ['tokenizer.ggml.tokens', 'tokenizer.ggml.scores', 'tokenizer.ggml.token_type'] as const
const [TOKENS, SCORES, TYPES] = TOKENIZER_ARRAYS

/** Values of tokenizer.ggml.token_type. Source: enum llama_token_type in llama.h. */
const NORMAL = 1
const CONTROL = 3
const USER_DEFINED = 4
const BYTE = 6

const START_OF_TURN = '<start_of_turn>'
const END_OF_TURN = '<end_of_turn>'

/**
 * llama.cpp's converter marks these as control tokens by their looks; Gemma's tokenizer.json has them as plain added tokens.
 * Source: does_token_look_special in convert_hf_to_gguf.py.
 */
const LOOKS_LIKE_CONTROL = /^(?:<mask>|<2mass>|\[@BOS@\]|<unused\d+>)$/

/**
 * Pieces behind all others in Gemma's vocabulary. SentencePiece matches them whole, Gemma's tokenizer.json does not: it merges
 * runs of tabs, and never makes the other two.
 */
const MERGED = /^(?:\t+|\[toxicity=0\]|<unused99>)$/

/** Gemma's own, for files without one. Source: tokenizer_config.json of google/gemma-2b-it. */
const CHAT_TEMPLATE =
  "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" +
  "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}" +
  "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}" +
  "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}" +
  "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}" +
  "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"

/** A GGUF file's tokenizer, checked. Index: token id. */
export interface GgufVocabulary {
  readonly pieces: readonly string[]
  readonly scores: Float64Array
  readonly types: Float64Array
}

/**
 * Reads the tables of a SentencePiece BPE tokenizer, the one that Gemma has.
 * @throws {GgufError} another kind of tokenizer, or tables that are missing, of different lengths, or with a piece twice
 */
export function readVocabulary({ path, metadata }: Pick<GgufFile, 'path' | 'metadata'>): GgufVocabulary {
  const model = metadata.get('tokenizer.ggml.model')
  if (model !== 'llama') {
    const wanted = `"llama" (SentencePiece), which Gemma has, is wanted`
    throw new GgufError(path, 'tokenizer.ggml.model', model === undefined ? 'missing' : quote(model), wanted)
  }
  const pieces = metadata.get(TOKENS)
  if (!Array.isArray(pieces) || pieces.length === 0) {
    throw new GgufError(
      path,
      TOKENS,
      pieces === undefined ? 'missing' : 'empty or no strings',
      'a list of pieces is wanted',
    )
  }
  const seen = new Set<string>()
  for (const piece of pieces) {
    if (seen.has(piece)) throw new GgufError(path, TOKENS, `with ${quote(piece)} twice`, 'each piece has one id')
    seen.add(piece)
  }
  const scores = numbers(path, metadata, SCORES, pieces.length, Number.isFinite)
  const types = metadata.has(TYPES)
    ? numbers(path, metadata, TYPES, pieces.length, (type) => Number.isInteger(type) && type >= NORMAL && type <= BYTE)
    : Float64Array.from(pieces, (piece) => (/^<0x[0-9A-F]{2}>$/.test(piece) ? BYTE : NORMAL))
  return { pieces: withTab(pieces), scores, types }
}

function numbers(
  file: string,
  metadata: ReadonlyMap<string, MetadataValue>,
  key: string,
  length: number,
  isLegal: (value: number) => boolean,
): Float64Array {
  const values = metadata.get(key)
  if (!(values instanceof Float64Array)) {
    throw new GgufError(
      file,
      key,
      values === undefined ? 'missing' : 'no list of numbers',
      'one for each piece is wanted',
    )
  }
  if (values.length !== length) {
    throw new GgufError(file, key, `${values.length} numbers`, `there are ${length} pieces`)
  }
  const wrong = values.findIndex((value) => !isLegal(value))
  if (wrong >= 0) throw new GgufError(file, `element ${wrong} of ${key}`, String(values[wrong]), 'that means nothing')
  return values
}

/** Gemma 1's byte piece of the tab is spelled as a tab in its tokenizer.json, where runs of tabs are merged from it. */
function withTab(pieces: readonly string[]): readonly string[] {
  if (pieces.includes('\t')) return pieces
  return pieces.map((piece) => (piece === '<0x09>' ? '\t' : piece))
}

/** Ids of the control tokens that every Gemma has. */
export interface SpecialTokens {
  readonly pad: number
  readonly eos: number
  readonly bos: number
  readonly unk: number
}

/** @throws {GgufError} an id lies outside the vocabulary. Without a key it is Gemma's. */
export function readSpecialTokens(file: GgufFile, { pieces }: GgufVocabulary): SpecialTokens {
  const keys = new Keys(file)
  return {
    pad: keys.token('tokenizer.ggml.padding_token_id', pieces.length, 0),
    eos: keys.token('tokenizer.ggml.eos_token_id', pieces.length, 1),
    bos: keys.token('tokenizer.ggml.bos_token_id', pieces.length, 2),
    unk: keys.token('tokenizer.ggml.unknown_token_id', pieces.length, 3),
  }
}

/**
 * Writes the tables as a tokenizer.json that the `tokenizers` library reads, with the ids that Gemma's own gives every text.
 * In UTF-8; Gemma's has 14 MB.
 *
 * Matched whole before anything is merged, as in SentencePiece, are control and user-defined pieces. Only control tokens (and
 * Gemma's turns, whatever a converter called them) are special.
 */
export function tokenizerJson(vocabulary: GgufVocabulary, special: SpecialTokens): Uint8Array {
  const { pieces } = vocabulary
  const bos = pieces[special.bos]!
  const head = {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: addedTokens(vocabulary, special),
    normalizer: { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
    pre_tokenizer: null,
    post_processor: {
      type: 'TemplateProcessing',
      single: [{ SpecialToken: { id: bos, type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
      pair: [
        { SpecialToken: { id: bos, type_id: 0 } },
        { Sequence: { id: 'A', type_id: 0 } },
        { SpecialToken: { id: bos, type_id: 1 } },
        { Sequence: { id: 'B', type_id: 1 } },
      ],
      special_tokens: { [bos]: { id: bos, ids: [special.bos], tokens: [bos] } },
    },
    decoder: {
      type: 'Sequence',
      decoders: [
        { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
        { type: 'ByteFallback' },
        { type: 'Fuse' },
      ],
    },
  }
  const model = {
    type: 'BPE',
    dropout: null,
    unk_token: pieces[special.unk],
    continuing_subword_prefix: null,
    end_of_word_suffix: null,
    fuse_unk: true,
    byte_fallback: true,
    ignore_merges: false,
  }
  // Not as one object: a piece may be called __proto__, and in pieces it takes a fifth of the memory.
  const file = new TextFile()
  file.add(`${JSON.stringify(head).slice(0, -1)},"model":${JSON.stringify(model).slice(0, -1)},"vocab":{`)
  for (const [id, piece] of pieces.entries()) file.add(`${id === 0 ? '' : ','}${JSON.stringify(piece)}:${id}`)
  file.add('},"merges":[')
  let comma = ''
  for (const [left, right] of sentencePieceMerges(pieces, mergeScores(vocabulary))) {
    file.add(`${comma}[${JSON.stringify(left)},${JSON.stringify(right)}]`)
    comma = ','
  }
  file.add(']}}')
  return file.bytes()
}

/** A text in the making, kept as UTF-8. */
class TextFile {
  readonly #chunks: Uint8Array[] = []
  #text: string[] = []

  add(text: string): void {
    this.#text.push(text)
    if (this.#text.length >= 10_000) this.#encode()
  }

  bytes(): Uint8Array {
    this.#encode()
    return Buffer.concat(this.#chunks)
  }

  #encode(): void {
    this.#chunks.push(new TextEncoder().encode(this.#text.join('')))
    this.#text = []
  }
}

/** Whole pieces have 0 in Gemma's tokenizer.model, and all kinds of numbers in GGUF files. */
function mergeScores({ scores, types }: GgufVocabulary): Float64Array {
  return scores.map((score, id) => (types[id] === NORMAL ? score : 0))
}

function addedTokens({ pieces, types }: GgufVocabulary, special: SpecialTokens): object[] {
  const named = new Set(Object.values(special))
  return pieces.flatMap((content, id) => {
    const type = types[id]!
    const isTurn = content === START_OF_TURN || content === END_OF_TURN
    const isSpecial = isTurn || named.has(id) || (type === CONTROL && !LOOKS_LIKE_CONTROL.test(content))
    const isWhole = isSpecial || type === CONTROL || type === USER_DEFINED
    if (!isWhole || content === '' || MERGED.test(content)) return []
    return { id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: isSpecial }
  })
}

/**
 * @param template  tokenizer.chat_template; without it Gemma's own stands in where the vocabulary has Gemma's turns
 * @returns a tokenizer_config.json
 */
export function tokenizerConfigJson(
  { pieces }: GgufVocabulary,
  special: SpecialTokens,
  template: string | undefined,
): Record<string, unknown> {
  const hasTurns = pieces.includes(START_OF_TURN) && pieces.includes(END_OF_TURN)
  const chatTemplate = template ?? (hasTurns ? CHAT_TEMPLATE : undefined)
  return {
    add_bos_token: true,
    add_eos_token: false,
    bos_token: pieces[special.bos],
    eos_token: pieces[special.eos],
    pad_token: pieces[special.pad],
    unk_token: pieces[special.unk],
    clean_up_tokenization_spaces: false,
    tokenizer_class: 'GemmaTokenizer',
    ...(chatTemplate === undefined ? {} : { chat_template: chatTemplate }),
  }
}

/** Tokens that end an answer: eos, the file's end of turn, and Gemma's. */
export function endTokens(file: GgufFile, { pieces }: GgufVocabulary, special: SpecialTokens): number[] {
  const ids = new Set([special.eos])
  ids.add(new Keys(file).token('tokenizer.ggml.eot_token_id', pieces.length, special.eos))
  const turn = pieces.indexOf(END_OF_TURN)
  if (turn >= 0) ids.add(turn)
  return [...ids].sort((a, b) => a - b)
}
