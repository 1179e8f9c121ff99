import { DeviceError, LibraryError, OrtError, OutOfMemoryError } from '../errors.js'
import type { Failure } from './messages.js'

/** What of an error the other thread needs to make it anew. */
export function toFailure(error: unknown): Failure {
  if (error instanceof OrtError) {
    return { name: 'OrtError', call: error.call, ortCode: error.ortCode, message: error.reason }
  }
  if (error instanceof OutOfMemoryError) {
    return { name: 'OutOfMemoryError', byteLength: error.byteLength, place: error.place }
  }
  for (const [name, type] of [
    ['DeviceError', DeviceError],
    ['LibraryError', LibraryError],
    ['TypeError', TypeError],
  ] as const) {
    if (error instanceof type) return { name, message: error.message }
  }
  return { name: 'Error', message: error instanceof Error ? (error.stack ?? error.message) : String(error) }
}

/** The error of the other thread, with the stack of the call that brought it about. */
export function fromFailure(failure: Failure): Error {
  switch (failure.name) {
    case 'OrtError':
      return new OrtError(failure.call, failure.ortCode, failure.message)
    case 'OutOfMemoryError':
      return new OutOfMemoryError(failure.byteLength, failure.place)
    case 'DeviceError':
      return new DeviceError(failure.message)
    case 'LibraryError':
      return new LibraryError(failure.message)
    case 'TypeError':
      return new TypeError(failure.message)
    case 'Error':
      return new Error(`The ONNX Runtime thread failed: ${failure.message}`)
  }
}
