import { type FileHandle, open } from 'node:fs/promises'
import { CheckpointError, GgufError } from '../errors.js'
import { readFully } from '../file-bytes.js'
import { type GgufHeader, type GgufTensor, MAX_HEADER_BYTES, type MetadataValue, MORE, parseHeader } from './header.js'

/** Enough for a header with Gemma's vocabulary, so that it is read in one go. */
const FIRST_BYTES = 8 << 20

/** One open GGUF file: its metadata and table of tensors, checked, and the tensors' bytes on demand. */
export class GgufFile implements AsyncDisposable {
  readonly path: string
  readonly byteLength: number
  readonly metadata: ReadonlyMap<string, MetadataValue>
  readonly tensors: ReadonlyMap<string, GgufTensor>
  readonly #handle: FileHandle

  private constructor(path: string, byteLength: number, header: GgufHeader, handle: FileHandle) {
    this.path = path
    this.byteLength = byteLength
    this.metadata = header.metadata
    this.tensors = header.tensors
    this.#handle = handle
  }

  /**
   * Opens a file and reads its header, 64 MB at most. No tensor is read yet.
   * @param arrays  keys of the metadata's arrays that are wanted; others are left out of `metadata`
   * @throws {GgufError} it is no GGUF file, or its header cannot be true
   * @throws {CheckpointError} it cannot be opened
   */
  static async open(path: string, arrays: readonly string[]): Promise<GgufFile> {
    let handle: FileHandle
    try {
      handle = await open(path, 'r')
    } catch (error) {
      throw new CheckpointError(path, 'cannot be opened.', { cause: error })
    }
    try {
      const stats = await handle.stat()
      if (!stats.isFile()) throw new GgufError(path, 'the path', 'no file', 'a GGUF file is wanted')
      const header = await readHeader(handle, path, stats.size, new Set(arrays))
      return new GgufFile(path, stats.size, header, handle)
    } catch (error) {
      await handle.close()
      throw error
    }
  }

  /**
   * Fills `into` with a tensor's bytes from `start` (counted from the tensor's first byte).
   * @throws {CheckpointError} the file ended early: somebody changed it after it was opened.
   */
  async read(tensor: GgufTensor, start: number, into: Uint8Array): Promise<void> {
    await readFully(this.#handle, this.path, tensor.offset + start, into)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#handle.close()
  }
}

async function readHeader(
  handle: FileHandle,
  file: string,
  fileBytes: number,
  arrays: ReadonlySet<string>,
): Promise<GgufHeader> {
  for (let size = FIRST_BYTES; ; size *= 2) {
    const bytes = new Uint8Array(Math.min(size, fileBytes, MAX_HEADER_BYTES))
    await readFully(handle, file, 0, bytes)
    const header = parseHeader({ bytes, file, fileBytes, arrays })
    if (header !== MORE) return header
  }
}
