/**
 * Calls every C function of api.ts once by its name, on the CPU, and writes down which; the test compares. In a process of
 * its own, since a wrong signature is a crash.
 */
import { join } from 'node:path'
import { OrtError } from '../../../model/errors.js'
import {
  type Api,
  addressOf,
  bindApi,
  intOut,
  pointerOut,
  readString,
  SIGNATURES,
  sizeOut,
} from '../../../model/runtime/api.js'
import { loadLibrary } from '../../../model/runtime/library.js'
import { addGraph } from '../graphs.js'

const folder = process.argv[2]!
const called = new Set<string>()
const api = new Proxy(bindApi(loadLibrary()), {
  get(target, name: keyof Api) {
    called.add(name)
    return target[name]
  },
}) as Api

function assert(condition: boolean, message: string): void {
  if (!condition) throw new Error(message)
}

/** The error that a call ends with. */
function errorOf(call: () => void): OrtError {
  try {
    call()
  } catch (error) {
    if (error instanceof OrtError) return error
    throw error
  }
  throw new Error('It was to fail, and did not.')
}

// Environment and build
const environment = pointerOut((out) => api.CreateEnv(4, 'test', out))
assert(/git-commit-id=/.test(api.GetBuildInfoString()), 'build info')

// Session options
const options = pointerOut((out) => api.CreateSessionOptions(out))
api.SetSessionExecutionMode(options, 0)
api.SetSessionGraphOptimizationLevel(options, 99)
api.SetIntraOpNumThreads(options, 1)
api.DisableMemPattern(options)
api.SetOptimizedModelFilePath(options, join(folder, 'optimized-ä.onnx'))
api.AddSessionConfigEntry(options, 'session.intra_op.allow_spinning', '0')
const unknown = errorOf(() => api.SetSessionGraphOptimizationLevel(options, 12345))
assert(unknown.ortCode === 2 && unknown.call === 'SetSessionGraphOptimizationLevel', `code ${unknown.ortCode}`)

// CUDA: without its provider library the options can be made, and not used.
const cuda = pointerOut((out) => api.CreateCUDAProviderOptions(out))
for (const call of [
  () => api.UpdateCUDAProviderOptions(cuda, ['device_id', 'use_tf32'], ['0', '1'], 2),
  () => api.SessionOptionsAppendExecutionProvider_CUDA_V2(options, cuda),
]) {
  const error = errorOf(call)
  assert(error.ortCode === 1 && /shared library|providers_shared/.test(error.message), error.message)
}
api.ReleaseCUDAProviderOptions(cuda)

// Sessions
const graph = addGraph()
const session = pointerOut((out) =>
  api.CreateSessionFromArray(environment, addressOf(graph), graph.byteLength, options, out),
)
const plain = pointerOut((out) => api.CreateSessionOptions(out))
const saved = pointerOut((out) => api.CreateSession(environment, join(folder, 'optimized-ä.onnx'), plain, out))
api.ReleaseSession(saved)
api.ReleaseSessionOptions(plain)
api.ReleaseSessionOptions(options)

const allocator = pointerOut((out) => api.GetAllocatorWithDefaultOptions(out))
assert(sizeOut((out) => api.SessionGetInputCount(session, out)) === 2, 'input count')
assert(sizeOut((out) => api.SessionGetOutputCount(session, out)) === 1, 'output count')
const names = [
  pointerOut((out) => api.SessionGetInputName(session, 1, allocator, out)),
  pointerOut((out) => api.SessionGetOutputName(session, 0, allocator, out)),
]
assert(names.map(readString).join() === 'y,z', 'names')
for (const name of names) api.AllocatorFree(allocator, name)
for (const typeInfo of [
  pointerOut((out) => api.SessionGetInputTypeInfo(session, 0, out)),
  pointerOut((out) => api.SessionGetOutputTypeInfo(session, 0, out)),
]) {
  const info = pointerOut((out) => api.CastTypeInfoToTensorInfo(typeInfo, out))
  assert(intOut((out) => api.GetTensorElementType(info, out)) === 1, 'element type')
  assert(sizeOut((out) => api.GetDimensionsCount(info, out)) === 2, 'rank')
  const dimensions = new BigInt64Array(2)
  api.GetDimensions(info, dimensions, 2)
  assert(dimensions.join() === '-1,4', 'dimensions')
  api.ReleaseTypeInfo(typeInfo)
}
assert(errorOf(() => pointerOut((out) => api.SessionGetInputName(session, 9, allocator, out))).ortCode === 1, 'index 9')

// Memory and tensors: one from an allocator, one over memory of ours
const memory = pointerOut((out) => api.CreateMemoryInfo('Cpu', 0, 0, 0, out))
const own = pointerOut((out) => api.CreateAllocator(session, memory, out))
const shape = BigInt64Array.of(1n, 4n)
const allocated = pointerOut((out) => api.CreateTensorAsOrtValue(own, shape, 2, 1, out))
assert(pointerOut((out) => api.GetTensorMutableData(allocated, out)) % 16n === 0n, 'alignment')
const bytes = new Uint8Array(new SharedArrayBuffer(16))
new Float32Array(bytes.buffer).set([1, 2, 3, 4])
const borrowed = pointerOut((out) => api.CreateTensorWithDataAsOrtValue(memory, addressOf(bytes), 16, shape, 2, 1, out))
assert(pointerOut((out) => api.GetTensorMutableData(borrowed, out)) === addressOf(bytes), 'address')

// Runs: z = x + x, in place; then one that was ended before it began
const binding = pointerOut((out) => api.CreateIoBinding(session, out))
const runOptions = pointerOut((out) => api.CreateRunOptions(out))
api.AddRunConfigEntry(runOptions, 'gpu_graph_id', '-1')
api.BindInput(binding, 'x', borrowed)
api.BindInput(binding, 'y', borrowed)
api.BindOutput(binding, 'z', borrowed)
api.SynchronizeBoundInputs(binding)
api.RunWithBinding(session, runOptions, binding)
assert(new Float32Array(bytes.buffer).join() === '2,4,6,8', 'sum')
api.RunOptionsSetTerminate(runOptions)
const terminated = errorOf(() => api.RunWithBinding(session, runOptions, binding))
assert(terminated.message.includes('terminate'), terminated.message)
api.RunOptionsUnsetTerminate(runOptions)
api.RunWithBinding(session, runOptions, binding)
assert(new Float32Array(bytes.buffer).join() === '4,8,12,16', 'sum again')

api.ReleaseRunOptions(runOptions)
api.ReleaseIoBinding(binding)
api.ReleaseValue(borrowed)
api.ReleaseValue(allocated)
api.ReleaseAllocator(own)
api.ReleaseMemoryInfo(memory)
api.ReleaseSession(session)
api.ReleaseEnv(environment)

// What C would not survive is refused before it gets there.
assert(errorOf(() => api.ReleaseSession(0n)).message.includes('null pointer'), 'null')
assert(errorOf(() => api.BindInput(1n, 'a\0b', 1n)).message.includes('NUL'), 'NUL')

// Each error above went through these three.
for (const name of ['GetErrorCode', 'GetErrorMessage', 'ReleaseStatus']) called.add(name)
process.send!({ called: [...called].sort(), declared: Object.keys(SIGNATURES).sort() })
