import { open } from 'node:fs/promises'

/** Numbers of the format's value types. Source: docs/gguf.md in ggml-org/ggml, version 3. */
export const VALUE_TYPE = {
  u8: 0,
  i8: 1,
  u16: 2,
  i16: 3,
  u32: 4,
  i32: 5,
  f32: 6,
  bool: 7,
  string: 8,
  array: 9,
  u64: 10,
  i64: 11,
  f64: 12,
} as const

/** Numbers, weights per block and bytes per block of the tensor types that tests write. */
export const TENSOR_TYPE = {
  F32: { id: 0, weights: 1, bytes: 4 },
  F16: { id: 1, weights: 1, bytes: 2 },
  Q4_0: { id: 2, weights: 32, bytes: 18 },
  Q4_1: { id: 3, weights: 32, bytes: 20 },
  Q5_0: { id: 6, weights: 32, bytes: 22 },
  Q5_1: { id: 7, weights: 32, bytes: 24 },
  Q8_0: { id: 8, weights: 32, bytes: 34 },
  Q2_K: { id: 10, weights: 256, bytes: 84 },
  Q4_K: { id: 12, weights: 256, bytes: 144 },
  Q5_K: { id: 13, weights: 256, bytes: 176 },
  Q6_K: { id: 14, weights: 256, bytes: 210 },
  BF16: { id: 30, weights: 1, bytes: 2 },
} as const

export type TensorType = keyof typeof TENSOR_TYPE
type ScalarType = Exclude<keyof typeof VALUE_TYPE, 'array' | 'bool' | 'string'>

export type GgufValue =
  | { readonly type: ScalarType; readonly value: number }
  | { readonly type: 'bool'; readonly value: boolean }
  | { readonly type: 'string'; readonly value: string }
  | { readonly type: 'array'; readonly of: ScalarType; readonly values: readonly number[] }
  | { readonly type: 'array'; readonly of: 'string'; readonly values: readonly string[] }

export const u32 = (value: number): GgufValue => ({ type: 'u32', value })
export const f32 = (value: number): GgufValue => ({ type: 'f32', value })
export const bool = (value: boolean): GgufValue => ({ type: 'bool', value })
export const string = (value: string): GgufValue => ({ type: 'string', value })
export const strings = (values: readonly string[]): GgufValue => ({ type: 'array', of: 'string', values })
export const numbers = (of: ScalarType, values: readonly number[]): GgufValue => ({ type: 'array', of, values })

export interface GgufTensor {
  readonly name: string
  readonly type: TensorType
  /** As checkpoints say it, [N, K] or [N]; in the file the order is turned round. */
  readonly shape: readonly number[]
  /** The tensor's bytes, in pieces of any size; as many in all as type and shape need. */
  readonly data: () => Iterable<Uint8Array>
}

export interface GgufContent {
  readonly metadata: Readonly<Record<string, GgufValue>>
  readonly tensors: readonly GgufTensor[]
  /** By default 32. Written as general.alignment where it is another. */
  readonly alignment?: number
}

export const tensorBytes = ({ type, shape }: Pick<GgufTensor, 'type' | 'shape'>): number => {
  const { weights, bytes } = TENSOR_TYPE[type]
  return (shape.reduce((product, size) => product * size, 1) / weights) * bytes
}

/** Writes a GGUF file of version 3, little-endian. Streams: it holds one piece of one tensor at a time. */
export async function writeGguf(file: string, content: GgufContent): Promise<void> {
  const alignment = content.alignment ?? 32
  const handle = await open(file, 'w')
  try {
    let written = await write(handle, ggufHeader(content))
    for (const tensor of content.tensors) {
      for (const piece of tensor.data()) written += await write(handle, piece)
      written += await write(handle, new Uint8Array(padding(written, alignment)))
    }
  } finally {
    await handle.close()
  }
}

async function write(handle: Awaited<ReturnType<typeof open>>, bytes: Uint8Array): Promise<number> {
  for (let done = 0; done < bytes.byteLength; ) done += (await handle.write(bytes, done)).bytesWritten
  return bytes.byteLength
}

const padding = (position: number, alignment: number) => (alignment - (position % alignment)) % alignment

/** All that comes before the first tensor's bytes. */
export function ggufHeader({ metadata, tensors, alignment = 32 }: GgufContent): Uint8Array {
  const all = { ...metadata, ...(alignment === 32 ? {} : { 'general.alignment': u32(alignment) }) }
  const bytes = new Bytes()
  bytes.text('GGUF').number('u32', 3).number('u64', tensors.length).number('u64', Object.keys(all).length)
  for (const [key, value] of Object.entries(all)) {
    bytes.string(key).number('u32', VALUE_TYPE[value.type])
    if (value.type === 'string') bytes.string(value.value)
    else if (value.type === 'bool') bytes.number('u8', Number(value.value))
    else if (value.type === 'array') {
      bytes.number('u32', VALUE_TYPE[value.of]).number('u64', value.values.length)
      if (value.of === 'string') for (const text of value.values) bytes.string(text)
      else for (const number of value.values) bytes.number(value.of, number)
    } else bytes.number(value.type, value.value)
  }
  let offset = 0
  for (const tensor of tensors) {
    bytes.string(tensor.name).number('u32', tensor.shape.length)
    for (const size of tensor.shape.toReversed()) bytes.number('u64', size)
    bytes.number('u32', TENSOR_TYPE[tensor.type].id).number('u64', offset)
    offset += tensorBytes(tensor)
    offset += padding(offset, alignment)
  }
  bytes.zeros(padding(bytes.length, alignment))
  return bytes.done()
}

/** A buffer that grows; everything little-endian. */
export class Bytes {
  #bytes = new Uint8Array(1 << 16)
  length = 0

  number(type: ScalarType, value: number): this {
    const view = this.#room(8)
    const big = () => BigInt(value)
    if (type === 'u64') view.setBigUint64(0, big(), true)
    else if (type === 'i64') view.setBigInt64(0, big(), true)
    else if (type === 'f64') view.setFloat64(0, value, true)
    else if (type === 'f32') view.setFloat32(0, value, true)
    else if (type === 'u32') view.setUint32(0, value, true)
    else if (type === 'i32') view.setInt32(0, value, true)
    else if (type === 'u16') view.setUint16(0, value, true)
    else if (type === 'i16') view.setInt16(0, value, true)
    else if (type === 'u8') view.setUint8(0, value)
    else view.setInt8(0, value)
    this.length += Number(/\d+$/.exec(type)![0]) / 8
    return this
  }

  u64(value: bigint): this {
    this.#room(8).setBigUint64(0, value, true)
    this.length += 8
    return this
  }

  /** The characters, without their number. */
  text(text: string): this {
    const encoded = new TextEncoder().encode(text)
    this.#room(encoded.byteLength)
    this.#bytes.set(encoded, this.length)
    this.length += encoded.byteLength
    return this
  }

  string(text: string): this {
    return this.number('u64', Buffer.byteLength(text)).text(text)
  }

  zeros(count: number): this {
    this.#room(count)
    this.#bytes.fill(0, this.length, this.length + count)
    this.length += count
    return this
  }

  done(): Uint8Array {
    return this.#bytes.slice(0, this.length)
  }

  #room(bytes: number): DataView {
    if (this.length + bytes > this.#bytes.byteLength) {
      const larger = new Uint8Array(Math.max(2 * this.#bytes.byteLength, this.length + bytes))
      larger.set(this.#bytes)
      this.#bytes = larger
    }
    return new DataView(this.#bytes.buffer, this.length)
  }
}
