import { randomUUID } from 'node:crypto'
import { mkdir, open, rename, rm, stat } from 'node:fs/promises'
import { dirname } from 'node:path'
import { DiskFullError, HubError } from '../errors.js'

/** The system's error code (`ENOENT`), where there is one. */
export function codeOf(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined
}

/**
 * A failure to read or write `path`, as a typed error. A quota that is used up is a full disk to whoever has it.
 *
 * @returns a DiskFullError, or a HubError that names path and code.
 */
export function storageError(error: unknown, path: string): DiskFullError | HubError {
  const code = codeOf(error)
  if (code === 'ENOSPC' || code === 'EDQUOT') return new DiskFullError(path, { cause: error })
  const hint = code === 'EFBIG' ? 'This disk cannot hold a file of this size' : 'Check this folder and its permissions'
  return new HubError(`${path}: cannot be used (${code ?? String(error)}). ${hint}, or set MODEL_CACHE to another.`, {
    cause: error,
  })
}

/** Runs `write`, which only touches the disk, and types its error. */
export async function storing<T>(path: string, write: () => Promise<T>): Promise<T> {
  try {
    return await write()
  } catch (error) {
    throw storageError(error, path)
  }
}

/** The size of a file, or undefined where there is none. */
export async function sizeOf(path: string): Promise<number | undefined> {
  try {
    return (await stat(path)).size
  } catch (error) {
    if (codeOf(error) === 'ENOENT' || codeOf(error) === 'ENOTDIR') return undefined
    throw error
  }
}

/** Writes a small file so that it is there whole or not at all, also after a power cut. */
export async function writeWhole(path: string, text: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true })
  const temporary = `${path}.${randomUUID()}`
  try {
    const handle = await open(temporary, 'wx')
    try {
      await handle.writeFile(text)
      await handle.sync()
    } finally {
      await handle.close()
    }
    await rename(temporary, path)
  } catch (error) {
    await rm(temporary, { force: true })
    throw error
  }
}
