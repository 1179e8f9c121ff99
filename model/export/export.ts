import * as fs from 'node:fs/promises'
import path from 'node:path'
import { ExportError } from '../errors.js'
import { type ActivationType, FILES, MANIFEST_FORMAT, type Manifest, type Target, type WeightDtype } from '../folder.js'
import type { GemmaConfig } from '../gemma.js'
import type { ReportProgress } from '../progress.js'
import { Checkpoint, GENERATION_CONFIG } from './checkpoint.js'
import { type ExportDisk, ExportFolder } from './export-folder.js'
import { buildGemmaGraph } from './gemma-graph.js'
import { genaiConfig } from './genai-config.js'
import type { ScaleChoice } from './quantize.js'
import { planWeights } from './weights.js'
import { writeWeights } from './write-weights.js'

/** Changes whenever the same checkpoint gives other bytes than before. */
export const EXPORTER_VERSION = '2'

export const BLOCK_SIZES = [32, 64, 128] as const
export type BlockSize = (typeof BLOCK_SIZES)[number]

export interface ExportFormat {
  readonly target: Target
  readonly dtype: WeightDtype
  /** Weights per scale; of no meaning for floats. */
  readonly blockSize: BlockSize
}

export interface ExportOptions extends ExportFormat {
  /** A Hugging Face checkpoint folder of Gemma 1. */
  readonly checkpoint: string
  /** The folder to make. Must not exist, or be empty. */
  readonly out: string
  readonly report?: ReportProgress
  readonly signal?: AbortSignal
  readonly disk?: ExportDisk
  /** 'plain' is for comparisons: the same bytes, with more error. */
  readonly scaleChoice?: ScaleChoice
}

/**
 * What runs best on a target: on the CPU large blocks, since decoding reads every byte once a token; on CUDA blocks of 32,
 * for which alone ONNX Runtime 1.30's packaged build has the fast weight-only kernels.
 */
export function defaultExport(target: Target): ExportFormat {
  return { target, dtype: 'q4', blockSize: target === 'cpu' ? 128 : 32 }
}

/** Graphs, configs and tokenizer beside the weights: generously more than they take. */
const OTHER_BYTES = 64 << 20

/**
 * Exports a Gemma 1 checkpoint to a folder that our engine, onnxruntime-genai and transformers.js run.
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
  const { dtype, target, signal, disk = fs } = options
  const report = options.report ?? (() => {})
  const activationType = activationTypeOf(target, dtype)
  await using checkpoint = await Checkpoint.open(options.checkpoint)
  const quantized = dtype === 'q4' || dtype === 'q8'
  if (quantized) assertBlocksFit(checkpoint.config, options.blockSize)
  const plan = planWeights(checkpoint.config, { dtype, activationType, blockSize: options.blockSize })

  const folder = await ExportFolder.create(path.resolve(options.out), plan.byteLength + OTHER_BYTES, disk)
  try {
    const source = await checkpoint.hash(report, signal)
    await folder.writeStream(FILES.data, plan.byteLength, (write) =>
      writeWeights({
        checkpoint,
        plan,
        write,
        scaleChoice: options.scaleChoice ?? 'best',
        signal,
        report: (done) => report({ phase: 'Converting the weights', done, total: plan.byteLength, unit: 'bytes' }),
      }),
    )
    await folder.write(FILES.engineModel, buildGemmaGraph(checkpoint.config, plan, 'engine'))
    await folder.write(FILES.portableModel, buildGemmaGraph(checkpoint.config, plan, 'portable'))
    await folder.writeJson(FILES.config, withTransformersJsHints(checkpoint.configJson))
    if (checkpoint.generationConfigJson) {
      await folder.writeJson(GENERATION_CONFIG, {
        ...checkpoint.generationConfigJson,
        eos_token_id: checkpoint.endTokenIds,
      })
    }
    await folder.writeJson('genai_config.json', genaiConfig(checkpoint.config, checkpoint.endTokenIds, target))
    for (const companion of checkpoint.companions) {
      await folder.write(companion.name, await fs.readFile(companion.path))
    }
    const manifest: Manifest = {
      format: MANIFEST_FORMAT,
      exporterVersion: EXPORTER_VERSION,
      target,
      dtype,
      blockSize: quantized ? options.blockSize : null,
      activationType,
      endTokenIds: [...checkpoint.endTokenIds],
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

/**
 * The activations that go with a dtype on a target. Refused is what ONNX Runtime 1.30 cannot run there, or only by casting
 * every weight at every step.
 * Source: docs/OperatorKernels.md and contrib_ops of ONNX Runtime 1.30 (docs/exporting.md has the table).
 */
function activationTypeOf(target: Target, dtype: WeightDtype): ActivationType {
  if (target === 'cpu') {
    if (dtype === 'bf16' || dtype === 'f16') {
      const why =
        dtype === 'bf16'
          ? 'ONNX Runtime has no bf16 kernels for attention and matrix products on the CPU'
          : 'ONNX Runtime computes f16 on the CPU by casting, slower than f32 and with no memory saved'
      throw new ExportError(`dtype ${dtype} is not for target cpu: ${why}. Ask for f32 (exact), q8 or q4.`)
    }
    return 'f32'
  }
  if (dtype === 'f32') {
    throw new ExportError(
      "dtype f32 is not for target cuda: ONNX Runtime's attention on CUDA takes f16 and bf16 only. Ask for bf16, f16, q8 or q4.",
    )
  }
  return dtype === 'bf16' ? 'bf16' : 'f16'
}

/** Blocks lie along K, which is H, heads · D, or I. */
function assertBlocksFit(config: GemmaConfig, blockSize: number): void {
  const widths = {
    hidden_size: config.hiddenSize,
    'num_attention_heads · head_dim': config.heads * config.headSize,
    intermediate_size: config.intermediateSize,
  }
  for (const [name, width] of Object.entries(widths)) {
    if (width % blockSize === 0) continue
    const fitting = BLOCK_SIZES.filter((size) => Object.values(widths).every((w) => w % size === 0))
    const advice = fitting.length > 0 ? `Ask for block size ${fitting.join(' or ')}` : 'Ask for dtype f32'
    throw new ExportError(`${name} is ${width}, no multiple of block size ${blockSize}. ${advice}.`)
  }
}

/** config.json as it was, and what transformers.js needs to find the weights: `subfolder: ''` is all that is left to say. */
function withTransformersJsHints(config: Readonly<Record<string, unknown>>): Record<string, unknown> {
  // "fp32" means no suffix in the file's name there, whatever the weights are; 1 is the number of data files.
  return { ...config, 'transformers.js_config': { dtype: 'fp32', use_external_data_format: 1 } }
}
