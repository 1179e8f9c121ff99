import path from 'node:path'
import { GgufError } from '../errors.js'
import { FILES } from '../folder.js'
import { type GemmaConfig, parseGemmaConfig } from '../gemma.js'
import { dequantize, READABLE_TYPES, REPACKABLE, repack } from '../gguf/blocks.js'
import { GgufFile } from '../gguf/file.js'
import { assertGemma, ggufTensorName, readGemmaMetadata } from '../gguf/gemma.js'
import { type GgufTensor, quote } from '../gguf/header.js'
import {
  endTokens,
  type GgufVocabulary,
  readSpecialTokens,
  readVocabulary,
  type SpecialTokens,
  TOKENIZER_ARRAYS,
  tokenizerConfigJson,
  tokenizerJson,
} from '../gguf/tokenizer.js'
import type { ReportProgress } from '../progress.js'
import { EMBEDDING, expectedTensors } from './gemma-tensors.js'
import { type HashedFile, hashFiles } from './hash-files.js'
import type { Companion, ModelSource, SourceBlocks, SourceWeights } from './source.js'

/** Old llama.cpp versions wrote the table of rotary frequencies; it follows from the metadata. */
const IGNORED_TENSORS = new Set(['rope_freqs.weight'])

/**
 * A GGUF file of Gemma 1, opened and checked as a whole. Its tokenizer and configuration are written anew from its metadata;
 * blocks of Q4_0 and Q8_0 can be taken over as they are, all other types are read as f32.
 */
export class GgufSource implements ModelSource {
  readonly path: string
  readonly config: GemmaConfig
  readonly configJson: Readonly<Record<string, unknown>>
  readonly generationConfigJson: Readonly<Record<string, unknown>>
  readonly endTokenIds: readonly number[]
  readonly companions: readonly Companion[]
  readonly weights: SourceWeights
  readonly #file: GgufFile

  private constructor(file: GgufFile) {
    assertGemma(file)
    const vocabulary = readVocabulary(file)
    const special = readSpecialTokens(file, vocabulary)
    const metadata = readGemmaMetadata(file, vocabulary.pieces.length, special)
    this.path = file.path
    this.config = parseGemmaConfig(metadata.configJson, file.path)
    this.configJson = metadata.configJson
    this.generationConfigJson = metadata.generationConfigJson
    this.endTokenIds = endTokens(file, vocabulary, special)
    this.companions = tokenizerFiles(file, vocabulary, special)
    this.#file = file
    this.#checkTensors()
    this.weights = { matrices: this.#commonestType(), embedding: this.typeOf(EMBEDDING) }
  }

  /**
   * Opens and checks a file.
   * @throws {GgufError} it is no GGUF file, is damaged, is of another architecture than Gemma 1, or lacks something.
   */
  static async open(file: string): Promise<GgufSource> {
    const opened = await GgufFile.open(file, TOKENIZER_ARRAYS)
    try {
      return new GgufSource(opened)
    } catch (error) {
      await opened[Symbol.asyncDispose]()
      throw error
    }
  }

  shape(name: string): { rows: number; columns: number } {
    const { shape } = this.#tensor(name)
    return shape.length === 1 ? { rows: 1, columns: shape[0]! } : { rows: shape[0]!, columns: shape[1]! }
  }

  typeOf(name: string): string {
    return this.#tensor(name).type.name
  }

  blocksOf(name: string): SourceBlocks | undefined {
    const tensor = this.#tensor(name)
    const blocks = REPACKABLE[tensor.type.name]
    if (blocks === undefined) return undefined
    return {
      ...blocks,
      readRows: async (firstRow, packed, scales, scratch) => {
        const rows = (scales.length * blocks.blockSize) / this.shape(name).columns
        return repack(tensor.type, await this.#readBytes(tensor, firstRow, rows, scratch), packed, scales)
      },
    }
  }

  async readRows(name: string, firstRow: number, rows: number, into: Float32Array, scratch: Uint8Array): Promise<void> {
    const tensor = this.#tensor(name)
    dequantize(tensor.type, await this.#readBytes(tensor, firstRow, rows, scratch), into)
  }

  /** The file has 1 + w already. */
  async readNorm(name: string, into: Float32Array, scratch: Uint8Array): Promise<void> {
    await this.readRows(name, 0, 1, into, scratch)
  }

  hash(report: ReportProgress, signal?: AbortSignal): Promise<HashedFile[]> {
    return hashFiles([{ name: path.basename(this.path), path: this.path }], report, signal)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file[Symbol.asyncDispose]()
  }

  async #readBytes(tensor: GgufTensor, firstRow: number, rows: number, scratch: Uint8Array): Promise<Uint8Array> {
    const { weights, bytes } = tensor.type
    const rowBytes = (tensor.shape.at(-1)! / weights) * bytes
    const read = scratch.subarray(0, rows * rowBytes)
    await this.#file.read(tensor, firstRow * rowBytes, read)
    return read
  }

  /** By the name that the checkpoint gives it. */
  #tensor(name: string): GgufTensor {
    return this.#file.tensors.get(ggufTensorName(name))!
  }

  #checkTensors(): void {
    const { path, tensors } = this.#file
    const known = new Set(IGNORED_TENSORS)
    for (const [name, shape] of expectedTensors(this.config)) {
      const ggufName = ggufTensorName(name)
      known.add(ggufName)
      const tensor = tensors.get(ggufName)
      const wanted = `[${shape.join(', ')}]`
      if (tensor === undefined) throw new GgufError(path, `tensor ${ggufName}`, 'missing', `${wanted} is wanted`)
      const found = `[${tensor.shape.join(', ')}]`
      if (found !== wanted) {
        throw new GgufError(path, `the shape of tensor ${ggufName}`, found, `the metadata make it ${wanted}`)
      }
      if (!READABLE_TYPES.includes(tensor.type.name)) {
        const types = `${READABLE_TYPES.join(', ')} can be read. Choose a file in one of them`
        throw new GgufError(path, `the type of tensor ${ggufName}`, tensor.type.name, types)
      }
    }
    for (const name of tensors.keys()) {
      if (!known.has(name)) throw new GgufError(path, 'a tensor', quote(name), 'Gemma 1 has none of that name')
    }
  }

  #commonestType(): string {
    const weights = new Map<string, number>()
    for (const { name, type, shape } of this.#file.tensors.values()) {
      if (shape.length !== 2 || name === ggufTensorName(EMBEDDING)) continue
      weights.set(type.name, (weights.get(type.name) ?? 0) + shape[0]! * shape[1]!)
    }
    return [...weights].reduce((most, next) => (next[1] > most[1] ? next : most))[0]
  }
}

function tokenizerFiles(file: GgufFile, vocabulary: GgufVocabulary, special: SpecialTokens): Companion[] {
  const template = file.metadata.get('tokenizer.chat_template')
  if (template !== undefined && typeof template !== 'string') {
    throw new GgufError(file.path, 'tokenizer.chat_template', quote(template), 'a text is wanted')
  }
  const config = tokenizerConfigJson(vocabulary, special, template)
  return [
    { name: FILES.tokenizer, read: async () => tokenizerJson(vocabulary, special) },
    { name: FILES.tokenizerConfig, read: async () => new TextEncoder().encode(`${JSON.stringify(config, null, 2)}\n`) },
  ]
}
