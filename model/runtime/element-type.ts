import type { TensorType } from './types.js'

interface ElementType {
  /** ONNXTensorElementDataType, onnxruntime_c_api.h. */
  readonly code: number
  readonly sizeBytes: number
}

const ELEMENT_TYPES: Readonly<Record<TensorType, ElementType>> = {
  f32: { code: 1, sizeBytes: 4 },
  u8: { code: 2, sizeBytes: 1 },
  i8: { code: 3, sizeBytes: 1 },
  i32: { code: 6, sizeBytes: 4 },
  i64: { code: 7, sizeBytes: 8 },
  bool: { code: 9, sizeBytes: 1 },
  f16: { code: 10, sizeBytes: 2 },
  bf16: { code: 16, sizeBytes: 2 },
}

const TYPE_OF_CODE = new Map(Object.entries(ELEMENT_TYPES).map(([type, { code }]) => [code, type as TensorType]))

/** The C API's number for an element type. */
export function elementCode(type: TensorType): number {
  return ELEMENT_TYPES[type].code
}

/** Bytes of one element. */
export function elementSize(type: TensorType): number {
  return ELEMENT_TYPES[type].sizeBytes
}

/** The element type behind the C API's number; undefined for one that no tensor of ours has (strings, f64, 4 bits …). */
export function elementTypeOfCode(code: number): TensorType | undefined {
  return TYPE_OF_CODE.get(code)
}

/**
 * Bytes of a dense tensor.
 *
 * @param shape  whole numbers ≥ 0; [] is a scalar.
 * @throws {TypeError} the type is unknown. @throws {RangeError} a dimension is negative, broken or open, or the product
 *   is beyond 2^53.
 */
export function tensorBytes(type: TensorType, shape: readonly number[]): number {
  if (!Object.hasOwn(ELEMENT_TYPES, type)) {
    throw new TypeError(`Unknown tensor type ${type}. Known: ${Object.keys(ELEMENT_TYPES).join(', ')}.`)
  }
  let bytes = elementSize(type)
  for (const dimension of shape) {
    if (!Number.isSafeInteger(dimension) || dimension < 0) {
      throw new RangeError(
        `Shape [${shape.join(', ')}] has the dimension ${dimension}; each must be a whole number ≥ 0.`,
      )
    }
    bytes *= dimension
  }
  if (!Number.isSafeInteger(bytes)) {
    throw new RangeError(`A ${type} tensor of shape [${shape.join(', ')}] has more bytes than can be counted.`)
  }
  return bytes
}

const scratch = new DataView(new ArrayBuffer(4))

/**
 * The number that 16 bits of IEEE 754 binary16 stand for: 1 sign, 5 exponent, 10 fraction bits. Exact.
 *
 * @param bits  0 … 65535.
 */
export function fromF16(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1
  const exponent = (bits >> 10) & 0x1f
  const fraction = bits & 0x3ff
  if (exponent === 0) return sign * fraction * 2 ** -24
  if (exponent === 0x1f) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15)
}

/**
 * The nearest binary16, ties to even, as 16 bits; beyond 65504 + half a step it is infinite. NaN becomes 0x7e00.
 */
export function toF16(value: number): number {
  if (Number.isNaN(value)) return 0x7e00
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0
  const magnitude = Math.abs(value)
  // The step between neighbours: 2^-24 below the smallest normal number (2^-14), then 2^-10 of the power of two below.
  if (magnitude >= 65520) return sign | 0x7c00
  const exponent = magnitude < 2 ** -14 ? -14 : exponentOf(magnitude)
  const steps = roundTiesToEven(magnitude / 2 ** (exponent - 10))
  // Steps of a normal number are 1024 … 2048: the leading 1024 adds one to the exponent field, and 2048 another, which is
  // the carry into the next power of two.
  return sign | (((exponent + 14) << 10) + steps)
}

/** The number that a bfloat16 stands for: the upper half of an f32. Exact. */
export function fromBf16(bits: number): number {
  scratch.setUint32(0, bits << 16)
  return scratch.getFloat32(0)
}

/** The nearest bfloat16 of an f32, ties to even, as 16 bits. NaN becomes 0x7fc0. */
export function toBf16(value: number): number {
  if (Number.isNaN(value)) return 0x7fc0
  scratch.setFloat32(0, value)
  const bits = scratch.getUint32(0)
  const half = 0x7fff + ((bits >>> 16) & 1)
  return ((bits + half) >>> 16) & 0xffff
}

/** Exponent e of a normal f64, with 2^e ≤ magnitude < 2^(e+1). */
function exponentOf(magnitude: number): number {
  const exponent = Math.floor(Math.log2(magnitude))
  // log2 may round up to a whole number just below a power of two.
  return 2 ** exponent > magnitude ? exponent - 1 : exponent
}

function roundTiesToEven(value: number): number {
  const below = Math.floor(value)
  const rest = value - below
  if (rest !== 0.5) return Math.round(value)
  return below % 2 === 0 ? below : below + 1
}
