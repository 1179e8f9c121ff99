import type { LogSource, MetricMode, SetupLogLevel, SetupProgress } from './predictor.js'
import type { FileLimits } from './run-files.js'

/**
 * What crosses the border between the server and the process that hosts the Predictor. All of it is plain JSON, so
 * `undefined` and NaN do not survive: `fork` with `serialization: 'json'` needs 33 µs a round trip where structured clone
 * needs 48–115, and carries 1.8 million chunks a second in batches of 64 against 0.95 (Node 20.20, 2 cores).
 * A run is named by `key`, since two may share an id.
 */
export type ToWorker =
  | SetupMessage
  | PredictMessage
  | { readonly type: 'cancel'; readonly key: number }
  | { readonly type: 'healthcheck'; readonly call: number }
  | { readonly type: 'shutdown' }

/** A module, as an absolute path, and the name of what it exports. */
export interface ModuleExport {
  readonly file: string
  readonly name: string
}

/** What a run does. */
export type RunKind = 'prediction' | 'training'

export interface SetupMessage extends ModuleExport {
  readonly type: 'setup'
  /** The same of a training that stands elsewhere. */
  readonly train?: ModuleExport
  /** Variables that the process is to have, unless it has them. */
  readonly environment?: Readonly<Record<string, string>>
  readonly concurrency: number
  readonly files: FileLimits
  /** Most bytes of JSON that one prediction may tell; the host's own default if absent. */
  readonly outputBytes?: number
  /** Where temporary files go. It need not exist; the sender removes it when the worker has ended. */
  readonly folder: string
}

/** What the owner of a worker says; the worker itself knows the folder. */
export interface SetupRequest extends Omit<SetupMessage, 'folder'> {
  /** How long a setup may take, in milliseconds; then its process is ended. Default: as long as it likes. */
  readonly limitMs?: number
}

export interface PredictMessage {
  readonly type: 'predict'
  readonly key: number
  readonly kind: RunKind
  readonly id: string
  readonly input: Readonly<Record<string, unknown>>
  readonly context: Readonly<Record<string, string>>
}

/** From the worker. `batch` carries what all runs did in one turn of its event loop, in order. */
export type FromWorker =
  | { readonly type: 'log'; readonly line: string; readonly level: SetupLogLevel }
  | { readonly type: 'progress'; readonly report: SetupProgress }
  | ReadyMessage
  | { readonly type: 'setup-failed'; readonly reason: string }
  /** The Predictor has given up: what runs may still end, and nothing new shall come. */
  | { readonly type: 'defunct'; readonly reason: string }
  | { readonly type: 'health'; readonly call: number; readonly error: string | null }
  | { readonly type: 'batch'; readonly events: readonly RunEvent[] }

export interface ReadyMessage {
  readonly type: 'ready'
  /** The document for /openapi.json. */
  readonly document: OpenApiDocument
  readonly streaming: boolean
  /** Whether `output` is a list of pieces rather than one value. */
  readonly iterator: boolean
  /** The same of the training, if there is one. */
  readonly training?: { readonly iterator: boolean }
  readonly healthcheck: boolean
  readonly concurrency: number
}

/**
 * One thing that happened to a run. `rejected` or `ended` comes last and once. `accepted` comes first, unless the run was
 * rejected, failed or was canceled while its input was checked.
 */
export type RunEvent =
  | { readonly key: number; readonly kind: 'accepted' }
  | { readonly key: number; readonly kind: 'rejected'; readonly detail: readonly InputProblem[] }
  | { readonly key: number; readonly kind: 'output'; readonly chunk: unknown }
  | { readonly key: number; readonly kind: 'log'; readonly data: string; readonly source: LogSource }
  | {
      readonly key: number
      readonly kind: 'metric'
      readonly name: string
      readonly value: unknown
      readonly mode: MetricMode
    }
  | {
      readonly key: number
      readonly kind: 'ended'
      readonly status: 'succeeded' | 'failed' | 'canceled'
      /** Only when failed: what the client is told, and the error's class or code, which carries no user's text. */
      readonly error?: string
      readonly errorName?: string
    }

/** One entry of the `detail` of a 422, as Cog writes it. */
export interface InputProblem {
  readonly loc: readonly string[]
  readonly msg: string
  readonly type: 'value_error' | 'value_error.missing'
}

/** The OpenAPI 3.0 document of a Predictor, as far as the server reads it. */
export interface OpenApiDocument {
  readonly [key: string]: unknown
  readonly components: { readonly schemas: Readonly<Record<string, JsonSchema>> }
}

/** The part of JSON Schema (as OpenAPI 3.0 has it) that an input can be described with. */
export interface JsonSchema {
  readonly [key: string]: unknown
  readonly $ref?: string
  readonly allOf?: readonly JsonSchema[]
  readonly anyOf?: readonly JsonSchema[]
  readonly type?: 'string' | 'integer' | 'number' | 'boolean' | 'array' | 'object'
  readonly enum?: readonly unknown[]
  readonly nullable?: boolean
  readonly minimum?: number
  readonly maximum?: number
  readonly exclusiveMinimum?: boolean
  readonly exclusiveMaximum?: boolean
  readonly minLength?: number
  readonly maxLength?: number
  readonly pattern?: string
  readonly minItems?: number
  readonly maxItems?: number
  readonly items?: JsonSchema
  readonly properties?: Readonly<Record<string, JsonSchema>>
  readonly required?: readonly string[]
}

/** Sends messages to the worker and tells its listener what comes back, across its deaths and restarts. */
export interface Worker {
  /** Begins setup. Called once. The listener must not throw. */
  start(setup: SetupRequest, listener: (event: WorkerEvent) => void): void
  /** The process that lives now, or lived last, where it is one. */
  readonly pid?: number | undefined
  /** Does nothing while no worker lives; the `died` event has told the listener. */
  post(message: ToWorker): void
  /** Lets the Predictor tear down, within `limitMs`; then ends the worker whatever it does. */
  stop(limitMs: number): Promise<void>
}

/** `starting` comes before each setup; after `died` a new `starting` follows if `restarts`. */
export type WorkerEvent =
  | FromWorker
  | { readonly type: 'starting' }
  /** The setup took longer than it may; `died` follows. */
  | { readonly type: 'setup-timed-out' }
  | { readonly type: 'died'; readonly ending: string; readonly restarts: boolean }
