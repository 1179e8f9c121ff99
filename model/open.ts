import { createHash } from 'node:crypto'
import { mkdir, readdir, stat } from 'node:fs/promises'
import path from 'node:path'
import { SettingsError } from './errors.js'
import { FILES, isCheckpointFolder, type ModelFolder, openModelFolder, type Target } from './folder.js'
import type { ReportProgress } from './progress.js'
import { openRuntime } from './runtime/runtime.js'
import type { Runtime, RuntimeLog } from './runtime/types.js'
import type { ModelSettings } from './settings.js'

export interface OpenModelOptions {
  readonly settings: ModelSettings
  readonly report: ReportProgress
  /** One line on what a user should know: where the model runs and why, what is downloaded or exported. */
  readonly log: RuntimeLog
  readonly signal?: AbortSignal
}

export interface OpenedModel {
  readonly folder: ModelFolder
  readonly runtime: Runtime
}

/**
 * Brings `MODEL`, whatever it names, to the point where the engine can open it: an export is taken as it is, a checkpoint is
 * exported for the device, a Hugging Face id is pulled and then exported. Both are done once, to `MODEL_CACHE`; of several
 * processes that need the same, one works and the others wait.
 *
 * @throws {SettingsError} `MODEL` names nothing, or an export that `DEVICE` cannot run.
 * @throws what `openRuntime`, `pullSnapshot`, `exportModel` and `openModelFolder` throw; the signal's reason.
 */
export async function openModel(options: OpenModelOptions): Promise<OpenedModel> {
  const { settings, log } = options
  const exported = await findExport(settings.MODEL)
  const runtime = await openRuntime({
    device: exported ? deviceFor(exported, settings.DEVICE) : settings.DEVICE,
    ...(settings.THREADS === undefined ? {} : { threads: settings.THREADS }),
    log,
  })
  try {
    if (runtime.device.fallbackReason) log.warn(`DEVICE=auto takes the CPU: ${runtime.device.fallbackReason}`)
    return { folder: exported ?? (await exportOnce(options, runtime.device.kind)), runtime }
  } catch (error) {
    await runtime[Symbol.asyncDispose]()
    throw error
  }
}

/** An export runs on the device that it was made for: on the other one, operators lack its types or are slow. */
function deviceFor(exported: ModelFolder, device: ModelSettings['DEVICE']): ModelSettings['DEVICE'] {
  if (exported.target === 'cpu' && device === 'auto') return 'cpu'
  if (exported.target === 'cpu' && device === 'cuda') {
    throw new SettingsError(
      'DEVICE',
      `DEVICE is "cuda", but ${exported.path} was exported for the CPU. Export its checkpoint with --target cuda, or set DEVICE=cpu.`,
    )
  }
  if (exported.target === 'cuda' && device === 'cpu') {
    throw new SettingsError(
      'DEVICE',
      `DEVICE is "cpu", but ${exported.path} was exported for CUDA. Export its checkpoint with --target cpu, or set DEVICE=cuda.`,
    )
  }
  return exported.target === 'cuda' ? 'cuda' : device
}

async function findExport(model: string): Promise<ModelFolder | undefined> {
  const isFolder = await stat(model).then(
    (found) => found.isDirectory(),
    () => false,
  )
  return isFolder && !(await isCheckpointFolder(model)) ? openModelFolder(model) : undefined
}

async function exportOnce(options: OpenModelOptions, target: Target): Promise<ModelFolder> {
  const { settings, report, log, signal } = options
  const { EXPORTER_VERSION, exportModel } = await import('./export/export.js')
  const checkpoint = await findCheckpoint(options)
  const format = checkpoint.isGguf ? { target } : (await import('./export/format.js')).defaultExport(target)
  // What a GGUF file is exported to follows from the file, which the name stands for.
  const kind = 'dtype' in format ? `${format.dtype}-b${format.blockSize}` : 'gguf'
  const name = `${checkpoint.name}-${target}-${kind}-v${EXPORTER_VERSION}`
  const out = path.join(settings.MODEL_CACHE, 'exports', name)
  if (await isWhole(out)) return openModelFolder(out)

  const [{ acquireLock }, { systemClock }] = await Promise.all([import('./hub/lock.js'), import('./hub/retry.js')])
  await mkdir(path.dirname(out), { recursive: true })
  let told = false
  const lock = await acquireLock(`${out}.lock`, {
    clock: systemClock,
    signal: signal ?? new AbortController().signal,
    onWait: (holder) => {
      if (!told) log.info(`Waiting for process ${holder ?? 'unknown'}, which exports the same model to ${out}.`)
      told = true
    },
  })
  try {
    if (!(await isWhole(out))) {
      log.info(`Exporting ${checkpoint.path} to ${out} (for ${target}); this is done once.`)
      const signals = signal ? AbortSignal.any([signal, lock.lost]) : lock.lost
      await exportModel({
        ...format,
        checkpoint: checkpoint.path,
        out,
        report,
        log: (line) => log.info(line),
        signal: signals,
      })
    }
  } finally {
    await lock.release()
  }
  return openModelFolder(out)
}

async function isFile(model: string): Promise<boolean> {
  return stat(model).then(
    (found) => found.isFile(),
    () => false,
  )
}

async function isWhole(out: string): Promise<boolean> {
  return stat(path.join(out, FILES.manifest)).then(
    () => true,
    () => false,
  )
}

interface FoundCheckpoint {
  readonly path: string
  /** Changes whenever the content may have. */
  readonly name: string
  /** It is one GGUF file, not a folder. */
  readonly isGguf: boolean
}

async function findCheckpoint(options: OpenModelOptions): Promise<FoundCheckpoint> {
  const { settings, report, log, signal } = options
  if (await isCheckpointFolder(settings.MODEL)) {
    const folder = path.resolve(settings.MODEL)
    const print = fingerprint(folder, await readdir(folder))
    return { path: folder, name: `${path.basename(folder)}-${await print}`, isGguf: false }
  }
  if (await isFile(settings.MODEL)) {
    const file = path.resolve(settings.MODEL)
    const print = fingerprint(path.dirname(file), [path.basename(file)])
    return { path: file, name: `${path.basename(file, '.gguf')}-${await print}`, isGguf: true }
  }
  const { parseModelId } = await import('./hub/model-id.js')
  const { id, revision, file } = parseModelId(settings.MODEL)
  const { findSnapshot, pullSnapshot } = await import('./hub/snapshot.js')
  const wanted = { id, revision, file, cacheDir: settings.MODEL_CACHE }
  // A branch that has moved on the Hub must not change what a restart serves, or make it need the network: `bezel pull` does.
  const snapshot =
    (await findSnapshot(wanted)) ??
    (await pullSnapshot({
      ...wanted,
      endpoint: settings.HF_ENDPOINT,
      ...(settings.HF_TOKEN === undefined ? {} : { token: settings.HF_TOKEN }),
      ...(signal ? { signal } : {}),
      report,
      log: (line) => log.info(line),
    }))
  const [repository, commit] = [id.replace('/', '--'), snapshot.commit.slice(0, 12)]
  if (file === undefined) return { path: snapshot.path, name: `${repository}-${commit}`, isGguf: false }
  return {
    path: path.join(snapshot.path, file),
    name: `${repository}--${path.basename(file, '.gguf')}-${commit}`,
    isGguf: true,
  }
}

/** Of names, sizes and times: hashing 5 GB at every start would cost more than the rest of it. */
async function fingerprint(folder: string, names: readonly string[]): Promise<string> {
  const hash = createHash('sha256').update(folder)
  for (const name of names.toSorted()) {
    const { size, mtimeMs } = await stat(path.join(folder, name))
    hash.update(`\n${name} ${size} ${mtimeMs}`)
  }
  return hash.digest('hex').slice(0, 12)
}
