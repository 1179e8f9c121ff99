import { z } from 'zod'

/** What a Predictor may return: a plain zod schema for one value, or a stream of pieces. */
export type OutputType = z.ZodType | OutputStream

/** Output that comes in pieces. `display` tells clients to join them without a separator. */
export interface OutputStream<Item extends z.ZodType = z.ZodType> {
  readonly kind: 'stream'
  readonly item: Item
  readonly display?: 'concatenate'
}

/** Text that comes piece by piece and is read as one: Cog's `ConcatenateIterator[str]`. */
export function textStream() {
  return { kind: 'stream', item: z.string(), display: 'concatenate' } as const
}

/** Values that come one after another and stay apart: Cog's `Iterator[T]`. */
export function iterator<Item extends z.ZodType>(item: Item) {
  return { kind: 'stream', item } as const
}

/** True for `textStream()` and `iterator()`, false for a plain schema. */
export function isOutputStream(output: OutputType): output is OutputStream {
  return 'kind' in output && output.kind === 'stream'
}

/** What `predict` has to return for an output type. */
export type PredictResult<Output extends OutputType> =
  Output extends OutputStream<infer Item>
    ? AsyncIterable<z.input<Item>> | Iterable<z.input<Item>>
    : Output extends z.ZodType
      ? z.input<Output> | Promise<z.input<Output>>
      : never

/** One report of a long setup: `done` of `total`, both in `unit`. `total` is 0 while it is unknown. */
export interface SetupProgress {
  readonly phase: string
  readonly done: number
  readonly total: number
  readonly unit: string
}

export type SetupLogLevel = 'info' | 'warn'

/** What `setup` gets. */
export interface SetupContext {
  /** Fires when the server stops before setup is over. */
  readonly signal: AbortSignal
  /** How many predictions the server would run at once (`concurrency.max` of cog.yaml). */
  readonly concurrency: number
  /** Lowers that number, for example where memory is short. @throws {RangeError} outside 1 … `concurrency`. */
  limitConcurrency(max: number): void
  /** One line for the server's log, at this level (default `info`), and until setup is over for `setup.logs` in /health-check. */
  log(line: string, level?: SetupLogLevel): void
  progress(report: SetupProgress): void
  /**
   * Says that this process can serve no more, at any time after setup: the server turns `DEFUNCT` and sends nothing new, lets
   * what runs end for up to a second, and then sets the Predictor up in a fresh process. To be called before the predictions
   * that the reason ends have ended: a prediction that waits gets the first slot that is free.
   */
  defunct(reason: string): void
}

/** How a recorded metric joins what was recorded under the same name before: `replace` with null deletes. */
export type MetricMode = 'replace' | 'increment' | 'append'

/** Which of the two outputs of a program a log line stands for. */
export type LogSource = 'stdout' | 'stderr'

/** What `check` gets. */
export interface CheckContext {
  readonly id: string
  /** Fires when the client has left or the prediction was canceled. */
  readonly signal: AbortSignal
  /** The strings that the request carries in `context`; not validated. */
  readonly context: Readonly<Record<string, string>>
}

/**
 * Records metrics beside the server's own. A dot in the name makes nested objects: `timing.decode`.
 *
 * Names are Cog's: at most 128 characters in at most four segments of letters, digits and single underscores that begin
 * with a letter and do not end in an underscore; not `predict_time`, `total_time`, `cost` or `cog.…`. A metric keeps its
 * type until it is deleted. All three throw {@link TypeError} otherwise, and after the prediction has ended do nothing.
 */
export interface Metrics {
  /** Puts a value in the place of the last one; null deletes it. @param value must survive JSON. */
  set(name: string, value: unknown): void
  /** Adds to a number that begins at 0. @param by finite; default 1. */
  increment(name: string, by?: number): void
  /** Adds to the end of a list. @param value must survive JSON. */
  append(name: string, value: unknown): void
}

/** What whatever runs gets: `predict`, and the `run` of a training. */
export interface RunContext extends CheckContext {
  /** Adds a line to the prediction's `logs`. What is written with `console` or to `process.stdout` goes there, too. */
  log(line: string, source?: LogSource): void
  readonly metrics: Metrics
  /** A folder of this prediction's own, for output files and scratch; it is removed when the prediction ends. */
  folder(): Promise<string>
}

/** What `predict` gets. `prepared` is what `check` returned. */
export interface PredictContext<Prepared> extends RunContext {
  readonly prepared: Prepared
}

/**
 * How a model is trained: Cog's `train`, which is served at /trainings. Its schemas are its own and become `TrainingInput`
 * and `TrainingOutput` in /openapi.json.
 */
export interface Training<
  Input extends z.ZodObject = z.ZodObject,
  Output extends OutputType = OutputType,
  State = unknown,
> {
  readonly input: Input
  readonly output: Output
  /** Runs one training, by the rules of `predict`. Both take their slots from the same ones. */
  run(input: z.output<Input>, state: State, context: RunContext): PredictResult<Output>
}

/**
 * A model that the server can serve, as its author writes it.
 *
 * The one `input` schema validates requests, types `predict`'s parameter and becomes /openapi.json. `setup` runs once
 * before the first prediction; `check` and `predict` may run up to `concurrency` times at once.
 */
export interface Predictor<
  Input extends z.ZodObject = z.ZodObject,
  Output extends OutputType = OutputType,
  State = unknown,
  Prepared = unknown,
  TrainingInput extends z.ZodObject = z.ZodObject,
  TrainingOutput extends OutputType = OutputType,
> {
  readonly input: Input
  readonly output: Output
  /** Whether clients may ask for Server-Sent Events (`x-cog-streaming`). */
  readonly streaming: boolean
  /** What it returns is handed to all other functions. An error here means SETUP_FAILED. */
  setup?(context: SetupContext): State | Promise<State>
  /** Looks at an input before anything starts: throw {@link InputError} to refuse it with a 422. */
  check?(input: z.output<Input>, state: State, context: CheckContext): Prepared | Promise<Prepared>
  /**
   * Runs one prediction. It should end soon after `context.signal` fires, by returning or throwing: its slot is taken
   * until then. An error makes the prediction `failed`.
   */
  predict(input: z.output<Input>, state: State, context: PredictContext<Prepared>): PredictResult<Output>
  /** Without it, the paths of trainings are not there. */
  readonly train?: Training<TrainingInput, TrainingOutput, State>
  /** Asked at each GET /health-check, within 5 s. */
  healthcheck?(state: State): boolean | Promise<boolean>
  teardown?(state: State): void | Promise<void>
}

/**
 * Types a Predictor from its parts: `input` from the schema, `state` from what `setup` returns, `prepared` from what
 * `check` returns. Write them in that order; TypeScript infers from top to bottom.
 */
export function definePredictor<
  Input extends z.ZodObject,
  Output extends OutputType,
  State = undefined,
  Prepared = undefined,
  TrainingInput extends z.ZodObject = z.ZodObject,
  TrainingOutput extends OutputType = OutputType,
>(
  predictor: Predictor<Input, Output, State, Prepared, TrainingInput, TrainingOutput>,
): Predictor<Input, Output, State, Prepared, TrainingInput, TrainingOutput> {
  return predictor
}

/**
 * Types a training that stands in a module of its own, for a Predictor's `train` or for `train` in cog.yaml: `input` from the
 * schema, `state` from what `run` declares its second parameter as.
 */
export function defineTraining<Input extends z.ZodObject, Output extends OutputType, State = unknown>(
  training: Training<Input, Output, State>,
): Training<Input, Output, State> {
  return training
}

/** Thrown by `check`: one input cannot be served. The client gets a 422 that names the field. */
export class InputError extends Error {
  readonly field: string

  constructor(field: string, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'InputError'
    this.field = field
  }
}
