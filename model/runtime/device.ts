import { DeviceError, OrtError } from '../errors.js'
import { type Api, pointerOut } from './api.js'
import { isLoadable } from './library.js'
import type { Device } from './types.js'

export interface DeviceOptions {
  /** 'auto': the GPU where ONNX Runtime can use it, the CPU elsewhere. */
  readonly device: 'auto' | 'cpu' | 'cuda'
  /** CUDA ordinal. */
  readonly deviceId: number
  /** Most bytes that one session's arena takes on the GPU; undefined: all of it. */
  readonly memoryLimitBytes?: number | undefined
  /** TensorFloat-32 in f32 matrix products of the GPU: faster, with 10 bits of fraction. */
  readonly tf32: boolean
}

/** Appends the execution provider of a device to session options; on a GPU with graphs, where runs are to be captured. */
export type AppendDevice = (sessionOptions: bigint, capture: boolean) => void

/** cuDNN serves convolutions, which Gemma has none of, and one kind of attention on Hopper; it is often not installed. */
const CUDNN = process.platform === 'win32' ? 'cudnn64_9.dll' : 'libcudnn.so.9'

/**
 * Chooses the device and proves that it works.
 *
 * @param prove  opens a session with the given provider and runs it once; throws where that fails.
 * @throws {DeviceError} 'cuda' was asked for, and cannot be had.
 */
export function chooseDevice(
  api: Api,
  options: DeviceOptions,
  prove: (append: AppendDevice) => void,
): { device: Device; append: AppendDevice } {
  const cpu: AppendDevice = () => {}
  if (options.device === 'cpu') {
    prove(cpu)
    return { device: { kind: 'cpu', id: 0 }, append: cpu }
  }
  const cuda: AppendDevice = (sessionOptions, capture) => appendCuda(api, sessionOptions, options, capture)
  try {
    prove(cuda)
    return { device: { kind: 'cuda', id: options.deviceId }, append: cuda }
  } catch (error) {
    if (!(error instanceof OrtError)) throw error
    const reason = `CUDA device ${options.deviceId} cannot be used: ${plainReason(error.reason)}`
    if (options.device === 'cuda') {
      throw new DeviceError(
        `${reason} Check the driver (nvidia-smi), the CUDA 13 libraries and onnxruntime-node's CUDA provider ` +
          '(docs/runtime.md), or set DEVICE=cpu.',
        { cause: error },
      )
    }
    prove(cpu)
    return { device: { kind: 'cpu', id: 0, fallbackReason: reason }, append: cpu }
  }
}

/** The options of the CUDA execution provider, by the names that it knows (cuda_execution_provider_info.cc). */
export function cudaProviderOptions(options: DeviceOptions, hasCudnn: boolean): Readonly<Record<string, string>> {
  return {
    device_id: String(options.deviceId),
    // We allocate the KV cache ourselves and once: doubling the arena would only waste what is left.
    arena_extend_strategy: 'kSameAsRequested',
    use_tf32: options.tf32 ? '1' : '0',
    enable_cudnn: hasCudnn ? '1' : '0',
    ...(options.memoryLimitBytes === undefined ? {} : { gpu_mem_limit: String(options.memoryLimitBytes) }),
  }
}

function appendCuda(api: Api, sessionOptions: bigint, options: DeviceOptions, capture: boolean): void {
  const handle = pointerOut((out) => api.CreateCUDAProviderOptions(out))
  try {
    // The ordinal alone first: it is checked at once, so that its error says that there is no driver, or no such GPU.
    api.UpdateCUDAProviderOptions(handle, ['device_id'], [String(options.deviceId)], 1)
    // All in one call, since each call sets every option that it does not name back to its default
    // (UpdateProviderOptions in cuda_provider_factory.cc).
    const all = { ...cudaProviderOptions(options, isLoadable(CUDNN)), ...(capture ? { enable_cuda_graph: '1' } : {}) }
    api.UpdateCUDAProviderOptions(handle, Object.keys(all), Object.values(all), Object.keys(all).length)
    api.SessionOptionsAppendExecutionProvider_CUDA_V2(sessionOptions, handle)
    // Weights go to the GPU past the arena, which would otherwise keep their copies from before they were packed.
    api.AddSessionConfigEntry(sessionOptions, 'session.use_device_allocator_for_initializers', '1')
    // A run that is captured must not allocate: with patterns, the one after the first takes its memory in another way.
    if (capture) api.DisableMemPattern(sessionOptions)
  } finally {
    api.ReleaseCUDAProviderOptions(handle)
  }
}

/** The first line of a message, without the source path and the code that ONNX Runtime puts before its reason. */
function plainReason(message: string): string {
  const line = message
    .split('\n', 1)[0]!
    .replace(/^.*\[ONNXRuntimeError\] : \d+ : \w+ : /, '')
    .trim()
  return line.endsWith('.') ? line : `${line}.`
}
