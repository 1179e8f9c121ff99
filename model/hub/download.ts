import { createHash, type Hash } from 'node:crypto'
import { constants, type FileHandle, open, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { IntegrityError } from '../errors.js'
import { formatBytes } from './format-bytes.js'
import { IDLE_MS } from './hub-repository.js'
import type { RemoteFile } from './remote-file.js'
import { readBody } from './response-body.js'
import { type Clock, MAX_FAILURES, Retries, TransientError, withStallGuard } from './retry.js'
import { sizeOf, storing } from './storage.js'

export interface DownloadOptions {
  /** Where the file goes. Only one process may download to it at a time. */
  readonly folder: string
  /** Asks for the bytes from `from` on: an answer with status 200, 206 or 416, its body unread. Asked anew after each cut. */
  readonly open: (from: number, signal: AbortSignal) => Promise<Response>
  /** Called with the bytes of this file that are there, often. Goes back where a download starts anew. */
  readonly onBytes: (bytes: number) => void
  /** Called while an earlier process's part is read for the hash: so many bytes of so many. It may be gigabytes. */
  readonly onCheck: (bytes: number, total: number) => void
  readonly clock: Clock
  readonly signal: AbortSignal
  readonly log: (line: string) => void
}

/** So much new since the last failure means that the line works, only badly: failures are counted anew. */
const REAL_PROGRESS_BYTES = 1_000_000
/** Wrong once may be the line or the disk; wrong twice is what the server has. */
const ROUNDS = 2

/**
 * Downloads one file: to `<name>.incomplete`, continued there after a cut and after a restart of the process, checked against
 * the hash that the Hub lists, then renamed to `<name>`. So a file under its own name is whole and right.
 *
 * The bytes that are there are continued on trust, without `If-Range`: they belong to one file of one commit, which never
 * changes, while the ETags of a CDN's machines differ; the hash over all of it decides.
 *
 * @throws {IntegrityError} the bytes were wrong twice, the second time from scratch. Nothing of them is kept.
 * @throws {DiskFullError} what has been written is kept and will be continued.
 * @throws {HubError} {HubAccessError} from `open`, or too many failures in a row. What has arrived is kept.
 */
export async function downloadFile(file: RemoteFile, options: DownloadOptions): Promise<void> {
  const target = join(options.folder, file.name)
  if ((await sizeOf(target)) === file.sizeBytes) {
    options.onBytes(file.sizeBytes)
    return
  }
  const path = `${target}.incomplete`
  const wanted = `${file.hash.algorithm} ${file.hash.hex}`
  for (let round = 1; ; round++) {
    const partial = await storing(path, () => PartialFile.open(path, file, options))
    let found: string
    try {
      options.signal.throwIfAborted()
      found = await receive(file, partial, options)
      if (found === wanted) await storing(path, () => partial.flush())
    } finally {
      await partial.close()
    }
    if (found === wanted) break
    await storing(path, () => rm(path))
    options.onBytes(0)
    if (round === ROUNDS) {
      throw new IntegrityError(
        `${file.name} is damaged: wanted ${wanted} (${file.sizeBytes} bytes), found ${found}, also when downloaded from scratch. ` +
          'Nothing of it was kept. Try again later; if it stays so, ask whoever runs the Hub or the proxy between.',
      )
    }
    options.log(`${file.name} is damaged (wanted ${wanted}, found ${found}). Downloading it from scratch.`)
  }
  await storing(target, () => rename(path, target))
}

/** Bytes that cannot be the file's, noticed before all of them are there. */
class WrongBytesError extends Error {}

/** @returns what arrived: algorithm and hash, or in words how it differs in length. */
async function receive(file: RemoteFile, partial: PartialFile, options: DownloadOptions): Promise<string> {
  const { clock, signal, log, onBytes } = options
  const retries = new Retries({ clock, signal, log, limit: MAX_FAILURES })
  const size = file.sizeBytes
  let highest = partial.bytes
  onBytes(partial.bytes)
  while (partial.bytes < size) {
    try {
      await withStallGuard({ idleMs: IDLE_MS, clock, signal }, async (guarded, alive) => {
        const response = await options.open(partial.bytes, guarded)
        alive()
        if (!continues(response, partial.bytes, size)) {
          const asked = partial.bytes
          await partial.restart()
          onBytes(0)
          if (asked > 0) log(`${file.name}: the server cannot continue at byte ${asked}. Starting anew.`)
          if (response.status !== 200) throw new TransientError(`the server sent another range than asked for`)
        }
        if (response.status === 200) assertLength(response, size)
        for await (const chunk of readBody(response)) {
          if (partial.bytes + chunk.byteLength > size) throw new WrongBytesError(`more than ${size} bytes`)
          await partial.append(chunk)
          alive()
          onBytes(partial.bytes)
        }
      })
      if (partial.bytes < size) throw new TransientError('the connection ended early')
    } catch (error) {
      if (error instanceof WrongBytesError) return error.message
      // Against the highest ever: a server that always sends the same first part gets us nowhere.
      if (partial.bytes >= highest + REAL_PROGRESS_BYTES) retries.reset()
      highest = Math.max(highest, partial.bytes)
      await retries.waitAfter(error, `${file.name} (${formatBytes(partial.bytes)} of ${formatBytes(size)})`)
    }
  }
  return `${file.hash.algorithm} ${partial.digest()}`
}

/** Whether the answer's body goes on exactly where the file ends now. A server may ignore a range (200) or refuse it (416). */
function continues(response: Response, from: number, size: number): boolean {
  if (response.status === 200) return from === 0
  const range = /^bytes (\d+)-(\d+)\/(\d+|\*)$/.exec(response.headers.get('content-range') ?? '')
  if (response.status !== 206 || range === null) return false
  const [, first, , total] = range
  return Number(first) === from && (total === '*' || Number(total) === size)
}

/** A page of a proxy, or another version of the file, is known by its length before it is read. */
function assertLength(response: Response, size: number): void {
  const length = response.headers.get('content-length')
  const encoded = response.headers.get('content-encoding') ?? 'identity'
  if (length !== null && encoded === 'identity' && Number(length) !== size) {
    throw new WrongBytesError(`${length} bytes`)
  }
}

/** The file being written, with the hash of all that is in it. */
class PartialFile {
  readonly #handle: FileHandle
  readonly #path: string
  readonly #file: RemoteFile
  #hash: Hash
  #bytes = 0

  private constructor(handle: FileHandle, path: string, file: RemoteFile) {
    this.#handle = handle
    this.#path = path
    this.#file = file
    this.#hash = startHash(file)
  }

  /** Takes up what an earlier process left, reading it once for the hash; where `signal` fires, not to its end. */
  static async open(path: string, file: RemoteFile, options: DownloadOptions): Promise<PartialFile> {
    const handle = await open(path, constants.O_RDWR | constants.O_CREAT)
    const partial = new PartialFile(handle, path, file)
    try {
      const { size } = await handle.stat()
      if (size > file.sizeBytes) {
        await partial.restart()
      } else if (size > 0) {
        for await (const chunk of handle.createReadStream({ start: 0, end: size - 1, autoClose: false })) {
          partial.#hash.update(chunk)
          partial.#bytes += chunk.length
          options.onCheck(partial.#bytes, size)
          if (options.signal.aborted) break
        }
      }
    } catch (error) {
      await handle.close()
      throw error
    }
    return partial
  }

  get bytes(): number {
    return this.#bytes
  }

  async append(chunk: Uint8Array): Promise<void> {
    await storing(this.#path, async () => {
      let written = 0
      // The system may take less than all, for one just before the disk is full.
      while (written < chunk.byteLength) {
        const length = chunk.byteLength - written
        written += (await this.#handle.write(chunk, written, length, this.#bytes + written)).bytesWritten
      }
    })
    this.#hash.update(chunk)
    this.#bytes += chunk.byteLength
  }

  async restart(): Promise<void> {
    await storing(this.#path, () => this.#handle.truncate(0))
    this.#hash = startHash(this.#file)
    this.#bytes = 0
  }

  digest(): string {
    return this.#hash.copy().digest('hex')
  }

  /** To the disk itself, so that after a power cut no name stands over bytes that were never written. */
  async flush(): Promise<void> {
    await this.#handle.sync()
  }

  async close(): Promise<void> {
    await this.#handle.close()
  }
}

/** Git's id of a file is the SHA-1 of `blob <length>\0` and its bytes. Source: git-hash-object. */
function startHash({ hash, sizeBytes }: RemoteFile): Hash {
  return hash.algorithm === 'sha256' ? createHash('sha256') : createHash('sha1').update(`blob ${sizeBytes}\0`)
}
