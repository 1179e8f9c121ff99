import { link, mkdir, readdir, readFile, rename, rm, statfs } from 'node:fs/promises'
import { join } from 'node:path'
import { DiskFullError, HubAccessError, HubError, type ModelError } from '../errors.js'
import type { ReportProgress } from '../progress.js'
import { selectCheckpointFiles, selectGgufFile } from './checkpoint-files.js'
import { downloadFile } from './download.js'
import { formatBytes } from './format-bytes.js'
import { HubRepository } from './hub-repository.js'
import { acquireLock } from './lock.js'
import { isCommit } from './model-id.js'
import { type FileHash, parseRemoteFile, type RemoteFile } from './remote-file.js'
import { type Clock, systemClock } from './retry.js'
import { codeOf, sizeOf, storageError, storing, writeWhole } from './storage.js'

/** A checkpoint of one commit, whole and checked, on this disk. */
export interface Snapshot {
  /** The folder with its files; nothing writes to it any more. */
  readonly path: string
  /** 40 hex digits. */
  readonly commit: string
  /** Names in `path`. */
  readonly files: readonly string[]
}

export interface FindOptions {
  /** `owner/name`, as `parseModelId` gives it. */
  readonly id: string
  /** A branch, a tag or a commit; `main` where absent. */
  readonly revision?: string
  /** One GGUF file is wanted instead of a checkpoint; it has snapshots of its own. */
  readonly file?: string | undefined
  /** MODEL_CACHE; snapshots lie in its folder `hub`. */
  readonly cacheDir: string
}

export interface PullOptions extends FindOptions {
  readonly endpoint?: string
  readonly token?: string
  readonly fetch?: typeof globalThis.fetch
  /** Phases `download`, `check what is there` and `wait for another download`, in bytes. */
  readonly report?: ReportProgress
  /** One line on what a user should know and need not act on: a retry, a wait, a snapshot used although the Hub is away. */
  readonly log?: (line: string) => void
  /** Ends the pull; what has arrived is kept. */
  readonly signal?: AbortSignal
  /** Picks the files to pull from those in the repository's top folder; `file`, or the exporter's, where absent. */
  readonly files?: (names: readonly string[]) => readonly string[]
  readonly clock?: Clock
  /** Bytes that may be written to the disk of a folder, or undefined where that cannot be told. */
  readonly freeBytes?: (folder: string) => Promise<number | undefined>
}

const MANIFEST = '.snapshot.json'
const FORMAT = 1
/** Gemma-7b in f32 has 34 GB. */
const MAX_TOTAL_BYTES = 128e9
const MAX_FILES = 200

/**
 * The snapshot that an earlier pull of this id and revision left; asks nobody, and reads a few hundred bytes. A branch means
 * the commit that it was at the last pull: so a service starts without the network, and on what it was started on before.
 *
 * @returns undefined where there is none, or where one of its files is gone or has another size.
 */
export async function findSnapshot(options: FindOptions): Promise<Snapshot | undefined> {
  const home = homeOf(options)
  const revision = options.revision ?? 'main'
  const commit = isCommit(revision) ? revision : await readText(refOf(home, revision))
  return commit !== undefined && isCommit(commit) ? readSnapshot(home, commit) : undefined
}

/**
 * Pulls a checkpoint from the Hub: asks which commit the revision is, downloads the files of that one commit into
 * `<cacheDir>/hub/<owner>--<name>/<commit>.partial`, checks each against the Hub's hash, and renames the folder when all are
 * right. Ended at any point, also by kill -9 or a power cut, it goes on from there next time, and nothing looks whole that is
 * not. Of several processes that pull the same, one downloads and the others wait for it.
 *
 * A snapshot that is there is used without a question if `revision` is a commit. Else the Hub is asked once; if it cannot be
 * reached or refuses, the snapshot of the last pull is used and `log` says so. Only a 404 is final.
 *
 * @throws {SettingsError} endpoint or token cannot be used.
 * @throws {HubAccessError} the Hub refuses (401, 403); the message says what to do and where.
 * @throws {HubError} no such model or revision, no usable answer, or a folder that cannot be written.
 * @throws {IntegrityError} a file is not what the Hub lists, twice.
 * @throws {DiskFullError} before the first byte where the free space is known; what has arrived is kept.
 * @throws the reason of `signal`.
 */
export async function pullSnapshot(options: PullOptions): Promise<Snapshot> {
  const revision = options.revision ?? 'main'
  const local = await findSnapshot(options)
  if (local !== undefined && isCommit(revision)) return local

  const pull = new Pull(options)
  let commit: string
  try {
    commit = await pull.repository.resolveCommit(revision, local === undefined ? 'full' : 'once')
  } catch (error) {
    if (local === undefined || !isOutage(error)) throw error
    pull.log(
      `Using the snapshot of ${options.id}@${revision} pulled earlier (commit ${local.commit}): ${error.message}`,
    )
    return local
  }
  const snapshot =
    local?.commit === commit ? local : ((await readSnapshot(pull.home, commit)) ?? (await pull.run(commit)))
  if (local?.commit !== commit && !isCommit(revision)) {
    const ref = refOf(pull.home, revision)
    await storing(ref, () => writeWhole(ref, commit))
  }
  return snapshot
}

/** The parts of one pull that are the same for all its steps. */
class Pull {
  readonly home: string
  readonly repository: HubRepository
  readonly log: (line: string) => void
  readonly #options: PullOptions
  readonly #clock: Clock
  readonly #signal: AbortSignal
  readonly #stop = new AbortController()

  constructor(options: PullOptions) {
    this.#options = options
    this.home = homeOf(options)
    this.log = options.log ?? (() => {})
    this.#clock = options.clock ?? systemClock
    this.#signal = AbortSignal.any([this.#stop.signal, ...(options.signal === undefined ? [] : [options.signal])])
    this.repository = new HubRepository({
      id: options.id,
      endpoint: options.endpoint ?? 'https://huggingface.co',
      token: options.token,
      fetch: options.fetch ?? globalThis.fetch,
      clock: this.#clock,
      signal: this.#signal,
      log: this.log,
    })
  }

  async run(commit: string): Promise<Snapshot> {
    const files = this.#choose(await this.repository.listFiles(commit))
    const totalBytes = sum(files.map((file) => file.sizeBytes))
    const partial = `${join(this.home, commit)}.partial`
    await storing(this.home, () => mkdir(this.home, { recursive: true }))

    let told = false
    const lock = await acquireLock(`${join(this.home, commit)}.lock`, {
      clock: this.#clock,
      signal: this.#signal,
      onWait: async (holder) => {
        if (!told) this.log(`Another process (${holder ?? 'unknown'}) pulls ${this.#options.id}: waiting for it.`)
        told = true
        const done = await presentBytes(partial, files)
        this.#options.report?.({ phase: 'wait for another download', done, total: totalBytes, unit: 'bytes' })
      },
    })
    const onLost = () => this.#stop.abort(lock.lost.reason)
    lock.lost.addEventListener('abort', onLost)
    try {
      const whole = await readSnapshot(this.home, commit)
      if (whole !== undefined) return whole // by the process that was waited for
      await this.#preparePartial(commit, partial)
      await this.#reuse(partial, files)
      await this.#assertSpace(partial, files)
      await this.#download(commit, partial, files)
      return await this.#complete(commit, partial, files)
    } finally {
      lock.lost.removeEventListener('abort', onLost)
      await lock.release()
    }
  }

  #choose(listing: readonly { path: string }[]): RemoteFile[] {
    const { file } = this.#options
    const select =
      file === undefined ? selectCheckpointFiles : (names: readonly string[]) => selectGgufFile(names, file)
    const wanted = new Set((this.#options.files ?? select)(listing.map((entry) => entry.path)))
    const files = listing.filter((entry) => wanted.has(entry.path)).map(parseRemoteFile)
    // On a disk that takes upper and lower case for the same, two such files would be one.
    const distinct = new Set(files.map((file) => file.name.toLowerCase()))
    if (files.length === 0 || files.length > MAX_FILES || distinct.size !== files.length) {
      throw new HubError(
        `The Hub lists ${files.length} files to pull of ${this.#options.id}, ${files.length - distinct.size} of them twice. ` +
          `A checkpoint has between 1 and ${MAX_FILES}, each once.`,
      )
    }
    const totalBytes = sum(files.map((file) => file.sizeBytes))
    if (totalBytes > MAX_TOTAL_BYTES) {
      throw new HubError(
        `${this.#options.id} has ${formatBytes(totalBytes)}, more than the ${formatBytes(MAX_TOTAL_BYTES)} of the largest Gemma.`,
      )
    }
    // The small ones first: a refusal or a wrong configuration shows before gigabytes are there.
    return files.sort((a, b) => a.sizeBytes - b.sizeBytes)
  }

  /** Makes the folder; a snapshot that has lost a file becomes a partial one again. */
  async #preparePartial(commit: string, partial: string): Promise<void> {
    const damaged = join(this.home, commit)
    await storing(partial, async () => {
      await mkdir(partial, { recursive: true })
      if ((await sizeOf(damaged)) === undefined) return
      this.log(`The snapshot of ${this.#options.id} at commit ${commit} is incomplete: pulling what it lacks.`)
      await rm(partial, { recursive: true })
      await rename(damaged, partial)
      await rm(join(partial, MANIFEST), { force: true })
    })
  }

  /** Takes over the files that another commit's snapshot has already: mostly a branch moves for a word in the README. */
  async #reuse(partial: string, files: readonly RemoteFile[]): Promise<void> {
    for (const name of await readdir(this.home)) {
      const manifest = isCommit(name) ? await readManifest(join(this.home, name)) : undefined
      for (const held of manifest?.files ?? []) {
        const wanted = files.find((file) => file.hash.hex === held.hash.hex && file.sizeBytes === held.sizeBytes)
        const path = join(this.home, name, held.name)
        if (wanted === undefined || (await sizeOf(path)) !== wanted.sizeBytes) continue
        // Where the disk has no hard links, or the file is there already, it costs a download, nothing else.
        await link(path, join(partial, wanted.name)).catch(() => {})
      }
    }
  }

  async #assertSpace(partial: string, files: readonly RemoteFile[]): Promise<void> {
    const freeBytes = await (this.#options.freeBytes ?? freeBytesOn)(partial)
    const missingBytes = sum(files.map((file) => file.sizeBytes)) - (await presentBytes(partial, files))
    if (freeBytes === undefined || freeBytes >= missingBytes) return
    const detail = `${formatBytes(missingBytes)} are to be downloaded, ${formatBytes(freeBytes)} are free`
    throw new DiskFullError(partial, { detail })
  }

  async #download(commit: string, partial: string, files: readonly RemoteFile[]): Promise<void> {
    const total = sum(files.map((file) => file.sizeBytes))
    const present = new Map<string, number>()
    for (const file of files) present.set(file.name, await presentBytes(partial, [file]))
    for (const file of files) {
      this.#signal.throwIfAborted()
      await downloadFile(file, {
        folder: partial,
        open: (from, signal) => this.repository.openFile(commit, file.name, from, signal),
        onBytes: (bytes) => {
          present.set(file.name, bytes)
          this.#options.report?.({ phase: 'download', done: sum([...present.values()]), total, unit: 'bytes' })
        },
        onCheck: (done, total) => {
          this.#options.report?.({ phase: 'check what is there', done, total, unit: 'bytes' })
        },
        clock: this.#clock,
        signal: this.#signal,
        log: this.log,
      })
    }
  }

  async #complete(commit: string, partial: string, files: readonly RemoteFile[]): Promise<Snapshot> {
    const { id, endpoint } = this.#options
    const path = join(this.home, commit)
    const manifest = { format: FORMAT, id, commit, endpoint: endpoint ?? 'https://huggingface.co', files }
    await storing(partial, async () => {
      await writeWhole(join(partial, MANIFEST), `${JSON.stringify(manifest, null, 2)}\n`)
      await rename(partial, path)
    })
    return { path, commit, files: files.map((file) => file.name) }
  }
}

/** Refusals count as an outage where a snapshot is there: a token that has expired shall not keep a service from starting. */
function isOutage(error: unknown): error is ModelError {
  return error instanceof HubAccessError || (error instanceof HubError && error.status !== 404)
}

/** The Hub allows no `--` in an owner or a name, so this is unambiguous. */
function homeOf({ cacheDir, id, file }: FindOptions): string {
  const name = id.replace('/', '--')
  return join(cacheDir, 'hub', file === undefined ? name : `${name}--${file}`)
}

/** One file per branch or tag, its name made one path part; it holds the commit. */
function refOf(home: string, revision: string): string {
  return join(home, 'refs', encodeURIComponent(revision))
}

interface Manifest {
  readonly commit: string
  readonly files: readonly { readonly name: string; readonly sizeBytes: number; readonly hash: FileHash }[]
}

async function readManifest(folder: string): Promise<Manifest | undefined> {
  const text = await readText(join(folder, MANIFEST))
  if (text === undefined) return undefined
  try {
    const manifest = JSON.parse(text) as { format?: unknown } & Manifest
    // Written by us, whole or not at all: only another version of Bezel could have written something else.
    return manifest.format === FORMAT ? manifest : undefined
  } catch {
    return undefined
  }
}

async function readSnapshot(home: string, commit: string): Promise<Snapshot | undefined> {
  const path = join(home, commit)
  const manifest = await readManifest(path)
  if (manifest === undefined) return undefined
  for (const file of manifest.files) {
    if ((await sizeOf(join(path, file.name))) !== file.sizeBytes) return undefined
  }
  return { path, commit, files: manifest.files.map((file) => file.name) }
}

async function readText(path: string): Promise<string | undefined> {
  try {
    return (await readFile(path, 'utf8')).trim()
  } catch (error) {
    if (codeOf(error) === 'ENOENT' || codeOf(error) === 'ENOTDIR') return undefined
    throw storageError(error, path)
  }
}

/** How much of these files is in a partial folder, finished or not. */
async function presentBytes(partial: string, files: readonly RemoteFile[]): Promise<number> {
  let bytes = 0
  for (const { name, sizeBytes } of files) {
    const size = (await sizeOf(join(partial, name))) ?? (await sizeOf(join(partial, `${name}.incomplete`))) ?? 0
    bytes += Math.min(size, sizeBytes)
  }
  return bytes
}

async function freeBytesOn(folder: string): Promise<number | undefined> {
  try {
    const { bavail, bsize } = await statfs(folder)
    return bavail * bsize
  } catch {
    return undefined // not every file system can tell
  }
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, number) => total + number, 0)
}
