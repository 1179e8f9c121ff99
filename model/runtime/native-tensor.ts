import { OutOfMemoryError } from '../errors.js'
import { type Api, addressOf, pointerOut } from './api.js'
import { elementCode, tensorBytes } from './element-type.js'
import { discardPages } from './library.js'
import { Resource } from './resource.js'
import type { TensorType } from './types.js'

/** Bytes. A cache line, and the widest vector that the CPU kernels load. */
const ALIGNMENT = 64

/** Memory on which an OrtValue lies, as the main thread gets it. */
export interface SharedBytes {
  readonly memory: SharedArrayBuffer
  readonly byteOffset: number
}

/** An OrtValue over memory that both threads see, over memory of a GPU, or over a part of another tensor. */
export interface NativeTensor {
  /** OrtValue *. */
  readonly value: bigint
  /** Address of the first byte; on a GPU it means nothing to the CPU. */
  readonly address: bigint
  readonly byteLength: number
  /** OrtMemoryInfo * of the memory: what a view is made with. */
  readonly memoryInfo: bigint
  /** True where ONNX Runtime copies the bytes as it binds them, since the session wants them on another device. */
  readonly copiedAtBind: boolean
  readonly resource: Resource
  /** The bytes as JavaScript sees them; absent on a GPU. */
  readonly shared?: SharedBytes
}

/**
 * A zeroed tensor in host memory. The memory is a SharedArrayBuffer: it does not move, pages that nobody touches cost
 * nothing, and each thread that holds it keeps it alive, so that a view which outlives the tensor reads zeros and not what
 * is somebody else's by then.
 *
 * @throws {OutOfMemoryError} there is no such memory.
 */
export function createHostTensor(
  api: Api,
  options: { type: TensorType; shape: readonly number[]; memoryInfo: bigint; copiedAtBind: boolean },
): NativeTensor {
  const byteLength = tensorBytes(options.type, options.shape)
  const memory = allocateShared(byteLength + ALIGNMENT)
  const whole = new Uint8Array(memory)
  const start = addressOf(whole)
  const byteOffset = Number(-start & BigInt(ALIGNMENT - 1))
  const address = start + BigInt(byteOffset)
  const value = wrap(api, { ...options, address, byteLength })
  const free = () => {
    api.ReleaseValue(value)
    discardPages(address, byteLength)
  }
  const resource = new Resource(free, { borrowed: whole })
  return { ...options, value, address, byteLength, resource, shared: { memory, byteOffset } }
}

/**
 * A tensor in memory of the GPU, as its allocator gives it: not zeroed.
 *
 * @param options.allocator  OrtAllocator *, owned by `owner` (the session that made it), which outlives the tensor.
 * @throws {OutOfMemoryError} the GPU, or the memory limit, does not leave that much.
 */
export function createDeviceTensor(
  api: Api,
  options: {
    type: TensorType
    shape: readonly number[]
    allocator: bigint
    memoryInfo: bigint
    owner: Resource
  },
): NativeTensor {
  const byteLength = tensorBytes(options.type, options.shape)
  const { type, shape, memoryInfo } = options
  let value: bigint
  try {
    value = pointerOut((out) =>
      api.CreateTensorAsOrtValue(options.allocator, dimensions(shape), shape.length, elementCode(type), out),
    )
  } catch (cause) {
    throw new OutOfMemoryError(byteLength, 'the GPU', { cause })
  }
  const address = pointerOut((out) => api.GetTensorMutableData(value, out))
  const resource = new Resource(() => api.ReleaseValue(value), { uses: [options.owner] })
  return { value, address, byteLength, memoryInfo, copiedAtBind: false, resource }
}

/**
 * A tensor over a part of another one's memory; it keeps that one alive.
 *
 * @param options.byteOffset  with the view's own bytes it must lie within the owner; the caller has checked.
 */
export function createView(
  api: Api,
  owner: NativeTensor,
  options: { type: TensorType; shape: readonly number[]; byteOffset: number },
): NativeTensor {
  const byteLength = tensorBytes(options.type, options.shape)
  const address = owner.address + BigInt(options.byteOffset)
  const { memoryInfo, copiedAtBind } = owner
  const value = wrap(api, { ...options, memoryInfo, address, byteLength })
  const resource = new Resource(() => api.ReleaseValue(value), { uses: [owner.resource] })
  return { value, address, byteLength, memoryInfo, copiedAtBind, resource }
}

/** An OrtValue over memory that somebody else owns. */
function wrap(
  api: Api,
  tensor: { type: TensorType; shape: readonly number[]; memoryInfo: bigint; address: bigint; byteLength: number },
): bigint {
  const { memoryInfo, address, byteLength, shape, type } = tensor
  return pointerOut((out) =>
    api.CreateTensorWithDataAsOrtValue(
      memoryInfo,
      address,
      byteLength,
      dimensions(shape),
      shape.length,
      elementCode(type),
      out,
    ),
  )
}

function dimensions(shape: readonly number[]): BigInt64Array {
  return BigInt64Array.from(shape, BigInt)
}

function allocateShared(byteLength: number): SharedArrayBuffer {
  try {
    return new SharedArrayBuffer(byteLength)
  } catch (cause) {
    throw new OutOfMemoryError(byteLength, 'this machine', { cause })
  }
}
