import { type FileHandle, open } from 'node:fs/promises'
import { CheckpointError } from '../errors.js'
import { readFully } from '../file-bytes.js'

/** Types that a weight may have; the file may hold others in tensors that nobody reads. */
export const SOURCE_BYTES = { F32: 4, F16: 2, BF16: 2 } as const
export type SourceType = keyof typeof SOURCE_BYTES

const ELEMENT_BITS: Readonly<Record<string, number>> = {
  BOOL: 8,
  U8: 8,
  I8: 8,
  F8_E4M3: 8,
  F8_E5M2: 8,
  U16: 16,
  I16: 16,
  F16: 16,
  BF16: 16,
  U32: 32,
  I32: 32,
  F32: 32,
  U64: 64,
  I64: 64,
  F64: 64,
}

/** The limit of the reference implementation; Gemma-2B's headers have 20 KB. */
const MAX_HEADER_BYTES = 100_000_000

export interface TensorEntry {
  readonly name: string
  readonly dtype: string
  readonly shape: readonly number[]
  /** First byte, from the start of the file. */
  readonly offset: number
  readonly byteLength: number
}

/** One open .safetensors file: its table of contents, checked, and its bytes on demand. */
export class SafetensorsFile implements AsyncDisposable {
  readonly path: string
  readonly byteLength: number
  readonly tensors: ReadonlyMap<string, TensorEntry>
  readonly #handle: FileHandle

  private constructor(path: string, byteLength: number, tensors: Map<string, TensorEntry>, handle: FileHandle) {
    this.path = path
    this.byteLength = byteLength
    this.tensors = tensors
    this.#handle = handle
  }

  /**
   * Opens a file and reads its header. No tensor is read yet.
   * @throws {CheckpointError} the file is missing, cut, or its header is not one.
   */
  static async open(path: string): Promise<SafetensorsFile> {
    let handle: FileHandle
    try {
      handle = await open(path, 'r')
    } catch (error) {
      throw new CheckpointError(path, 'cannot be opened. Is the checkpoint complete?', { cause: error })
    }
    try {
      const { size } = await handle.stat()
      const tensors = await readHeader(handle, path, size)
      return new SafetensorsFile(path, size, tensors, handle)
    } catch (error) {
      await handle.close()
      throw error
    }
  }

  /**
   * Fills `into` with a tensor's bytes from `start` (counted from the tensor's first byte).
   * @throws {CheckpointError} the file ended early: somebody changed it after it was opened.
   */
  async read(tensor: TensorEntry, start: number, into: Uint8Array): Promise<void> {
    await readFully(this.#handle, this.path, tensor.offset + start, into)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#handle.close()
  }
}

async function readHeader(handle: FileHandle, path: string, fileBytes: number): Promise<Map<string, TensorEntry>> {
  const refuse = (message: string): never => {
    throw new CheckpointError(path, `${message}. The file is damaged or no safetensors: download it again.`)
  }
  if (fileBytes < 8) refuse(`has ${fileBytes} bytes, but a header's length alone takes 8`)
  const prefix = new Uint8Array(8)
  await readFully(handle, path, 0, prefix)
  const headerBytes = new DataView(prefix.buffer).getBigUint64(0, true)
  if (headerBytes > BigInt(fileBytes - 8)) {
    refuse(`says its header has ${headerBytes} bytes, but only ${fileBytes - 8} follow`)
  }
  if (headerBytes > BigInt(MAX_HEADER_BYTES)) {
    refuse(`says its header has ${headerBytes} bytes; the format allows ${MAX_HEADER_BYTES}`)
  }
  const text = new Uint8Array(Number(headerBytes))
  await readFully(handle, path, 8, text)
  return parseHeader(text, path, 8 + text.byteLength, fileBytes)
}

/**
 * Reads the JSON header of a safetensors file.
 * @param text  its bytes
 * @param path  of the file, for errors
 * @param dataStart  where the tensors begin in the file
 * @param fileBytes  the file's size: tensors must fill it from `dataStart` to its end, without gap or overlap
 * @throws {CheckpointError} anything else
 * Source: https://github.com/huggingface/safetensors#format
 */
export function parseHeader(
  text: Uint8Array,
  path: string,
  dataStart: number,
  fileBytes: number,
): Map<string, TensorEntry> {
  let json: unknown
  try {
    json = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(text))
  } catch (error) {
    throw new CheckpointError(path, 'its header is not JSON. The file is damaged or no safetensors.', { cause: error })
  }
  if (typeof json !== 'object' || json === null || Array.isArray(json)) {
    throw new CheckpointError(path, 'its header is no JSON object. The file is damaged or no safetensors.')
  }
  const entries = Object.entries(json).filter(([name]) => name !== '__metadata__')
  const tensors = entries.map(([name, value]) => parseEntry(path, name, value, dataStart))
  tensors.sort((a, b) => a.offset - b.offset || a.byteLength - b.byteLength)

  let end = dataStart
  let before = 'the header'
  for (const tensor of tensors) {
    const options = { tensor: tensor.name }
    if (tensor.offset + tensor.byteLength > fileBytes) {
      const missing = tensor.offset + tensor.byteLength - fileBytes
      throw new CheckpointError(
        path,
        `is cut: ${missing} bytes of ${tensor.name} are missing. Download it again.`,
        options,
      )
    }
    if (tensor.offset !== end) {
      const fault = tensor.offset < end ? 'overlaps' : 'leaves a gap after'
      const message = `tensor ${tensor.name} begins at byte ${tensor.offset} and ${fault} ${before}, which ends at ${end}.`
      throw new CheckpointError(path, message, options)
    }
    end += tensor.byteLength
    before = tensor.name
  }
  if (end !== fileBytes) {
    throw new CheckpointError(path, `has ${fileBytes} bytes, but its tensors end at ${end}. Download it again.`)
  }
  return new Map(tensors.map((tensor) => [tensor.name, tensor]))
}

function parseEntry(path: string, name: string, value: unknown, dataStart: number): TensorEntry {
  const refuse = (message: string): never => {
    throw new CheckpointError(path, `tensor ${JSON.stringify(name)}: ${message}.`, { tensor: name })
  }
  if (typeof value !== 'object' || value === null) return refuse('its entry is no object')
  const { dtype, shape, data_offsets: offsets } = value as Record<string, unknown>
  if (typeof dtype !== 'string' || !Object.hasOwn(ELEMENT_BITS, dtype)) {
    return refuse(`has dtype ${JSON.stringify(dtype)}, which safetensors does not have`)
  }
  if (!isSizes(shape)) return refuse(`has shape ${JSON.stringify(shape)}, but a list of sizes is wanted`)
  if (!isSizes(offsets) || offsets.length !== 2 || offsets[0]! > offsets[1]!) {
    return refuse(`has data_offsets ${JSON.stringify(offsets)}, but [begin, end] is wanted`)
  }
  const [begin, end] = offsets as [number, number]
  const wanted = shape.reduce((product, size) => product * size, ELEMENT_BITS[dtype]! / 8)
  if (end - begin !== wanted) {
    return refuse(`${dtype}[${shape.join(',')}] needs ${wanted} bytes, but data_offsets give it ${end - begin}`)
  }
  return { name, dtype, shape, offset: dataStart + begin, byteLength: end - begin }
}

function isSizes(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((size) => Number.isSafeInteger(size) && size >= 0)
}
