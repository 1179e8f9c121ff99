import { randomBytes } from 'node:crypto'
import * as fs from 'node:fs/promises'
import { hostname } from 'node:os'
import path from 'node:path'
import { DiskFullError, ExportError } from '../errors.js'
import { type ActivationType, FILES, MANIFEST_FORMAT, type Manifest, type Target, type WeightDtype } from '../folder.js'
import type { GemmaConfig } from '../gemma.js'
import type { ReportProgress } from '../progress.js'
import { Checkpoint, GENERATION_CONFIG } from './checkpoint.js'
import { buildGemmaGraph } from './gemma-graph.js'
import { genaiConfig } from './genai-config.js'
import { planWeights } from './weights.js'
import { writeWeights } from './write-weights.js'

/** Changes whenever the same checkpoint gives other bytes than before. */
export const EXPORTER_VERSION = '1'

export const BLOCK_SIZES = [32, 64, 128] as const
export type BlockSize = (typeof BLOCK_SIZES)[number]

export interface ExportFormat {
  readonly target: Target
  readonly dtype: WeightDtype
  /** Weights per scale; of no meaning for floats. */
  readonly blockSize: BlockSize
}

/** The parts of node:fs/promises that may meet a full disk: a seam for tests, which cannot fill one. */
export type ExportDisk = Pick<typeof fs, 'open' | 'statfs'>

export interface ExportOptions extends ExportFormat {
  /** A Hugging Face checkpoint folder of Gemma 1. */
  readonly checkpoint: string
  /** The folder to make. Must not exist, or be empty. */
  readonly out: string
  readonly report?: ReportProgress
  readonly signal?: AbortSignal
  readonly disk?: ExportDisk
}

/**
 * What runs best on a target: on the CPU large blocks, since decoding reads every byte once a token; on CUDA blocks of 32,
 * for which alone ONNX Runtime 1.30's packaged build has the fast weight-only kernels.
 */
export function defaultExport(target: Target): ExportFormat {
  return { target, dtype: 'q4', blockSize: target === 'cpu' ? 128 : 32 }
}

/** File mode and flags of what is made new. */
const CREATE = 'wx'

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

  const out = path.resolve(options.out)
  await assertFree(out)
  const parent = path.dirname(out)
  await fs.mkdir(parent, { recursive: true })
  await removeAbandoned(out)
  await assertSpace(disk, parent, plan.byteLength + OTHER_BYTES)
  const source = await checkpoint.hash(report, signal)

  const folder = new ExportFolder(await createTemporary(out), disk)
  try {
    await folder.writeStream(FILES.data, plan.byteLength, (write) =>
      writeWeights({
        checkpoint,
        plan,
        write,
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
    await folder.publish(out)
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

async function assertFree(out: string): Promise<void> {
  let entries: string[]
  try {
    entries = await fs.readdir(out)
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return
    throw new ExportError(`${out} is no folder. Choose another one for the export.`, { cause: error })
  }
  if (entries.length > 0) {
    throw new ExportError(`${out} exists and is not empty. Remove it, or choose another folder for the export.`)
  }
}

async function assertSpace(disk: ExportDisk, folder: string, bytes: number): Promise<void> {
  const { bavail, bsize } = await disk.statfs(folder)
  if (bavail * bsize < bytes) {
    const gigabytes = (size: number) => (size / 1e9).toFixed(2)
    const cause = new Error(`${gigabytes(bytes)} GB are needed, ${gigabytes(bavail * bsize)} GB are free`)
    throw new DiskFullError(folder, { cause })
  }
}

/** `<out>.partial-<host>-<pid>-<random>`: who writes it can be told from its name. */
async function createTemporary(out: string): Promise<string> {
  const folder = `${partialPrefix(out)}${process.pid}-${randomBytes(4).toString('hex')}`
  await fs.mkdir(folder)
  return folder
}

/** Host names are part of the name because a process id means nothing on another machine that shares the disk. */
function partialPrefix(out: string): string {
  return `${out}.partial-${hostname().replace(/[^A-Za-z0-9]/g, '_')}-`
}

/** Removes what exports of the same folder left behind on this machine when they were killed. */
async function removeAbandoned(out: string): Promise<void> {
  const prefix = path.basename(partialPrefix(out))
  for (const name of await fs.readdir(path.dirname(out))) {
    if (!name.startsWith(prefix)) continue
    const pid = Number(name.slice(prefix.length).split('-')[0])
    if (!Number.isSafeInteger(pid) || pid <= 0 || isAlive(pid)) continue
    await fs.rm(path.join(path.dirname(out), name), { recursive: true, force: true })
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return !hasCode(error, 'ESRCH')
  }
}

/** The folder while it is being written: every file in it is flushed to the disk before the folder gets its name. */
class ExportFolder {
  readonly files: { name: string; bytes: number }[] = []
  readonly #path: string
  readonly #disk: ExportDisk

  constructor(folder: string, disk: ExportDisk) {
    this.#path = folder
    this.#disk = disk
  }

  async writeJson(name: string, value: unknown): Promise<void> {
    await this.write(name, new TextEncoder().encode(`${JSON.stringify(value, null, 2)}\n`))
  }

  async write(name: string, bytes: Uint8Array): Promise<void> {
    await this.writeStream(name, bytes.byteLength, (write) => write(bytes, 0))
  }

  /** Gives `fill` a function that writes at a position; afterwards the file has exactly `byteLength` bytes. */
  async writeStream(
    name: string,
    byteLength: number,
    fill: (write: (bytes: Uint8Array, position: number) => Promise<void>) => Promise<void>,
  ): Promise<void> {
    const file = path.join(this.#path, name)
    try {
      const handle = await this.#disk.open(file, CREATE)
      try {
        await fill(async (bytes, position) => {
          let done = 0
          while (done < bytes.byteLength) {
            const { bytesWritten } = await handle.write(bytes, done, bytes.byteLength - done, position + done)
            done += bytesWritten
          }
        })
        await handle.truncate(byteLength)
        await handle.sync()
      } finally {
        await handle.close()
      }
    } catch (error) {
      if (hasCode(error, 'ENOSPC') || hasCode(error, 'EDQUOT')) throw new DiskFullError(file, { cause: error })
      throw error
    }
    this.files.push({ name, bytes: byteLength })
  }

  async publish(out: string): Promise<void> {
    await syncFolder(this.#path)
    try {
      await fs.rmdir(out)
    } catch (error) {
      if (!hasCode(error, 'ENOENT')) {
        throw new ExportError(`${out} came into being while the export ran. Nothing was changed there.`, {
          cause: error,
        })
      }
    }
    await fs.rename(this.#path, out)
    await syncFolder(path.dirname(out))
  }

  async discard(): Promise<void> {
    await fs.rm(this.#path, { recursive: true, force: true })
  }
}

/** Makes names durable. Windows has no such thing and refuses to open a folder. */
async function syncFolder(folder: string): Promise<void> {
  if (process.platform === 'win32') return
  const handle = await fs.open(folder, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

function hasCode(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code
}
