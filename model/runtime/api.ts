import koffi from 'koffi'
import { OrtError } from '../errors.js'
import { functionAt, type Library } from './library.js'

/** C types that occur in the signatures below: what koffi calls them, and what JavaScript passes for them. */
const C_TYPES = {
  int: 'int',
  size: 'size_t',
  string: 'str',
  // ORTCHAR_T: wide characters on Windows, bytes elsewhere.
  path: process.platform === 'win32' ? 'str16' : 'str',
  strings: 'const char **',
  // Any Ort… * and plain memory. koffi's pointers are bigints, so they can be sent to another thread.
  pointer: 'void *',
  int64s: 'void *',
  'pointer out': 'void *',
  'size out': 'void *',
  'int out': 'void *',
} as const

interface JsTypes {
  int: number
  size: number
  string: string
  path: string
  strings: readonly string[]
  pointer: bigint
  int64s: BigInt64Array
  /** Out-parameters: an array of one, which C writes in place. */
  'pointer out': BigUint64Array
  'size out': BigUint64Array
  'int out': Int32Array
}

type CType = keyof typeof C_TYPES
type Parameter = readonly [name: string, type: CType]

interface Signature {
  /** Position in struct OrtApi (onnxruntime_c_api.h), from 0. The table only grows at its end. */
  readonly index: number
  /** 'status': an OrtStatus *, null for success, which is checked and freed here. */
  readonly returns: 'status' | 'void' | 'int' | 'string'
  readonly parameters: readonly Parameter[]
}

/**
 * Every C function that we call. Names, order and widths are those of onnxruntime_c_api.h, version 30: a wrong one is a
 * crash, or worse, none.
 */
export const SIGNATURES = {
  // Statuses
  GetErrorCode: { index: 1, returns: 'int', parameters: [['status', 'pointer']] },
  GetErrorMessage: { index: 2, returns: 'string', parameters: [['status', 'pointer']] },
  ReleaseStatus: { index: 93, returns: 'void', parameters: [['input', 'pointer']] },

  // Environment
  CreateEnv: {
    index: 3,
    returns: 'status',
    parameters: [
      ['log_severity_level', 'int'],
      ['logid', 'string'],
      ['out', 'pointer out'],
    ],
  },
  ReleaseEnv: { index: 92, returns: 'void', parameters: [['input', 'pointer']] },
  GetBuildInfoString: { index: 254, returns: 'string', parameters: [] },

  // Session options
  CreateSessionOptions: { index: 10, returns: 'status', parameters: [['options', 'pointer out']] },
  ReleaseSessionOptions: { index: 100, returns: 'void', parameters: [['input', 'pointer']] },
  SetOptimizedModelFilePath: {
    index: 11,
    returns: 'status',
    parameters: [
      ['options', 'pointer'],
      ['optimized_model_filepath', 'path'],
    ],
  },
  SetSessionExecutionMode: {
    index: 13,
    returns: 'status',
    parameters: [
      ['options', 'pointer'],
      ['execution_mode', 'int'],
    ],
  },
  SetSessionGraphOptimizationLevel: {
    index: 23,
    returns: 'status',
    parameters: [
      ['options', 'pointer'],
      ['graph_optimization_level', 'int'],
    ],
  },
  DisableMemPattern: { index: 17, returns: 'status', parameters: [['options', 'pointer']] },
  SetIntraOpNumThreads: {
    index: 24,
    returns: 'status',
    parameters: [
      ['options', 'pointer'],
      ['intra_op_num_threads', 'int'],
    ],
  },
  AddSessionConfigEntry: {
    index: 130,
    returns: 'status',
    parameters: [
      ['options', 'pointer'],
      ['config_key', 'string'],
      ['config_value', 'string'],
    ],
  },

  // CUDA
  CreateCUDAProviderOptions: { index: 205, returns: 'status', parameters: [['out', 'pointer out']] },
  ReleaseCUDAProviderOptions: { index: 208, returns: 'void', parameters: [['input', 'pointer']] },
  UpdateCUDAProviderOptions: {
    index: 206,
    returns: 'status',
    parameters: [
      ['cuda_options', 'pointer'],
      ['provider_options_keys', 'strings'],
      ['provider_options_values', 'strings'],
      ['num_keys', 'size'],
    ],
  },
  SessionOptionsAppendExecutionProvider_CUDA_V2: {
    index: 204,
    returns: 'status',
    parameters: [
      ['options', 'pointer'],
      ['cuda_options', 'pointer'],
    ],
  },

  // Sessions
  CreateSession: {
    index: 7,
    returns: 'status',
    parameters: [
      ['env', 'pointer'],
      ['model_path', 'path'],
      ['options', 'pointer'],
      ['out', 'pointer out'],
    ],
  },
  CreateSessionFromArray: {
    index: 8,
    returns: 'status',
    parameters: [
      ['env', 'pointer'],
      ['model_data', 'pointer'],
      ['model_data_length', 'size'],
      ['options', 'pointer'],
      ['out', 'pointer out'],
    ],
  },
  ReleaseSession: { index: 95, returns: 'void', parameters: [['input', 'pointer']] },
  SessionGetInputCount: {
    index: 30,
    returns: 'status',
    parameters: [
      ['session', 'pointer'],
      ['out', 'size out'],
    ],
  },
  SessionGetOutputCount: {
    index: 31,
    returns: 'status',
    parameters: [
      ['session', 'pointer'],
      ['out', 'size out'],
    ],
  },
  SessionGetInputTypeInfo: {
    index: 33,
    returns: 'status',
    parameters: [
      ['session', 'pointer'],
      ['index', 'size'],
      ['type_info', 'pointer out'],
    ],
  },
  SessionGetOutputTypeInfo: {
    index: 34,
    returns: 'status',
    parameters: [
      ['session', 'pointer'],
      ['index', 'size'],
      ['type_info', 'pointer out'],
    ],
  },
  SessionGetInputName: {
    index: 36,
    returns: 'status',
    parameters: [
      ['session', 'pointer'],
      ['index', 'size'],
      ['allocator', 'pointer'],
      ['value', 'pointer out'],
    ],
  },
  SessionGetOutputName: {
    index: 37,
    returns: 'status',
    parameters: [
      ['session', 'pointer'],
      ['index', 'size'],
      ['allocator', 'pointer'],
      ['value', 'pointer out'],
    ],
  },
  ReleaseTypeInfo: { index: 98, returns: 'void', parameters: [['input', 'pointer']] },
  // The result lies inside the type info and is not released; null where the value is no tensor.
  CastTypeInfoToTensorInfo: {
    index: 55,
    returns: 'status',
    parameters: [
      ['type_info', 'pointer'],
      ['out', 'pointer out'],
    ],
  },
  GetTensorElementType: {
    index: 60,
    returns: 'status',
    parameters: [
      ['info', 'pointer'],
      ['out', 'int out'],
    ],
  },
  GetDimensionsCount: {
    index: 61,
    returns: 'status',
    parameters: [
      ['info', 'pointer'],
      ['out', 'size out'],
    ],
  },
  GetDimensions: {
    index: 62,
    returns: 'status',
    parameters: [
      ['info', 'pointer'],
      ['dim_values', 'int64s'],
      ['dim_values_length', 'size'],
    ],
  },

  // Memory
  GetAllocatorWithDefaultOptions: { index: 78, returns: 'status', parameters: [['out', 'pointer out']] },
  AllocatorFree: {
    index: 76,
    returns: 'status',
    parameters: [
      ['ort_allocator', 'pointer'],
      ['p', 'pointer'],
    ],
  },
  CreateMemoryInfo: {
    index: 68,
    returns: 'status',
    parameters: [
      ['name', 'string'],
      ['type', 'int'],
      ['id', 'int'],
      ['mem_type', 'int'],
      ['out', 'pointer out'],
    ],
  },
  ReleaseMemoryInfo: { index: 94, returns: 'void', parameters: [['input', 'pointer']] },
  CreateAllocator: {
    index: 131,
    returns: 'status',
    parameters: [
      ['session', 'pointer'],
      ['mem_info', 'pointer'],
      ['out', 'pointer out'],
    ],
  },
  ReleaseAllocator: { index: 132, returns: 'void', parameters: [['input', 'pointer']] },

  // Tensors
  CreateTensorAsOrtValue: {
    index: 48,
    returns: 'status',
    parameters: [
      ['allocator', 'pointer'],
      ['shape', 'int64s'],
      ['shape_len', 'size'],
      ['type', 'int'],
      ['out', 'pointer out'],
    ],
  },
  CreateTensorWithDataAsOrtValue: {
    index: 49,
    returns: 'status',
    parameters: [
      ['info', 'pointer'],
      ['p_data', 'pointer'],
      ['p_data_len', 'size'],
      ['shape', 'int64s'],
      ['shape_len', 'size'],
      ['type', 'int'],
      ['out', 'pointer out'],
    ],
  },
  GetTensorMutableData: {
    index: 51,
    returns: 'status',
    parameters: [
      ['value', 'pointer'],
      ['out', 'pointer out'],
    ],
  },
  ReleaseValue: { index: 96, returns: 'void', parameters: [['input', 'pointer']] },

  // Runs
  CreateRunOptions: { index: 39, returns: 'status', parameters: [['out', 'pointer out']] },
  ReleaseRunOptions: { index: 97, returns: 'void', parameters: [['input', 'pointer']] },
  AddRunConfigEntry: {
    index: 165,
    returns: 'status',
    parameters: [
      ['options', 'pointer'],
      ['config_key', 'string'],
      ['config_value', 'string'],
    ],
  },
  RunOptionsSetTerminate: { index: 46, returns: 'status', parameters: [['options', 'pointer']] },
  RunOptionsUnsetTerminate: { index: 47, returns: 'status', parameters: [['options', 'pointer']] },
  CreateIoBinding: {
    index: 134,
    returns: 'status',
    parameters: [
      ['session', 'pointer'],
      ['out', 'pointer out'],
    ],
  },
  ReleaseIoBinding: { index: 135, returns: 'void', parameters: [['input', 'pointer']] },
  BindInput: {
    index: 136,
    returns: 'status',
    parameters: [
      ['binding_ptr', 'pointer'],
      ['name', 'string'],
      ['val_ptr', 'pointer'],
    ],
  },
  BindOutput: {
    index: 137,
    returns: 'status',
    parameters: [
      ['binding_ptr', 'pointer'],
      ['name', 'string'],
      ['val_ptr', 'pointer'],
    ],
  },
  // Waits for the copies that BindInput has begun.
  SynchronizeBoundInputs: { index: 202, returns: 'status', parameters: [['binding_ptr', 'pointer']] },
  RunWithBinding: {
    index: 133,
    returns: 'status',
    parameters: [
      ['session', 'pointer'],
      ['run_options', 'pointer'],
      ['binding_ptr', 'pointer'],
    ],
  },
} as const satisfies Readonly<Record<string, Signature>>

interface Results {
  status: undefined
  void: undefined
  int: number
  string: string
}

type Values<P extends readonly Parameter[]> = { readonly [I in keyof P]: JsTypes[P[I][1]] }
type Call<S extends Signature> = (...values: Values<S['parameters']>) => Results[S['returns']]

/** The C API as functions of their C names. One that returns a status throws OrtError where C reports a failure. */
export type Api = { readonly [N in keyof typeof SIGNATURES]: Call<(typeof SIGNATURES)[N]> }

type Raw = (...values: unknown[]) => unknown

/** Binds every function of SIGNATURES to the library's table. Cheap enough for each thread to do it for itself. */
export function bindApi(library: Library): Api {
  const raw = new Map<string, Raw>()
  for (const [name, signature] of Object.entries<Signature>(SIGNATURES)) {
    raw.set(name, functionAt(library.table, signature.index, prototypeOf(signature)) as Raw)
  }
  const released = raw.get('ReleaseStatus')!
  const errorOf = (call: string, status: bigint): OrtError => {
    const code = raw.get('GetErrorCode')!(status) as number
    const message = raw.get('GetErrorMessage')!(status) as string
    released(status)
    return new OrtError(call, code, message)
  }

  const api: Record<string, Raw> = {}
  for (const [name, signature] of Object.entries<Signature>(SIGNATURES)) {
    const call = raw.get(name)!
    api[name] = (...values) => {
      for (const [index, [, type]] of signature.parameters.entries()) assertPassable(name, type, values[index])
      const result = call(...values)
      if (signature.returns !== 'status') return result
      if (result !== null) throw errorOf(name, result as bigint)
      return undefined
    }
  }
  return api as unknown as Api
}

/**
 * Calls a function with one out-parameter and returns the handle that it wrote.
 *
 * @returns the address; 0n where C wrote null.
 */
export function pointerOut(call: (out: BigUint64Array) => void): bigint {
  const out = new BigUint64Array(1)
  call(out)
  return out[0]!
}

/** As pointerOut, for a count. */
export function sizeOut(call: (out: BigUint64Array) => void): number {
  return Number(pointerOut(call))
}

/** As pointerOut, for an int or an enum. */
export function intOut(call: (out: Int32Array) => void): number {
  const out = new Int32Array(1)
  call(out)
  return out[0]!
}

/** The text at an address, up to its NUL. */
export function readString(address: bigint): string {
  return koffi.decode.string(address)
}

/** Where a view's memory lies. The caller holds the view for as long as C may use the address. */
export function addressOf(bytes: Uint8Array): bigint {
  return koffi.address(bytes)
}

function prototypeOf({ returns, parameters }: Signature) {
  const result = { status: 'void *', void: 'void', int: 'int', string: 'str' }[returns]
  return koffi.proto(
    result,
    parameters.map(([, type]) => C_TYPES[type]),
  )
}

/** What TypeScript cannot see and C would not survive, or would cut short. */
function assertPassable(call: string, type: CType, value: unknown): void {
  if (type === 'pointer' && value === 0n) throw new OrtError(call, 2, 'a null pointer was to be passed')
  if ((type === 'string' || type === 'path') && (value as string).includes('\0')) {
    throw new OrtError(call, 2, `${JSON.stringify(value)} contains a NUL character, where C would end it`)
  }
}
