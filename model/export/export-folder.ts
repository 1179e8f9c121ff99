import { randomBytes } from 'node:crypto'
import * as fs from 'node:fs/promises'
import { hostname } from 'node:os'
import path from 'node:path'
import { DiskFullError, ExportError } from '../errors.js'

/** The parts of node:fs/promises that may meet a full disk: a seam for tests, which cannot fill one. */
export type ExportDisk = Pick<typeof fs, 'open' | 'statfs'>

/** Writes bytes at a position, counted from the start of the file. */
export type WriteAt = (bytes: Uint8Array, position: number) => Promise<void>

/** Names of the folders that this process is writing: see `removeAbandoned`. */
const active = new Set<string>()

/**
 * A folder on its way to becoming an export. It is written beside its final place under another name, every file flushed to
 * the disk, and renamed at the end; an export that was interrupted leaves nothing that looks whole.
 */
export class ExportFolder {
  /** What has been written so far. */
  readonly files: { name: string; bytes: number }[] = []
  readonly #out: string
  readonly #path: string
  readonly #disk: ExportDisk

  private constructor(out: string, temporary: string, disk: ExportDisk) {
    this.#out = out
    this.#path = temporary
    this.#disk = disk
  }

  /**
   * Makes the temporary folder, once it is sure that the export has a place, and removes what exports of the same folder
   * left behind on this machine when they were killed.
   * @param out  the export's final path, absolute; its parent is made where it is missing
   * @param bytes  what the export will take
   * @throws {ExportError} `out` is there and not an empty folder, or its parent cannot be written
   * @throws {DiskFullError} less than `bytes` are free
   */
  static async create(out: string, bytes: number, disk: ExportDisk): Promise<ExportFolder> {
    await assertFree(out)
    const parent = path.dirname(out)
    try {
      await fs.mkdir(parent, { recursive: true })
      await removeAbandoned(out)
      await assertSpace(disk, parent, bytes)
      const temporary = `${partialPrefix(out)}${process.pid}-${randomBytes(4).toString('hex')}`
      await fs.mkdir(temporary)
      active.add(path.basename(temporary))
      return new ExportFolder(out, temporary, disk)
    } catch (error) {
      throw writeError(parent, error)
    }
  }

  async writeJson(name: string, value: unknown): Promise<void> {
    await this.write(name, new TextEncoder().encode(`${JSON.stringify(value, null, 2)}\n`))
  }

  async write(name: string, bytes: Uint8Array): Promise<void> {
    await this.writeStream(name, bytes.byteLength, (write) => write(bytes, 0))
  }

  /**
   * Gives `fill` a function that writes at a position; afterwards the file has exactly `byteLength` bytes, with zeros where
   * nothing was written.
   * @throws {DiskFullError} @throws {ExportError} the file cannot be written
   */
  async writeStream(name: string, byteLength: number, fill: (write: WriteAt) => Promise<void>): Promise<void> {
    const file = path.join(this.#path, name)
    try {
      // 'wx': a companion file that bears the name of one of ours is a mistake, not a replacement.
      const handle = await this.#disk.open(file, 'wx')
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
      throw writeError(file, error)
    }
    this.files.push({ name, bytes: byteLength })
  }

  /** Gives the folder its name. */
  async publish(): Promise<void> {
    await syncFolder(this.#path)
    try {
      // An empty folder in its place is no obstacle on POSIX, but one on Windows.
      await fs.rmdir(this.#out).catch((error) => {
        if (!hasCode(error, 'ENOENT')) throw error
      })
      await fs.rename(this.#path, this.#out)
    } catch (error) {
      const message = `${this.#out} came into being while the export ran; it was left as it is. Choose another folder.`
      throw hasCode(error, 'ENOTEMPTY') || hasCode(error, 'EEXIST')
        ? new ExportError(message, { cause: error })
        : writeError(this.#out, error)
    }
    await syncFolder(path.dirname(this.#out))
    active.delete(path.basename(this.#path))
  }

  /** Removes what was written. */
  async discard(): Promise<void> {
    await fs.rm(this.#path, { recursive: true, force: true })
    active.delete(path.basename(this.#path))
  }
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
    const megabytes = (size: number) => `${Math.ceil(size / 1e6)} MB`
    throw new DiskFullError(folder, { detail: `${megabytes(bytes)} are needed, ${megabytes(bavail * bsize)} are free` })
  }
}

/**
 * Temporary folders are called `<out>.partial-<host>-<pid>-<random>`, so that their names say who writes them. A process id
 * alone would mean nothing on another machine that shares the disk.
 */
function partialPrefix(out: string): string {
  return `${out}.partial-${hostname().replace(/[^A-Za-z0-9]/g, '_')}-`
}

async function removeAbandoned(out: string): Promise<void> {
  const prefix = path.basename(partialPrefix(out))
  for (const name of await fs.readdir(path.dirname(out))) {
    if (!name.startsWith(prefix)) continue
    const pid = Number(name.slice(prefix.length).split('-')[0])
    if (!Number.isSafeInteger(pid) || pid <= 0) continue
    // In a container that starts again, the one before had our own id.
    if (pid === process.pid ? active.has(name) : isAlive(pid)) continue
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

/** Our own errors and a signal's reason pass; what the operating system says becomes one of ours. */
function writeError(file: string, error: unknown): unknown {
  if (hasCode(error, 'ENOSPC') || hasCode(error, 'EDQUOT')) return new DiskFullError(file, { cause: error })
  const isSystemError = error instanceof Error && 'syscall' in error && 'code' in error
  if (!isSystemError) return error
  return new ExportError(`${file}: cannot be written (${error.code}). Choose another folder.`, { cause: error })
}
