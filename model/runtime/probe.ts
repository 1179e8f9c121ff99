import { type Api, pointerOut } from './api.js'
import type { AppendDevice } from './device.js'
import { type NativeSession, openSession } from './native-session.js'
import { createHostTensor, createView, type NativeTensor } from './native-tensor.js'

/** Bytes copied by one run. */
const CHUNK_BYTES = 16 * 1024 * 1024

/**
 * The smallest session there is: it copies bytes from `x` to `y`. On a GPU it proves the device before any model is
 * loaded, owns the allocator of device tensors, and zeroes them, which the C API has no other function for.
 */
export class Probe {
  readonly session: NativeSession
  readonly #api: Api
  readonly #memoryInfo: bigint

  /**
   * @param memoryInfo  OrtMemoryInfo * of host memory.
   * @throws {OrtError} the device cannot be used.
   */
  constructor(api: Api, environment: bigint, append: AppendDevice, memoryInfo: bigint) {
    this.#api = api
    this.#memoryInfo = memoryInfo
    this.session = openSession(api, environment, { model: identityModel(), threads: 1, append, config: {} })
    const host = this.#hostBytes(64)
    try {
      this.#copy(host, host)
    } catch (error) {
      this.session.resource.release()
      throw error
    } finally {
      host.resource.release()
    }
  }

  /** Zeroes a tensor wherever it lies. */
  zero(tensor: NativeTensor): void {
    const zeros = this.#hostBytes(Math.min(CHUNK_BYTES, tensor.byteLength))
    try {
      for (let byteOffset = 0; byteOffset < tensor.byteLength; byteOffset += CHUNK_BYTES) {
        const shape = [Math.min(CHUNK_BYTES, tensor.byteLength - byteOffset)]
        const source = createView(this.#api, zeros, { type: 'u8', shape, byteOffset: 0 })
        const target = createView(this.#api, tensor, { type: 'u8', shape, byteOffset })
        this.#copy(source, target)
        source.resource.release()
        target.resource.release()
      }
    } finally {
      zeros.resource.release()
    }
  }

  #copy(source: NativeTensor, target: NativeTensor): void {
    const api = this.#api
    const runOptions = pointerOut((out) => api.CreateRunOptions(out))
    const binding = pointerOut((out) => api.CreateIoBinding(this.session.handle, out))
    try {
      api.BindInput(binding, 'x', source.value)
      api.BindOutput(binding, 'y', target.value)
      api.SynchronizeBoundInputs(binding)
      api.RunWithBinding(this.session.handle, runOptions, binding)
    } finally {
      api.ReleaseIoBinding(binding)
      api.ReleaseRunOptions(runOptions)
    }
  }

  #hostBytes(length: number): NativeTensor {
    return createHostTensor(this.#api, {
      type: 'u8',
      shape: [length],
      memoryInfo: this.#memoryInfo,
      copiedAtBind: false,
    })
  }
}

/**
 * ONNX ModelProto of `y = Identity(x)`, u8 [n], opset 20. Written by hand, field by field (onnx.proto3), since the runtime
 * stands below the graph builder.
 */
function identityModel(): Uint8Array {
  const dimension = field(1, field(2, text('n')))
  const u8 = varint(1, 2)
  const type = field(2, field(1, [...u8, ...field(2, dimension)]))
  const value = (name: string) => [...field(1, text(name)), ...type]
  const node = [...field(1, text('x')), ...field(2, text('y')), ...field(4, text('Identity'))]
  const graph = [...field(1, node), ...field(2, text('probe')), ...field(11, value('x')), ...field(12, value('y'))]
  const irVersion = varint(1, 10)
  const opset = field(8, varint(2, 20))
  return Uint8Array.from([...irVersion, ...field(7, graph), ...opset])
}

/** A length-delimited protobuf field of less than 128 bytes. */
function field(number: number, bytes: readonly number[]): number[] {
  return [(number << 3) | 2, bytes.length, ...bytes]
}

/** A protobuf field of a number below 128. */
function varint(number: number, value: number): number[] {
  return [number << 3, value]
}

function text(value: string): number[] {
  return [...Buffer.from(value)]
}
