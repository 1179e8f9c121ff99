import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import koffi, { type LibraryHandle, type TypeObject } from 'koffi'
import { LibraryError } from '../errors.js'

/** The API table that this code was written against; it only grows at its end, so later libraries have it too. */
const API_VERSION = 30
const WANTED_VERSION = '1.30'
const MEND = 'Run `npm ci` (or `npm install onnxruntime-node@1.30.0`) in the folder that holds package.json.'

/** Where the package keeps its library, by `platform-arch`. It ships none for Intel Macs, nor for 32-bit machines. */
const LIBRARY_FILES: Readonly<Record<string, string>> = {
  'linux-x64': 'linux/x64/libonnxruntime.so.1',
  'linux-arm64': 'linux/arm64/libonnxruntime.so.1',
  'darwin-arm64': 'darwin/arm64/libonnxruntime.1.dylib',
  'win32-x64': 'win32/x64/onnxruntime.dll',
}

/**
 * Handles of this thread, held to its end: koffi unloads a library whose handle is collected, and the addresses that we
 * took from its table would then lead nowhere.
 */
const held = new Map<string, LibraryHandle>()

export interface Library {
  readonly path: string
  /** As the library says itself, "1.30.0". */
  readonly version: string
  /** Address of the OrtApi table: 426 function pointers in 1.30. */
  readonly table: bigint
}

/** What of the machine decides which library is taken; tests give others. */
export interface Machine {
  readonly platform: string
  readonly arch: string
  /** The folder of the installed onnxruntime-node package. */
  readonly packageFolder: string
}

/**
 * Finds the ONNX Runtime library of the installed onnxruntime-node package. Nothing is loaded yet.
 *
 * @returns its absolute path.
 * @throws {LibraryError} the package has no library for this platform, or the file is missing.
 */
export function findLibrary(machine: Machine = thisMachine()): string {
  const platform = `${machine.platform}-${machine.arch}`
  const file = LIBRARY_FILES[platform]
  if (file === undefined) {
    throw new LibraryError(
      `ONNX Runtime ${WANTED_VERSION} has no library for ${platform}. Supported: ${Object.keys(LIBRARY_FILES).join(', ')}. ` +
        'Run on one of these, for example in the Linux container image.',
    )
  }
  const path = join(machine.packageFolder, 'bin', 'napi-v6', ...file.split('/'))
  if (!existsSync(path)) {
    throw new LibraryError(`The ONNX Runtime ${WANTED_VERSION} library for ${platform} is missing at ${path}. ${MEND}`)
  }
  return path
}

/**
 * Loads the library into this process (once: a second thread or call gets the same copy) and checks its version.
 *
 * @throws {LibraryError} it cannot be loaded, is not ONNX Runtime, or is of another version. Names path, wanted, found.
 */
export function loadLibrary(path: string = findLibrary()): Library {
  // Read when the first environment is created; from then on ONNX Runtime would keep a session file and send events.
  setEnvironmentVariable('ORT_DISABLE_TELEMETRY', '1')

  let getApiBase: () => bigint | null
  try {
    const handle = held.get(path) ?? koffi.load(path)
    held.set(path, handle)
    getApiBase = handle.func('OrtGetApiBase', 'void *', []) as () => bigint | null
  } catch (error) {
    throw new LibraryError(`${path} cannot be loaded as ONNX Runtime: ${(error as Error).message}. ${MEND}`, {
      cause: error,
    })
  }
  const base = getApiBase()
  if (base === null) throw new LibraryError(`${path}: OrtGetApiBase() gave nothing. ${MEND}`)

  // struct OrtApiBase { const OrtApi* (*GetApi)(uint32_t version); const char* (*GetVersionString)(void); }
  const getVersion = functionAt(base, 1, koffi.proto('str', [])) as () => string
  const version = getVersion()
  if (!version.startsWith(`${WANTED_VERSION}.`)) {
    throw new LibraryError(`${path} is ONNX Runtime ${version}, but this code needs ${WANTED_VERSION}. ${MEND}`)
  }
  const getApi = functionAt(base, 0, koffi.proto('void *', ['uint32_t'])) as (version: number) => bigint | null
  const table = getApi(API_VERSION)
  if (table === null) {
    throw new LibraryError(`${path} (ONNX Runtime ${version}) does not offer API version ${API_VERSION}. ${MEND}`)
  }
  return { path, version, table }
}

/** Whether the dynamic loader finds a library of this name, for optional ones such as cuDNN. */
export function isLoadable(name: string): boolean {
  try {
    koffi.load(name).unload()
    return true
  } catch {
    return false
  }
}

/** The function whose pointer is entry `index` of the table at `table`. */
export function functionAt(table: bigint, index: number, prototype: TypeObject): (...values: never[]) => unknown {
  const pointer = koffi.decode(table, index * koffi.sizeof('void *'), 'void *') as bigint
  return koffi.decode(pointer, prototype) as (...values: never[]) => unknown
}

const PAGE_BYTES = 16_384 // The largest of the pages that our platforms have: macOS on ARM.
const MADV_DONTNEED = 4 // Linux: the pages are gone at once, and read as zeros.
const MADV_FREE = 5 // macOS: they are taken when somebody needs them.

let madvise: ((address: bigint, length: number, advice: number) => number) | undefined

/**
 * Gives the pages of a memory range back to the system, which stays readable and writable: for memory that JavaScript
 * still refers to, and would free only when its collector comes by. Does nothing where the system offers no such thing.
 *
 * @param address  of the first byte; what is left of the pages at both ends stays as it is.
 */
export function discardPages(address: bigint, byteLength: number): void {
  const advice = { linux: MADV_DONTNEED, darwin: MADV_FREE }[process.platform as string]
  if (advice === undefined) return
  const skipped = Number(-address & BigInt(PAGE_BYTES - 1))
  const length = Math.floor((byteLength - skipped) / PAGE_BYTES) * PAGE_BYTES
  if (length <= 0) return
  madvise ??= koffi.load(null).func('madvise', 'int', ['uint64_t', 'size_t', 'int'])
  madvise(address + BigInt(skipped), length, advice)
}

function thisMachine(): Machine {
  const packageFile = createRequire(import.meta.url).resolve('onnxruntime-node/package.json')
  return { platform: process.platform, arch: process.arch, packageFolder: dirname(packageFile) }
}

/**
 * Sets a variable in the environment that C's getenv() reads, unless the user has set it. Node's own copy does not do on
 * a worker thread, where `process.env` is a JavaScript object and nothing more.
 */
function setEnvironmentVariable(name: string, value: string): void {
  if (process.platform === 'win32') {
    const ucrt = koffi.load('ucrtbase.dll')
    const getenv = ucrt.func('getenv', 'str', ['str'])
    if (getenv(name) === null) ucrt.func('_putenv_s', 'int', ['str', 'str'])(name, value)
    return
  }
  const keep = 0
  koffi.load(null).func('setenv', 'int', ['str', 'str', 'int'])(name, value, keep)
}
