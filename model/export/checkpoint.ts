import { type FileHandle, open, readdir, readFile } from 'node:fs/promises'
import path from 'node:path'
import { CheckpointError } from '../errors.js'
import { FILES } from '../folder.js'
import { type GemmaConfig, parseGemmaConfig } from '../gemma.js'
import { f16Table } from '../half.js'
import type { ReportProgress } from '../progress.js'
import { checkTensors, EMBEDDING, OUTPUT_MATRIX } from './gemma-tensors.js'
import { type HashedFile, hashFiles, type SourceFile } from './hash-files.js'
import { SafetensorsFile, SOURCE_BYTES, type SourceType, type TensorEntry } from './safetensors.js'
import type { Companion, ModelSource, SourceWeights } from './source.js'

const SINGLE = 'model.safetensors'
const INDEX = 'model.safetensors.index.json'
export const GENERATION_CONFIG = 'generation_config.json'

/** Copied into the export as they are, where the checkpoint has them. */
const COMPANIONS = [
  'added_tokens.json',
  'chat_template.jinja',
  'special_tokens_map.json',
  'tokenizer.model',
  'LICENSE',
  'LICENSE.txt',
  'NOTICE',
  'NOTICE.txt',
]

/** Gemma's tokenizer.json has 17.5 MB and is the largest of the JSON files. */
const MAX_JSON_BYTES = 256 << 20
/** What is compared in one piece. */
const COMPARE_BYTES = 8 << 20

/**
 * A Hugging Face checkpoint folder of Gemma 1, opened and checked as a whole: after `open` every tensor that the graph needs
 * is known to be there, in the right shape and in a readable type.
 */
export class Checkpoint implements ModelSource {
  /** The folder. */
  readonly path: string
  readonly config: GemmaConfig
  /** The parsed config.json, and generation_config.json where there is one. */
  readonly configJson: Readonly<Record<string, unknown>>
  readonly generationConfigJson: Readonly<Record<string, unknown>> | undefined
  /** Tokens that end an answer. */
  readonly endTokenIds: readonly number[]
  /** Files that go into the export unchanged. */
  readonly companions: readonly Companion[]
  readonly weights: SourceWeights
  /** Every file that the export depends on. */
  readonly sources: readonly SourceFile[]
  readonly #tensors: ReadonlyMap<string, { file: SafetensorsFile; entry: TensorEntry }>
  readonly #shards: readonly SafetensorsFile[]

  private constructor(fields: {
    folder: string
    config: GemmaConfig
    configJson: Record<string, unknown>
    generationConfigJson: Record<string, unknown> | undefined
    endTokenIds: number[]
    companions: Companion[]
    sources: SourceFile[]
    shards: SafetensorsFile[]
  }) {
    this.path = fields.folder
    this.config = fields.config
    this.configJson = fields.configJson
    this.generationConfigJson = fields.generationConfigJson
    this.endTokenIds = fields.endTokenIds
    this.companions = fields.companions
    this.sources = fields.sources
    this.#shards = fields.shards
    this.#tensors = new Map(
      fields.shards.flatMap((file) => [...file.tensors.values()].map((entry) => [entry.name, { file, entry }])),
    )
    const type = this.typeOf(EMBEDDING)
    this.weights = { matrices: type, embedding: type }
  }

  /**
   * Opens and checks a checkpoint folder.
   * @throws {CheckpointError} anything is missing, cut, of another shape than config.json says, or not Gemma 1.
   */
  static async open(folder: string): Promise<Checkpoint> {
    const configJson = await readJson(path.join(folder, FILES.config))
    const config = parseGemmaConfig(configJson, path.join(folder, FILES.config))
    const names = await listFolder(folder)
    const generationConfigJson = names.has(GENERATION_CONFIG)
      ? await readJson(path.join(folder, GENERATION_CONFIG))
      : undefined
    const tokenizerPath = path.join(folder, FILES.tokenizer)
    const endTokenIds = findEndTokens(config, generationConfigJson, await readJson(tokenizerPath), tokenizerPath)
    await readJson(path.join(folder, FILES.tokenizerConfig))

    const weightMap = names.has(INDEX) ? await readIndex(path.join(folder, INDEX)) : undefined
    const shardNames = weightMap ? [...new Set(weightMap.values())].sort() : [SINGLE]
    const shards: SafetensorsFile[] = []
    try {
      for (const name of shardNames) shards.push(await SafetensorsFile.open(path.join(folder, name)))
      if (weightMap) checkIndex(path.join(folder, INDEX), weightMap, shards)
      checkTensors(config, shards)
      const source = (name: string) => ({ name, path: path.join(folder, name) })
      const companions = [FILES.tokenizer, FILES.tokenizerConfig, ...COMPANIONS.filter((name) => names.has(name))].map(
        source,
      )
      const read = [FILES.config, GENERATION_CONFIG, INDEX].filter((name) => names.has(name))
      const checkpoint = new Checkpoint({
        folder,
        config,
        configJson,
        generationConfigJson,
        endTokenIds,
        companions: companions.map(({ name, path }) => ({ name, read: () => readFile(path) })),
        sources: [...read, ...shardNames].map(source).concat(companions),
        shards,
      })
      await checkpoint.#checkOutputMatrix()
      return checkpoint
    } catch (error) {
      for (const shard of shards) await shard[Symbol.asyncDispose]()
      throw error
    }
  }

  shape(name: string): { rows: number; columns: number } {
    const { shape } = this.#find(name).entry
    return shape.length === 1 ? { rows: 1, columns: shape[0]! } : { rows: shape[0]!, columns: shape[1]! }
  }

  typeOf(name: string): string {
    return this.#find(name).entry.dtype
  }

  /** A checkpoint holds floats. */
  blocksOf(): undefined {
    return undefined
  }

  async readRows(name: string, firstRow: number, rows: number, into: Float32Array, scratch: Uint8Array): Promise<void> {
    const { file, entry } = this.#find(name)
    const { columns } = this.shape(name)
    const elementBytes = SOURCE_BYTES[entry.dtype as SourceType]
    const bytes = scratch.subarray(0, rows * columns * elementBytes)
    await file.read(entry, firstRow * columns * elementBytes, bytes)
    decode(entry.dtype as SourceType, bytes, into)
  }

  /** The file has w. */
  async readNorm(name: string, into: Float32Array, scratch: Uint8Array): Promise<void> {
    await this.readRows(name, 0, 1, into, scratch)
    for (let i = 0; i < into.length; i++) into[i] = into[i]! + 1
  }

  hash(report: ReportProgress, signal?: AbortSignal): Promise<HashedFile[]> {
    return hashFiles(this.sources, report, signal)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const shard of this.#shards) await shard[Symbol.asyncDispose]()
  }

  #find(name: string): { file: SafetensorsFile; entry: TensorEntry } {
    const found = this.#tensors.get(name)
    if (!found) throw new CheckpointError(this.path, `tensor ${name} is missing.`, { tensor: name })
    return found
  }

  /** Some savers write the tied output matrix a second time. Equal bytes are no harm; others are another architecture. */
  async #checkOutputMatrix(): Promise<void> {
    const output = this.#tensors.get(OUTPUT_MATRIX)
    if (!output) return
    const embedding = this.#find(EMBEDDING)
    let same = output.entry.byteLength === embedding.entry.byteLength && output.entry.dtype === embedding.entry.dtype
    const left = new Uint8Array(COMPARE_BYTES)
    const right = new Uint8Array(COMPARE_BYTES)
    for (let at = 0; same && at < output.entry.byteLength; at += COMPARE_BYTES) {
      const length = Math.min(COMPARE_BYTES, output.entry.byteLength - at)
      await output.file.read(output.entry, at, left.subarray(0, length))
      await embedding.file.read(embedding.entry, at, right.subarray(0, length))
      same = Buffer.compare(left.subarray(0, length), right.subarray(0, length)) === 0
    }
    if (!same) {
      const message = `tensor ${OUTPUT_MATRIX} differs from ${EMBEDDING}, but Gemma 1 has one matrix for both.`
      throw new CheckpointError(output.file.path, message, { tensor: OUTPUT_MATRIX })
    }
  }
}

async function readIndex(file: string): Promise<Map<string, string>> {
  const json = await readJson(file)
  const map = json.weight_map
  if (typeof map !== 'object' || map === null || Array.isArray(map) || Object.keys(map).length === 0) {
    throw new CheckpointError(file, 'has no weight_map that says which tensor lies in which file.')
  }
  const entries = Object.entries(map as Record<string, unknown>)
  for (const [tensor, shard] of entries) {
    if (typeof shard !== 'string' || !/^[^/\\\0]+\.safetensors$/.test(shard)) {
      const message = `weight_map puts ${tensor} into ${JSON.stringify(shard)}, but a .safetensors file of this folder is wanted.`
      throw new CheckpointError(file, message, { tensor })
    }
  }
  return new Map(entries as [string, string][])
}

function checkIndex(file: string, weightMap: ReadonlyMap<string, string>, shards: readonly SafetensorsFile[]): void {
  const byName = new Map(shards.map((shard) => [path.basename(shard.path), shard]))
  for (const [tensor, shard] of weightMap) {
    if (!byName.get(shard)?.tensors.has(tensor)) {
      throw new CheckpointError(file, `weight_map puts ${tensor} into ${shard}, which does not hold it.`, { tensor })
    }
  }
}

/** eos of both configs, and the chat template's <end_of_turn>, which the published generation config forgets. */
function findEndTokens(
  config: GemmaConfig,
  generation: Record<string, unknown> | undefined,
  tokenizer: Record<string, unknown>,
  tokenizerPath: string,
): number[] {
  const ids = new Set(config.eosTokenIds)
  const eos: unknown = generation?.eos_token_id
  for (const id of Array.isArray(eos) ? eos : [eos]) if (Number.isSafeInteger(id)) ids.add(id as number)
  const added: unknown = tokenizer.added_tokens
  for (const token of Array.isArray(added) ? added : []) {
    if (token?.content === '<end_of_turn>' && Number.isSafeInteger(token.id)) ids.add(token.id)
  }
  for (const id of ids) {
    if (id < 0 || id >= config.vocabSize) {
      throw new CheckpointError(tokenizerPath, `end token ${id} lies outside the vocabulary of ${config.vocabSize}.`)
    }
  }
  return [...ids].sort((a, b) => a - b)
}

async function listFolder(folder: string): Promise<Set<string>> {
  try {
    return new Set(await readdir(folder))
  } catch (error) {
    throw new CheckpointError(folder, 'is no folder that can be read.', { cause: error })
  }
}

async function readJson(file: string): Promise<Record<string, unknown>> {
  let handle: FileHandle
  try {
    handle = await open(file, 'r')
  } catch (error) {
    throw new CheckpointError(file, 'is missing or cannot be read. Is the checkpoint complete?', { cause: error })
  }
  try {
    const { size } = await handle.stat()
    if (size > MAX_JSON_BYTES) {
      throw new CheckpointError(file, `has ${size} bytes; at most ${MAX_JSON_BYTES} are read.`)
    }
    const json: unknown = JSON.parse(await handle.readFile('utf8'))
    if (typeof json === 'object' && json !== null && !Array.isArray(json)) return json as Record<string, unknown>
    throw new SyntaxError('no object')
  } catch (error) {
    if (error instanceof CheckpointError) throw error
    throw new CheckpointError(file, 'is not a JSON object.', { cause: error })
  } finally {
    await handle.close()
  }
}

/** Little-endian bytes → f32. All machines that ONNX Runtime runs on are little-endian. */
function decode(dtype: SourceType, bytes: Uint8Array, into: Float32Array): void {
  if (dtype === 'F32') {
    into.set(new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4))
    return
  }
  const halves = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2)
  if (dtype === 'F16') {
    const values = f16Table()
    for (let i = 0; i < halves.length; i++) into[i] = values[halves[i]!]!
    return
  }
  const bits = new Uint32Array(into.buffer, into.byteOffset, into.length)
  for (let i = 0; i < halves.length; i++) bits[i] = halves[i]! << 16
}
