import { type Api, addressOf, intOut, pointerOut, readString, sizeOut } from './api.js'
import type { AppendDevice } from './device.js'
import { elementTypeOfCode } from './element-type.js'
import { Resource } from './resource.js'
import type { TensorInfo } from './types.js'

// onnxruntime_c_api.h: ExecutionMode, GraphOptimizationLevel.
const ORT_SEQUENTIAL = 0
const ORT_ENABLE_ALL = 99

/** Session config entries of a server that shares its cores; a caller's own entries override them. */
const SERVER_CONFIG: Readonly<Record<string, string>> = {
  // Idle threads that spin for work steal the cores of whoever else runs here: decode ×1.5 beside one busy process.
  'session.intra_op.allow_spinning': '0',
}

/** Where and how ONNX Runtime is to write the model that it has optimised and packed for this machine. */
export interface SaveOptions {
  /** The graph's file. */
  readonly graphFile: string
  /** The weights' file: a name, in the same folder. */
  readonly dataFileName: string
}

export interface NativeSession {
  /** OrtSession *. */
  readonly handle: bigint
  readonly inputs: readonly TensorInfo[]
  readonly outputs: readonly TensorInfo[]
  readonly resource: Resource
}

/**
 * Opens a model: parses, optimises and packs it, which takes seconds for billions of weights.
 *
 * @param options.model  the path of a file, with external data in its folder; or a graph's bytes.
 * @throws {OrtError} the model is not there, is broken, or has an operator that the device lacks.
 * @throws {TypeError} an input or output has a type that we have no tensors of.
 */
export function openSession(
  api: Api,
  environment: bigint,
  options: {
    model: string | Uint8Array
    threads: number
    append: AppendDevice
    config: Readonly<Record<string, string>>
    capture?: boolean
    save?: SaveOptions | undefined
  },
): NativeSession {
  const sessionOptions = pointerOut((out) => api.CreateSessionOptions(out))
  let handle: bigint
  try {
    api.SetSessionExecutionMode(sessionOptions, ORT_SEQUENTIAL)
    api.SetSessionGraphOptimizationLevel(sessionOptions, ORT_ENABLE_ALL)
    api.SetIntraOpNumThreads(sessionOptions, options.threads)
    if (options.save) setSave(api, sessionOptions, options.save)
    options.append(sessionOptions, options.capture ?? false)
    for (const [key, value] of Object.entries({ ...SERVER_CONFIG, ...options.config })) {
      api.AddSessionConfigEntry(sessionOptions, key, value)
    }
    handle = createSession(api, environment, options.model, sessionOptions)
  } finally {
    api.ReleaseSessionOptions(sessionOptions)
  }
  const resource = new Resource(() => api.ReleaseSession(handle))
  try {
    return { handle, inputs: describe(api, handle, 'Input'), outputs: describe(api, handle, 'Output'), resource }
  } catch (error) {
    resource.release()
    throw error
  }
}

function createSession(api: Api, environment: bigint, model: string | Uint8Array, sessionOptions: bigint): bigint {
  if (typeof model === 'string') {
    return pointerOut((out) => api.CreateSession(environment, model, sessionOptions, out))
  }
  // The bytes are parsed within the call, and not read after it.
  return pointerOut((out) =>
    api.CreateSessionFromArray(environment, addressOf(model), model.byteLength, sessionOptions, out),
  )
}

function setSave(api: Api, sessionOptions: bigint, save: SaveOptions): void {
  api.SetOptimizedModelFilePath(sessionOptions, save.graphFile)
  const entries = {
    'session.save_external_prepacked_constant_initializers': '1',
    'session.optimized_model_external_initializers_file_name': save.dataFileName,
    // Smaller ones stay in the graph's file.
    'session.optimized_model_external_initializers_min_size_in_bytes': '1024',
  }
  for (const [key, value] of Object.entries(entries)) api.AddSessionConfigEntry(sessionOptions, key, value)
}

function describe(api: Api, session: bigint, side: 'Input' | 'Output'): TensorInfo[] {
  const allocator = pointerOut((out) => api.GetAllocatorWithDefaultOptions(out))
  const count = sizeOut((out) => api[`SessionGet${side}Count`](session, out))
  return Array.from({ length: count }, (_, index) => {
    const text = pointerOut((out) => api[`SessionGet${side}Name`](session, index, allocator, out))
    const name = readString(text)
    api.AllocatorFree(allocator, text)

    const typeInfo = pointerOut((out) => api[`SessionGet${side}TypeInfo`](session, index, out))
    try {
      return { name, ...describeTensor(api, typeInfo, `${side} ${name}`) }
    } finally {
      api.ReleaseTypeInfo(typeInfo)
    }
  })
}

function describeTensor(api: Api, typeInfo: bigint, what: string): Omit<TensorInfo, 'name'> {
  const info = pointerOut((out) => api.CastTypeInfoToTensorInfo(typeInfo, out))
  if (info === 0n) throw new TypeError(`${what} of the model is no tensor (but a sequence, a map or optional).`)
  const code = intOut((out) => api.GetTensorElementType(info, out))
  const type = elementTypeOfCode(code)
  if (type === undefined)
    throw new TypeError(`${what} of the model has the element type ${code}, of which we have no tensors.`)
  const rank = sizeOut((out) => api.GetDimensionsCount(info, out))
  const dimensions = new BigInt64Array(rank)
  api.GetDimensions(info, dimensions, rank)
  return { type, shape: Array.from(dimensions, Number) }
}
