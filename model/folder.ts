import { readFile, stat } from 'node:fs/promises'
import path from 'node:path'
import { z } from 'zod'
import { CheckpointError, ModelFolderError } from './errors.js'
import { type GemmaConfig, parseGemmaConfig } from './gemma.js'

/** File names in an exported folder. The data file is named as transformers.js looks for it: model file + "_data". */
export const FILES = {
  manifest: 'manifest.json',
  config: 'config.json',
  portableModel: 'model.onnx',
  engineModel: 'engine.onnx',
  data: 'model.onnx_data',
  tokenizer: 'tokenizer.json',
  tokenizerConfig: 'tokenizer_config.json',
} as const

/** Raised when a reader of this version could misread an older export. */
export const MANIFEST_FORMAT = 1

export type WeightDtype = 'f32' | 'f16' | 'bf16' | 'q4' | 'q8'
export type ActivationType = 'f32' | 'f16' | 'bf16'
export type Target = 'cpu' | 'cuda'

/** A name within the folder itself: an entry can lead nowhere else. */
const fileName = z
  .string()
  .regex(/^[^/\\]+$/)
  .refine((name) => name !== '.' && name !== '..')
const bytes = z.number().int().min(0)

const manifestSchema = z.object({
  format: z.literal(MANIFEST_FORMAT),
  exporterVersion: z.string(),
  target: z.enum(['cpu', 'cuda']),
  dtype: z.enum(['f32', 'f16', 'bf16', 'q4', 'q8']),
  /** Weights per scale along a row; null where the weights are floats. */
  blockSize: z.number().int().nullable(),
  /** The embedding's, which is the output matrix too, where it is stored in another way than the other matrices. */
  embedding: z.object({ dtype: z.enum(['q4', 'q8']), blockSize: z.number().int() }).optional(),
  activationType: z.enum(['f32', 'f16', 'bf16']),
  /** Tokens that end an answer: eos of config and generation config, and <end_of_turn> where the tokenizer has it. */
  endTokenIds: z.array(z.number().int().min(0)).min(1),
  /** What the export was made from. */
  source: z.array(z.object({ name: fileName, bytes, sha256: z.string().regex(/^[0-9a-f]{64}$/) })),
  /** Everything else in the folder, with sizes: how a reader sees that the folder is whole. */
  files: z.array(z.object({ name: fileName, bytes })),
})

/** What an export is, how it was made, and of what. */
export type Manifest = z.infer<typeof manifestSchema>

/** An exported model, checked to be whole; nothing of it is loaded yet. Paths are absolute. */
export interface ModelFolder {
  readonly path: string
  readonly config: GemmaConfig
  readonly manifest: Manifest
  /** The graph for our engine. */
  readonly engineModel: string
  /** The graph for onnxruntime-genai and transformers.js, over the same weights. */
  readonly portableModel: string
  readonly tokenizerFile: string
  readonly tokenizerConfigFile: string
  readonly weightDtype: WeightDtype
  readonly target: Target
  readonly activationType: ActivationType
  /** Bytes of the weights' file. */
  readonly weightBytes: number
  readonly endTokenIds: readonly number[]
}

/**
 * Opens a folder that the exporter wrote. Reads two small files and asks for the size of the others.
 * @throws {ModelFolderError} no export there, one of another format, or a file is missing or cut; the message says which.
 */
export async function openModelFolder(folder: string): Promise<ModelFolder> {
  const root = path.resolve(folder)
  const manifest = await readManifest(root)
  await Promise.all(manifest.files.map((file) => assertSize(path.join(root, file.name), file.bytes)))
  for (const name of Object.values(FILES)) {
    if (name !== FILES.manifest && !manifest.files.some((file) => file.name === name)) {
      throw new ModelFolderError(path.join(root, FILES.manifest), `does not list ${name}. Export the model again.`)
    }
  }
  return {
    path: root,
    config: await readConfig(path.join(root, FILES.config)),
    manifest,
    engineModel: path.join(root, FILES.engineModel),
    portableModel: path.join(root, FILES.portableModel),
    tokenizerFile: path.join(root, FILES.tokenizer),
    tokenizerConfigFile: path.join(root, FILES.tokenizerConfig),
    weightDtype: manifest.dtype,
    target: manifest.target,
    activationType: manifest.activationType,
    weightBytes: manifest.files.find((file) => file.name === FILES.data)?.bytes ?? 0,
    endTokenIds: manifest.endTokenIds,
  }
}

/** Whether this looks like a Hugging Face checkpoint (config and safetensors) that has yet to be exported. */
export async function isCheckpointFolder(folder: string): Promise<boolean> {
  const has = (name: string) => sizeOf(path.join(folder, name)).then((size) => size !== undefined)
  if (await has(FILES.manifest)) return false
  return (await has(FILES.config)) && ((await has('model.safetensors')) || (await has('model.safetensors.index.json')))
}

async function readManifest(root: string): Promise<Manifest> {
  const file = path.join(root, FILES.manifest)
  let text: string
  try {
    text = await readFile(file, 'utf8')
  } catch (error) {
    throw new ModelFolderError(root, `holds no exported model (no ${FILES.manifest}). Make one: bezel export.`, {
      cause: error,
    })
  }
  let json: unknown
  try {
    json = JSON.parse(text)
  } catch (error) {
    throw new ModelFolderError(file, 'is not JSON. Export the model again.', { cause: error })
  }
  const parsed = manifestSchema.safeParse(json)
  if (parsed.success) return parsed.data
  const issue = parsed.error.issues[0]
  const where = issue?.path.join('.') || 'the file'
  throw new ModelFolderError(file, `${where}: ${issue?.message}. Export the model again with this version.`)
}

async function readConfig(file: string): Promise<GemmaConfig> {
  try {
    return parseGemmaConfig(JSON.parse(await readFile(file, 'utf8')), file)
  } catch (error) {
    const reason = error instanceof CheckpointError ? error.message : 'is not JSON'
    throw new ModelFolderError(file, `${reason}. Export the model again.`, { cause: error })
  }
}

async function assertSize(file: string, wanted: number): Promise<void> {
  const found = await sizeOf(file)
  if (found === wanted) return
  const is = found === undefined ? 'is missing' : `has ${found} bytes`
  throw new ModelFolderError(file, `${is}, but the manifest says ${wanted} bytes. Export the model again.`)
}

async function sizeOf(file: string): Promise<number | undefined> {
  try {
    return (await stat(file)).size
  } catch {
    return undefined
  }
}
