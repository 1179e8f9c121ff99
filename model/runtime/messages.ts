import type { DeviceOptions } from './device.js'
import type { SaveOptions } from './native-session.js'
import type { SharedBytes } from './native-tensor.js'
import type { Device, Place, TensorInfo, TensorType } from './types.js'

/** A native object on the worker thread, as the main thread names it. Never used twice. */
export type Id = number

/** What the main thread asks, by kind: its question and its answer. Answered in order. */
export interface Calls {
  openSession: {
    question: { model: string | Uint8Array; config: Readonly<Record<string, string>>; capture: boolean }
    answer: { id: Id; inputs: readonly TensorInfo[]; outputs: readonly TensorInfo[] }
  }
  /** Opens a model only to write down how it looks when packed. */
  savePacked: {
    question: { model: string; config: Readonly<Record<string, string>>; save: SaveOptions }
    answer: undefined
  }
  createTensor: {
    question: { type: TensorType; shape: readonly number[]; place: Place }
    answer: { id: Id; shared?: SharedBytes }
  }
  createView: {
    question: { owner: Id; type: TensorType; shape: readonly number[]; byteOffset: number }
    answer: { id: Id }
  }
  createBinding: { question: { session: Id }; answer: { id: Id } }
  run: { question: { bindings: readonly BindingRun[] }; answer: undefined }
  dispose: { question: { id: Id }; answer: undefined }
  /** Frees all that is left; the thread ends after its answer. */
  close: { question: Record<never, never>; answer: undefined }
}

export interface BindingRun {
  readonly binding: Id
  /** OrtRunOptions *, the asker's. */
  readonly runOptions: bigint
  readonly changes: readonly { side: 'input' | 'output'; name: string; tensor: Id }[]
}

export type Kind = keyof Calls
export type Question<K extends Kind = Kind> = { [P in K]: { kind: P; call: number } & Calls[P]['question'] }[K]

/** An error's way across the border: an object of this module is a class on one side only. */
export type Failure =
  | { name: 'OrtError'; call: string; ortCode: number; message: string }
  | { name: 'OutOfMemoryError'; byteLength: number; place: string }
  | { name: 'DeviceError' | 'LibraryError' | 'TypeError' | 'Error'; message: string }

export type Answer = { call: number; value: unknown } | { call: number; failure: Failure }

/** Sent once, before any answer: the thread is ready, or why it is not. */
export type Hello = { ready: Ready } | { failure: Failure }

export interface Ready {
  readonly device: Device
  /** "1.30.0", and the build that says it: commit and features. */
  readonly version: string
  readonly build: string
}

export interface WorkerOptions extends DeviceOptions {
  readonly libraryPath: string
  readonly threads: number
}
