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
