import * as fs from 'node:fs/promises'
import path from 'node:path'
import { FILES, MANIFEST_FORMAT, type Manifest } from '../folder.js'
import type { ReportProgress } from '../progress.js'
import { Checkpoint, GENERATION_CONFIG } from './checkpoint.js'
import { type ExportDisk, ExportFolder } from './export-folder.js'
import { type AskedFormat, chooseFormat } from './format.js'
import { buildGemmaGraph } from './gemma-graph.js'
import { gemmaNotice, TERMS_FILE } from './gemma-terms.js'
import { genaiConfig } from './genai-config.js'
import { GgufSource } from './gguf-source.js'
import { requantizingNotice } from './notice.js'
import type { ScaleChoice } from './quantize.js'
import type { ModelSource } from './source.js'
import { planWeights, type WeightFormat } from './weights.js'
import { writeWeights } from './write-weights.js'

/** Changes whenever the same checkpoint gives other bytes than before. */
export const EXPORTER_VERSION = '2'

export interface ExportOptions extends AskedFormat {
  /** A Hugging Face checkpoint folder of Gemma 1, or a GGUF file of it. */
  readonly checkpoint: string
  /** The folder to make. Must not exist, or be empty. */
  readonly out: string
  readonly report?: ReportProgress
  /** One line on what a user should know and need not act on. */
  readonly log?: (line: string) => void
  readonly signal?: AbortSignal
  readonly disk?: ExportDisk
  /** 'plain' is for comparisons: the same bytes, with more error. */
  readonly scaleChoice?: ScaleChoice
}

/** Graphs, configs and tokenizer beside the weights: generously more than they take. */
const OTHER_BYTES = 64 << 20

/**
 * Exports a Gemma 1 checkpoint or GGUF file to a folder that our engine, onnxruntime-genai and transformers.js run.
 *
 * Everything that can be wrong with the checkpoint's structure, the format and the disk's free space is looked for before
 * anything is written. The folder is written beside `out` under another name and renamed at the end: whatever interrupts the
 * export, `out` is whole or not there.
 *
 * @returns the manifest, as it was written
 * @throws {CheckpointError} the checkpoint is not whole, not Gemma 1, or holds values that cannot be stored
 * @throws {ExportError} the target cannot run the dtype, a width is no multiple of the block size, or `out` is taken
 * @throws {DiskFullError} there is not enough space, at the start or later
 * @throws the signal's reason, when it fired. What was written is removed again.
 */
export async function exportModel(options: ExportOptions): Promise<Manifest> {
  const { target, signal, disk = fs } = options
  const report = options.report ?? (() => {})
  await using opened = await openSource(options.checkpoint)
  const format = chooseFormat(opened, options)
  const plan = planWeights(opened.config, format)
  const notice = requantizingNotice(opened, plan)
  if (notice !== undefined) options.log?.(notice)

  const folder = await ExportFolder.create(path.resolve(options.out), plan.byteLength + OTHER_BYTES, disk)
  try {
    const source = await opened.hash(report, signal)
    await folder.writeStream(FILES.data, plan.byteLength, (write) =>
      writeWeights({
        source: opened,
        plan,
        write,
        scaleChoice: options.scaleChoice ?? 'best',
        signal,
        report: (done) => report({ phase: 'Converting the weights', done, total: plan.byteLength, unit: 'bytes' }),
      }),
    )
    await folder.write(FILES.engineModel, buildGemmaGraph(opened.config, plan, 'engine'))
    await folder.write(FILES.portableModel, buildGemmaGraph(opened.config, plan, 'portable'))
    await folder.writeJson(FILES.config, withTransformersJsHints(opened.configJson))
    if (opened.generationConfigJson) {
      await folder.writeJson(GENERATION_CONFIG, {
        ...opened.generationConfigJson,
        eos_token_id: opened.endTokenIds,
      })
    }
    await folder.writeJson('genai_config.json', genaiConfig(opened.config, opened.endTokenIds, target))
    for (const companion of opened.companions) {
      await folder.write(companion.name, await companion.read())
    }
    const terms = gemmaNotice(opened.config, format.dtype)
    if (terms !== undefined) await folder.write(TERMS_FILE, Buffer.from(terms))
    const manifest: Manifest = {
      format: MANIFEST_FORMAT,
      exporterVersion: EXPORTER_VERSION,
      target,
      dtype: format.dtype,
      blockSize: format.blocks?.matrices.blockSize ?? null,
      ...embeddingEntry(format),
      activationType: format.activationType,
      endTokenIds: [...opened.endTokenIds],
      source,
      files: [...folder.files],
    }
    await folder.writeJson(FILES.manifest, manifest)
    signal?.throwIfAborted()
    await folder.publish()
    return manifest
  } catch (error) {
    await folder.discard()
    throw error
  }
}

/** A file is a GGUF file; all else is a checkpoint folder, or what its errors say. */
async function openSource(place: string): Promise<ModelSource> {
  const isFile = await fs.stat(place).then(
    (found) => found.isFile(),
    () => false,
  )
  return isFile ? GgufSource.open(place) : Checkpoint.open(place)
}

/** How the embedding is stored, where that is not how the other matrices are. */
function embeddingEntry({ blocks }: WeightFormat): Pick<Manifest, 'embedding'> {
  if (blocks === undefined) return {}
  const { embedding, matrices } = blocks
  if (embedding.bits === matrices.bits && embedding.blockSize === matrices.blockSize) return {}
  return { embedding: { dtype: embedding.bits === 4 ? 'q4' : 'q8', blockSize: embedding.blockSize } }
}

/** config.json as it was, and what transformers.js needs to find the weights: `subfolder: ''` is all that is left to say. */
function withTransformersJsHints(config: Readonly<Record<string, unknown>>): Record<string, unknown> {
  // "fp32" means no suffix in the file's name there, whatever the weights are; 1 is the number of data files.
  return { ...config, 'transformers.js_config': { dtype: 'fp32', use_external_data_format: 1 } }
}
