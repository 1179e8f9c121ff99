import { createHash, randomBytes } from 'node:crypto'
import { mkdir, open, readdir, readFile, rename, rm, rmdir, stat, statfs, writeFile } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import type { SaveOptions } from './native-session.js'
import type { RuntimeLog } from './types.js'

/** Beside the model: `.packed/engine.onnx-<digest>/`, one folder for each library and kind of CPU. */
const CACHE_FOLDER = '.packed'
const TEMPORARY_PREFIX = '.incomplete-'
const GRAPH_FILE = 'packed.onnx'
const DATA_FILE = 'packed.onnx_data'
const IDENTITY_FILE = 'packed.json'
/** Raised when the files' meaning changes, so that older caches are made again. */
const FORMAT = 1

/** Saving takes minutes at worst: what is older than this was left by a process that died. */
const ABANDONED_MS = 60 * 60 * 1000

/** A saved model holds the weights as they were and as they are packed. Measured: 1.9 times the source at block 128. */
const SAVED_SHARE = 2.5

/** The graph is read whole to know its identity; real ones are some 70 KB, since their weights lie beside them. */
const MAX_GRAPH_BYTES = 512 * 1024 * 1024

/**
 * Bytes of weights from which packing is worth while. Below it a plain load takes milliseconds, and holds little.
 */
const LEAST_WEIGHT_BYTES = 16 * 1024 * 1024

/**
 * Packed weights hold parts of their own that lie at multiples of 64 bytes from address 0, not from where they begin. ONNX
 * Runtime 1.30 saves those of 1 MB and more at the start of a page, and smaller ones wherever the last one ended: mapped
 * from there, they are read wrongly, without an error (products of 256 × 256 and 512 × 512 weights came out as noise).
 */
const BLOB_ALIGNMENT = 64

/** What a packed model was made from and for. Where any of it differs, it is not to be used. */
interface Identity {
  readonly format: number
  /** The files that it was made from. */
  readonly source: {
    readonly graphSha256: string
    readonly manifestSha256: string | null
    readonly weights: readonly { name: string; sizeBytes: number; modifiedMs: number }[]
  }
  /** Version and build of ONNX Runtime. */
  readonly library: string
  readonly cpu: string
  readonly config: Readonly<Record<string, string>>
}

interface Manifest extends Identity {
  /** Of the files that were written: a file of another size was cut short. */
  readonly files: Readonly<Record<string, number>>
  /** Why there are no files: this model is not to be packed again and again in vain. */
  readonly unusable?: string
}

export interface PackedOptions {
  /** The graph, in the folder of its external data. */
  readonly model: string
  readonly library: string
  readonly cpu: string
  readonly config: Readonly<Record<string, string>>
  /** Has ONNX Runtime write the packed model. */
  pack(save: SaveOptions): Promise<void>
  readonly log: RuntimeLog | undefined
  /** Bytes that may still be written to the disk of a folder; by default as the system says. */
  freeBytes?(folder: string): Promise<number>
}

/**
 * Finds the copy of a model that ONNX Runtime has packed for this CPU, or has it made.
 *
 * Packing costs seconds and a heap copy of all weights; a packed copy is mapped instead, and its pages are the system's to
 * share and to drop. Any number of processes may do this at once: each writes into a folder of its own, and the first to
 * rename it wins.
 *
 * @returns the path of the packed graph; undefined where the model is to be loaded as it is: it is small, or no copy could
 *   be made (a read-only folder, a full disk, a broken model), which was logged. Never throws.
 */
export async function findOrMakePacked(options: PackedOptions): Promise<string | undefined> {
  const { model, log } = options
  const cache = join(dirname(model), CACHE_FOLDER)
  try {
    const identity = await identify(options)
    if (weightBytes(identity) < LEAST_WEIGHT_BYTES) return undefined
    const folder = join(cache, `${basename(model)}-${digest(identity)}`)
    const found = await readWhole(folder, identity)
    const manifest = found ?? (await make(options, identity, cache, folder))
    if (manifest.unusable === undefined) return join(folder, GRAPH_FILE)
    log?.info(`${model} is loaded as it is: ${manifest.unusable}`)
    return undefined
  } catch (error) {
    log?.warn(
      `${model} cannot be kept packed for this CPU, so each start loads it slower and holds its weights in private ` +
        `memory: ${error instanceof Error ? error.message : String(error)}`,
    )
    return undefined
  }
}

/** Removes a packed model that proved to be broken, so that the next start makes it again. */
export async function discardPacked(graphFile: string): Promise<void> {
  await removeFolder(dirname(graphFile))
}

async function make(options: PackedOptions, identity: Identity, cache: string, folder: string): Promise<Manifest> {
  const { log, model } = options
  const started = performance.now()
  let manifest: Manifest
  const temporary = join(
    cache,
    `${TEMPORARY_PREFIX}${basename(model)}-${process.pid}-${randomBytes(6).toString('hex')}`,
  )
  try {
    // By itself first: a recursive mkdir says ENOENT of a folder that is only not writable.
    await mkdir(cache).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'EEXIST') throw error
    })
    await mkdir(temporary, { recursive: true })
    assertRoom(identity, await (options.freeBytes ?? freeBytes)(cache))
    log?.info(`Packing ${model} for this CPU, once; later starts map the result.`)
    await options.pack({ graphFile: join(temporary, GRAPH_FILE), dataFileName: DATA_FILE })
    manifest = await seal(temporary, identity)
    await publish(temporary, folder, identity)
  } catch (error) {
    await removeFolder(temporary)
    // Only if nothing else is in it.
    await rmdir(cache).catch(() => {})
    throw error
  }
  await sweep(cache, basename(model), identity, folder)
  if (manifest.unusable === undefined)
    log?.info(`Packed ${model} into ${folder} in ${((performance.now() - started) / 1000).toFixed(1)} s.`)
  return manifest
}

/** Checks what was made, writes down from what, and puts all of it on the disk. */
async function seal(temporary: string, identity: Identity): Promise<Manifest> {
  const offsets = packedOffsets(await readFile(join(temporary, GRAPH_FILE)))
  const unusable = unusableReason(offsets)
  const files: Record<string, number> = {}
  for (const name of (await readdir(temporary)).sort()) {
    if (unusable === undefined) files[name] = (await stat(join(temporary, name))).size
    else await rm(join(temporary, name))
  }
  const manifest: Manifest = { ...identity, files, ...(unusable === undefined ? {} : { unusable }) }
  await writeFile(join(temporary, IDENTITY_FILE), JSON.stringify(manifest))
  // Without this a power cut could leave files of the right size that are empty: wrong answers, and no error.
  for (const name of await readdir(temporary)) {
    const file = await open(join(temporary, name), 'r+')
    await file.sync().finally(() => file.close())
  }
  return manifest
}

/** Why a packed model with its weights at these places must not be used; undefined where it may. */
function unusableReason(offsets: readonly number[]): string | undefined {
  if (offsets.length === 0) return 'none of its weights has a packed form.'
  const crooked = offsets.filter((offset) => offset % BLOB_ALIGNMENT !== 0).length
  if (crooked === 0) return undefined
  return `${crooked} of its ${offsets.length} packed weights would be saved where they cannot be mapped (they have less than 1 MB).`
}

/**
 * Where the packed weights of a saved graph lie in its data file. Each is an entry of an initializer's external data
 * (onnx.proto3): key "prepacked_0", value "MatMulNBits+<hash>|<offset>;<length>;<hash>", with one triple for each buffer.
 */
export function packedOffsets(graph: Buffer): number[] {
  const offsets: number[] = []
  // Latin-1 keeps one character for each byte. Between key and value are a tag and a length, whatever bytes these are.
  for (const [, buffers] of graph.toString('latin1').matchAll(/prepacked_\d+[\s\S]*?((?:\|\d+;\d+;\d+)+)/g)) {
    for (const [, offset] of buffers!.matchAll(/\|(\d+);/g)) offsets.push(Number(offset))
  }
  return offsets
}

/** Gives the finished folder its name. Another process may have been faster: then its folder is taken. */
async function publish(temporary: string, folder: string, identity: Identity): Promise<void> {
  for (let attempt = 0; ; attempt++) {
    try {
      await rename(temporary, folder)
      return
    } catch (error) {
      if (await readWhole(folder, identity)) {
        await removeFolder(temporary)
        return
      }
      // What lies there is broken. Twice, since another process may put one there meanwhile.
      if (attempt === 2) throw error
      await removeFolder(folder)
    }
  }
}

/** Removes packed copies of the same graph's file that nobody will use again, and what dead processes left. */
async function sweep(cache: string, graphName: string, identity: Identity, keep: string): Promise<void> {
  for (const name of await readdir(cache)) {
    const folder = join(cache, name)
    if (folder === keep) continue
    if (name.startsWith(TEMPORARY_PREFIX)) {
      const { mtimeMs } = await stat(folder).catch(() => ({ mtimeMs: Number.POSITIVE_INFINITY }))
      if (Date.now() - mtimeMs > ABANDONED_MS) await removeFolder(folder)
    } else if (name.startsWith(`${graphName}-`)) {
      const other = await readManifest(folder)
      // One for another kind of CPU stays: another machine may read the same disk.
      const same = other && isSame(other.source, identity.source) && other.library === identity.library
      if (!same) await removeFolder(folder)
    }
  }
}

async function identify({ model, library, cpu, config }: PackedOptions): Promise<Identity> {
  const { size } = await stat(model)
  if (size > MAX_GRAPH_BYTES) {
    throw new RangeError(
      `${model} has ${size} bytes; a graph to be packed keeps its weights in a file beside it, and has at most ${MAX_GRAPH_BYTES}.`,
    )
  }
  const graph = await readFile(model)
  const folder = dirname(model)
  const manifest = await readFile(join(folder, 'manifest.json')).catch(() => undefined)
  const weights = []
  for (const name of externalFiles(graph)) {
    const { size: sizeBytes, mtimeMs: modifiedMs } = await stat(join(folder, name))
    weights.push({ name, sizeBytes, modifiedMs })
  }
  const source = { graphSha256: sha256(graph), manifestSha256: manifest ? sha256(manifest) : null, weights }
  return { format: FORMAT, source, library, cpu, config: packingConfig(config) }
}

/** What of a session's configuration may change how weights are packed: not how its threads wait for work. */
function packingConfig(config: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(Object.entries(config).filter(([key]) => !key.startsWith('session.intra_op.')))
}

/**
 * The names of the files that hold a graph's weights. In the bytes of the graph each is a StringStringEntryProto
 * (onnx.proto3): key (field 1) "location", value (field 2) the name. Found as such, without reading all of the graph.
 */
export function externalFiles(graph: Buffer): string[] {
  const key = Buffer.from('\x0a\x08location\x12')
  const names = new Set<string>()
  for (let at = graph.indexOf(key); at !== -1; at = graph.indexOf(key, at + 1)) {
    const start = at + key.length + 1
    // Names of 128 bytes and more would need a second byte of length.
    const length = graph[start - 1] ?? 0
    if (length < 128) names.add(graph.toString('utf8', start, start + length))
  }
  return [...names].sort()
}

/** What a folder says of the packed model of this identity in it; undefined if it holds another, or not the whole of it. */
async function readWhole(folder: string, identity: Identity): Promise<Manifest | undefined> {
  const manifest = await readManifest(folder)
  if (!manifest) return undefined
  const { files, unusable, ...found } = manifest
  if (!isSame(found, identity) || (unusable === undefined && !(GRAPH_FILE in files))) return undefined
  for (const [name, size] of Object.entries(files)) {
    const file = await stat(join(folder, name)).catch(() => undefined)
    if (file?.size !== size) return undefined
  }
  return manifest
}

async function readManifest(folder: string): Promise<Manifest | undefined> {
  try {
    return JSON.parse(await readFile(join(folder, IDENTITY_FILE), 'utf8')) as Manifest
  } catch {
    return undefined
  }
}

function weightBytes({ source }: Identity): number {
  return source.weights.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0)
}

function assertRoom(identity: Identity, free: number): void {
  const needed = weightBytes(identity) * SAVED_SHARE
  if (free < needed) {
    throw new Error(`it takes up to ${megabytes(needed)} on the disk, which has ${megabytes(free)} free`)
  }
}

async function freeBytes(folder: string): Promise<number> {
  const { bavail, bsize } = await statfs(folder)
  return bavail * bsize
}

/** A removal that fails (read-only, in use on Windows) harms nobody: what is left is found to be stale again. */
async function removeFolder(folder: string): Promise<void> {
  await rm(folder, { recursive: true, force: true }).catch(() => {})
}

function digest(identity: Identity): string {
  return sha256(Buffer.from(JSON.stringify(identity))).slice(0, 16)
}

function isSame(one: unknown, other: unknown): boolean {
  return JSON.stringify(one) === JSON.stringify(other)
}

function sha256(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex')
}

function megabytes(bytes: number): string {
  return `${Math.ceil(bytes / 1e6)} MB`
}
