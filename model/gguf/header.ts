import { GgufError } from '../errors.js'
import { TENSOR_TYPES, type TensorType } from './tensor-types.js'

/** A value of the metadata. Numbers beyond 2⁵³ stay whole as bigint. Arrays are there only if they were asked for. */
export type MetadataValue = string | number | bigint | boolean | readonly string[] | Float64Array

export interface GgufTensor {
  readonly name: string
  readonly type: TensorType
  /** As checkpoints have it: [N, K] for a matrix of N rows. The file has the row's length first. */
  readonly shape: readonly number[]
  /** First byte, from the start of the file. */
  readonly offset: number
  readonly byteLength: number
}

export interface GgufHeader {
  readonly metadata: ReadonlyMap<string, MetadataValue>
  readonly tensors: ReadonlyMap<string, GgufTensor>
}

/**
 * A vocabulary of 256,000 pieces takes 6 MB. Whatever a file claims, no more than this is read before its tensors, and no
 * memory is asked for on the strength of a number in the file alone.
 */
export const MAX_HEADER_BYTES = 64 << 20
const MAX_TENSORS = 100_000
const MAX_KEYS = 10_000
/** The format's own limit. */
const MAX_KEY_BYTES = 65_535
/** The format's own limit is 64. */
const MAX_TENSOR_NAME_BYTES = 256
/** The longest known are chat templates, of some 20 KB. */
const MAX_STRING_BYTES = 1 << 20
/** Gemma 3 has 262,144 pieces. */
const MAX_KEPT_ELEMENTS = 1 << 20
const MAX_DIMENSIONS = 4
const DEFAULT_ALIGNMENT = 32
const MAX_ALIGNMENT = 1 << 20

const STRING = 8
const ARRAY = 9
/** Bytes of a value of each type; a string's are those of its length. */
const VALUE_BYTES: ReadonlyMap<number, number> = new Map([
  [0, 1],
  [1, 1],
  [2, 2],
  [3, 2],
  [4, 4],
  [5, 4],
  [6, 4],
  [7, 1],
  [STRING, 8],
  [10, 8],
  [11, 8],
  [12, 8],
])

/** The header goes on behind the bytes that were given. */
export const MORE = Symbol('more')

export interface HeaderSource {
  /** The file's first bytes. */
  readonly bytes: Uint8Array
  /** For errors. */
  readonly file: string
  /** The whole file's size. */
  readonly fileBytes: number
  /** Keys of the arrays to keep; the others are stepped over. */
  readonly arrays: ReadonlySet<string>
}

/**
 * Reads the header of a GGUF file: metadata and the list of tensors, whose places are checked to lie within the file and
 * apart from one another. Nothing is taken on trust: numbers of things, lengths, types and offsets are held against the
 * file's size before they are used.
 *
 * @returns MORE where `bytes` is too short a beginning of the file
 * @throws {GgufError} what is wrong, by field and value
 * Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3.
 */
export function parseHeader(source: HeaderSource): GgufHeader | typeof MORE {
  try {
    return new HeaderParser(source).parse()
  } catch (error) {
    if (error === MORE) return MORE
    throw error
  }
}

class HeaderParser {
  readonly #bytes: Buffer
  readonly #view: DataView
  readonly #file: string
  readonly #fileBytes: number
  readonly #arrays: ReadonlySet<string>
  #at = 0

  constructor({ bytes, file, fileBytes, arrays }: HeaderSource) {
    this.#bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    this.#file = file
    this.#fileBytes = fileBytes
    this.#arrays = arrays
  }

  parse(): GgufHeader {
    this.#checkMagic()
    const tensorCount = this.#count('tensor_count', MAX_TENSORS)
    const keyCount = this.#count('metadata_kv_count', MAX_KEYS)
    const metadata = new Map<string, MetadataValue>()
    const seen = new Set<string>()
    for (let i = 0; i < keyCount; i++) {
      const key = this.#string(`the name of metadata key ${i}`, MAX_KEY_BYTES)
      if (key === '' || seen.has(key)) {
        this.#refuse(`the name of metadata key ${i}`, quote(key), 'each key has a name of its own')
      }
      seen.add(key)
      const value = this.#value(key)
      if (value !== undefined) metadata.set(key, value)
    }
    const places: (GgufTensor & { relative: number })[] = []
    const names = new Set<string>()
    for (let i = 0; i < tensorCount; i++) {
      const tensor = this.#tensor(i)
      if (names.has(tensor.name)) this.#refuse(`the name of tensor ${i}`, quote(tensor.name), 'it was there before')
      names.add(tensor.name)
      places.push(tensor)
    }
    return { metadata, tensors: this.#place(places, this.#alignment(metadata)) }
  }

  #checkMagic(): void {
    const magic = this.#bytes.toString('latin1', this.#take(4, 'magic'), this.#at)
    if (magic !== 'GGUF') this.#refuse('magic', quote(magic), 'a GGUF file begins with "GGUF"')
    const version = this.#u32('version')
    if (version === 0x02_00_00_00 || version === 0x03_00_00_00) {
      this.#refuse(
        'byte order',
        'big-endian',
        'only little-endian files are read. Convert it again, or find another file',
      )
    }
    if (version !== 2 && version !== 3) this.#refuse('version', String(version), 'versions 2 and 3 are read')
  }

  #value(key: string): MetadataValue | undefined {
    const type = this.#u32(`the type of ${quote(key)}`)
    if (type === STRING) return this.#string(quote(key), MAX_STRING_BYTES)
    if (type === ARRAY) return this.#array(key)
    if (!VALUE_BYTES.has(type)) {
      this.#refuse(`the type of ${quote(key)}`, String(type), 'the format has types 0 to 12')
    }
    return this.#scalar(type, quote(key))
  }

  #array(key: string): MetadataValue | undefined {
    const field = `the array ${quote(key)}`
    const type = this.#u32(`the type of ${field}`)
    const elementBytes = VALUE_BYTES.get(type)
    if (elementBytes === undefined) {
      const what = type === ARRAY ? 'arrays' : `type ${type}`
      this.#refuse(`the type of ${field}`, what, 'arrays of numbers, booleans and strings are read')
    }
    const count = this.#u64(`the length of ${field}`)
    const left = BigInt(this.#fileBytes - this.#at)
    if (count * BigInt(elementBytes) > left) {
      this.#refuse(`the length of ${field}`, String(count), `only ${left} bytes follow in the file`)
    }
    const elements = Number(count)
    if (!this.#arrays.has(key)) {
      if (type !== STRING) this.#take(elements * elementBytes, field)
      else for (let i = 0; i < elements; i++) this.#take(this.#length(field, MAX_STRING_BYTES), field)
      return undefined
    }
    if (elements > MAX_KEPT_ELEMENTS) {
      this.#refuse(`the length of ${field}`, String(count), `at most ${MAX_KEPT_ELEMENTS} are read`)
    }
    if (type === STRING) {
      const strings: string[] = []
      for (let i = 0; i < elements; i++) strings.push(this.#string(`element ${i} of ${field}`, MAX_STRING_BYTES))
      return strings
    }
    this.#need(elements * elementBytes, field)
    const numbers = new Float64Array(elements)
    for (let i = 0; i < elements; i++) numbers[i] = Number(this.#scalar(type, field))
    return numbers
  }

  #scalar(type: number, field: string): number | bigint | boolean {
    const at = this.#take(VALUE_BYTES.get(type)!, field)
    switch (type) {
      case 0:
        return this.#view.getUint8(at)
      case 1:
        return this.#view.getInt8(at)
      case 2:
        return this.#view.getUint16(at, true)
      case 3:
        return this.#view.getInt16(at, true)
      case 4:
        return this.#view.getUint32(at, true)
      case 5:
        return this.#view.getInt32(at, true)
      case 6:
        return this.#view.getFloat32(at, true)
      case 7:
        return this.#view.getUint8(at) !== 0
      case 10:
        return narrowed(this.#view.getBigUint64(at, true))
      case 11:
        return narrowed(this.#view.getBigInt64(at, true))
      default:
        return this.#view.getFloat64(at, true)
    }
  }

  #tensor(index: number): GgufTensor & { relative: number } {
    const name = this.#string(`the name of tensor ${index}`, MAX_TENSOR_NAME_BYTES)
    const field = `tensor ${quote(name)}`
    const dimensions = this.#u32(`the number of dimensions of ${field}`)
    if (dimensions < 1 || dimensions > MAX_DIMENSIONS) {
      this.#refuse(`the number of dimensions of ${field}`, String(dimensions), `1 to ${MAX_DIMENSIONS} are possible`)
    }
    const sizes: bigint[] = []
    for (let i = 0; i < dimensions; i++) sizes.push(this.#u64(`a dimension of ${field}`))
    const number = this.#u32(`the type of ${field}`)
    const relative = this.#u64(`the offset of ${field}`)
    const type = TENSOR_TYPES.get(number)
    if (type === undefined)
      return this.#refuse(`the type of ${field}`, String(number), 'no tensor type has this number')

    const shape = `[${sizes.join(', ')}]`
    // As bigints these products cannot overflow, whatever the file says.
    const weights = sizes.reduce((product, size) => product * size, 1n)
    if (weights === 0n) this.#refuse(`the shape of ${field}`, shape, 'no dimension can be 0')
    if (sizes[0]! % BigInt(type.weights) !== 0n) {
      this.#refuse(`the shape of ${field}`, shape, `a row of ${type.name} is a multiple of ${type.weights} weights`)
    }
    const byteLength = (weights / BigInt(type.weights)) * BigInt(type.bytes)
    if (byteLength > BigInt(this.#fileBytes)) {
      this.#refuse(
        `the shape of ${field}`,
        shape,
        `${byteLength} bytes of ${type.name} do not fit a file of ${this.#fileBytes} bytes. Is it complete?`,
      )
    }
    if (relative > BigInt(this.#fileBytes)) {
      this.#refuse(`the offset of ${field}`, String(relative), `the file has ${this.#fileBytes} bytes. Is it complete?`)
    }
    return {
      name,
      type,
      shape: sizes.map(Number).reverse(),
      offset: 0,
      byteLength: Number(byteLength),
      relative: Number(relative),
    }
  }

  #alignment(metadata: ReadonlyMap<string, MetadataValue>): number {
    const alignment = metadata.get('general.alignment') ?? DEFAULT_ALIGNMENT
    const isPowerOfTwo = typeof alignment === 'number' && (alignment & (alignment - 1)) === 0
    if (!isPowerOfTwo || alignment < 8 || alignment > MAX_ALIGNMENT) {
      return this.#refuse('general.alignment', quote(alignment), `a power of two from 8 to ${MAX_ALIGNMENT} is wanted`)
    }
    return alignment
  }

  /** Gives each tensor its place in the file, and makes sure that no two share a byte. */
  #place(tensors: readonly (GgufTensor & { relative: number })[], alignment: number): Map<string, GgufTensor> {
    const start = Math.ceil(this.#at / alignment) * alignment
    const placed = tensors.map(({ relative, ...tensor }) => {
      const field = `the offset of tensor ${quote(tensor.name)}`
      if (relative % alignment !== 0) this.#refuse(field, String(relative), `it must be a multiple of ${alignment}`)
      const offset = start + relative
      if (offset + tensor.byteLength > this.#fileBytes) {
        const wanted = `its ${tensor.byteLength} bytes end at byte ${offset + tensor.byteLength} of a file of ${this.#fileBytes}`
        this.#refuse(field, String(relative), `${wanted}. Is the file complete? Download it again`)
      }
      return { ...tensor, offset }
    })
    let end = start
    let before = 'the header'
    for (const tensor of placed.toSorted((a, b) => a.offset - b.offset)) {
      if (tensor.offset < end) {
        const field = `the offset of tensor ${quote(tensor.name)}`
        this.#refuse(field, String(tensor.offset - start), `that lies within ${before}`)
      }
      end = tensor.offset + tensor.byteLength
      before = `tensor ${quote(tensor.name)}`
    }
    return new Map(placed.map((tensor) => [tensor.name, tensor]))
  }

  #count(field: string, most: number): number {
    const count = this.#u64(field)
    if (count > BigInt(most)) this.#refuse(field, String(count), `at most ${most} are read. The file is damaged`)
    return Number(count)
  }

  #length(field: string, most: number): number {
    const length = this.#u64(`the length of ${field}`)
    if (length > BigInt(most)) this.#refuse(`the length of ${field}`, String(length), `at most ${most} bytes are read`)
    return Number(length)
  }

  #string(field: string, most: number): string {
    const start = this.#take(this.#length(field, most), field)
    return this.#bytes.toString('utf8', start, this.#at)
  }

  #u32(field: string): number {
    return this.#view.getUint32(this.#take(4, field), true)
  }

  #u64(field: string): bigint {
    return this.#view.getBigUint64(this.#take(8, field), true)
  }

  /** Steps over so many bytes and returns where they begin. */
  #take(bytes: number, field: string): number {
    this.#need(bytes, field)
    const start = this.#at
    this.#at += bytes
    return start
  }

  #need(bytes: number, field: string): void {
    const end = this.#at + bytes
    if (end <= this.#bytes.byteLength) return
    if (end > this.#fileBytes) {
      this.#refuse(
        field,
        `cut at byte ${this.#fileBytes}`,
        `it needs ${bytes} bytes from byte ${this.#at} on. Download it again`,
      )
    }
    if (end > MAX_HEADER_BYTES) {
      this.#refuse(field, `at byte ${this.#at}`, `no more than ${MAX_HEADER_BYTES} bytes are read before the tensors`)
    }
    throw MORE
  }

  #refuse(field: string, value: string, wanted: string): never {
    throw new GgufError(this.#file, field, value, wanted)
  }
}

function narrowed(value: bigint): number | bigint {
  return BigInt.asIntN(54, value) === value ? Number(value) : value
}

/** A value from the file as one short line of printable characters. */
export function quote(value: unknown): string {
  const text = typeof value === 'string' ? JSON.stringify(value) : String(value)
  // What JSON leaves as it is, but a terminal might obey.
  const printable = text.replaceAll(/[\p{C}\p{Zl}\p{Zp}]/gu, '�')
  return printable.length > 100 ? `${printable.slice(0, 100)}…` : printable
}
