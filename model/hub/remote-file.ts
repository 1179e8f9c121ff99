import { HubError } from '../errors.js'
import { formatBytes } from './format-bytes.js'
import { printable } from './printable.js'

/** How a file's bytes are known: large files by SHA-256 (git LFS), small ones by their git blob id. Both in lower-case hex. */
export interface FileHash {
  readonly algorithm: 'sha256' | 'git-blob'
  readonly hex: string
}

/** One file of a commit, as the Hub lists it. `name` has been checked: it is a plain name, safe in a folder of ours. */
export interface RemoteFile {
  readonly name: string
  readonly sizeBytes: number
  readonly hash: FileHash
}

/** One shard of a 7B model in f32 on the Hub has 10 GB; a single file of all weights would have 34. */
export const MAX_FILE_BYTES = 64e9
/** A tokenizer.json has 17 MB for Gemma 1, 34 MB for Gemma 3. */
export const MAX_TEXT_BYTES = 256e6

/** Names that Windows gives to devices, with any extension. */
const DEVICE = /^(?:con|prn|aux|nul|conin\$|conout\$|com\d|lpt\d)(?:\.|$)/i
const PLAIN = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,198}[A-Za-z0-9_-]$/

/**
 * Reads one entry of the Hub's listing. Nothing in it is trusted: a repository's owner, or a mirror, chooses the names.
 *
 * @throws {HubError} the name could leave the folder or means a device, the size is no size or beyond the limit, or there is
 *   no hash to hold the bytes against.
 */
export function parseRemoteFile(entry: unknown): RemoteFile {
  const { path, size, oid, lfs } = fields(entry)
  if (typeof path !== 'string' || !PLAIN.test(path) || DEVICE.test(path)) {
    throw new HubError(
      `The Hub lists a file named ${quote(path)}, which is not safe as a name here. Nothing of this repository was written.`,
    )
  }
  const large = fields(lfs)
  const isLarge = lfs !== undefined && lfs !== null
  const sizeBytes = isLarge ? large.size : size
  const limit = isLarge ? MAX_FILE_BYTES : MAX_TEXT_BYTES
  if (typeof sizeBytes !== 'number' || !Number.isSafeInteger(sizeBytes) || sizeBytes < 0) {
    throw new HubError(`The Hub lists ${path} with ${quote(sizeBytes)} as its size in bytes.`)
  }
  if (sizeBytes > limit) {
    throw new HubError(
      `The Hub lists ${path} with ${formatBytes(sizeBytes)}, more than the ${formatBytes(limit)} that such a file of a Gemma checkpoint can have.`,
    )
  }
  const hash: { algorithm: FileHash['algorithm']; hex: unknown; length: number } = isLarge
    ? { algorithm: 'sha256', hex: large.oid, length: 64 }
    : { algorithm: 'git-blob', hex: oid, length: 40 }
  if (typeof hash.hex !== 'string' || hash.hex.length !== hash.length || !/^[0-9a-f]+$/.test(hash.hex)) {
    throw new HubError(`The Hub lists ${path} without a usable ${hash.algorithm} hash (${quote(hash.hex)}).`)
  }
  return { name: path, sizeBytes, hash: { algorithm: hash.algorithm, hex: hash.hex } }
}

function fields(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {}
}

function quote(value: unknown): string {
  return printable(JSON.stringify(value) ?? 'nothing', 100)
}
