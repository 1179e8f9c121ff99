import type { InputProblem } from './messages.js'

/**
 * Every error that the server answers or ends a stream with. `form` is how its message travels: `text` as it is,
 * `error` in `{"error"}`, `failed` in `{"error","status":"failed"}`, `detail` as the list of a 422, `empty` not at all.
 * Words in braces are filled in. docs/errors.md lists exactly these. Wording marked Cog is bound by its contract.
 */
export const ERRORS = {
  /** Cog: the words up to the first colon. */
  BODY_NOT_JSON: { status: 400, form: 'text', message: 'Failed to parse the request body as JSON: {reason}' },
  /** Cog. */
  BODY_TOO_LARGE: {
    status: 413,
    form: 'text',
    message: 'Failed to buffer the request body: length limit exceeded: it is over {limit} bytes',
  },
  /** The connection ended within the body: it is in the log at most. */
  BODY_INCOMPLETE: { status: 400, form: 'text', message: 'The connection ended before the request body did.' },
  RECEIVING_TOO_MUCH: {
    status: 503,
    form: 'failed',
    message: 'The server is receiving as many bytes of request bodies as it can hold. Send the request again.',
    retryAfterSeconds: 1,
  },
  /** Cog. */
  BODY_TYPE: { status: 415, form: 'text', message: 'Expected request with `Content-Type: application/json`' },
  /** Cog: the words up to the first colon. */
  BODY_SHAPE: {
    status: 422,
    form: 'text',
    message:
      'Failed to deserialize the JSON body into the target type: {field}invalid type: {found}, expected {wanted}',
  },
  /** Cog: the words up to the first colon. */
  DUPLICATE_FIELD: {
    status: 422,
    form: 'text',
    message: 'Failed to deserialize the JSON body into the target type: duplicate field `{field}`',
  },
  /** Cog. One entry for each broken rule; its wording is in docs/http.md. */
  INVALID_INPUT: { status: 422, form: 'detail', message: '' },
  /** Cog, which says `prediction ID`. */
  ID_MISMATCH: { status: 422, form: 'detail', message: '' },
  ID_TOO_LONG: { status: 422, form: 'detail', message: '' },
  CANCEL_AFTER: { status: 422, form: 'detail', message: '' },
  /** Cog. */
  INVALID_URL: { status: 400, form: 'text', message: 'Invalid URL: Invalid UTF-8 in `id`' },
  /** Cog. */
  STREAMING_NOT_SUPPORTED: {
    status: 406,
    form: 'error',
    message: 'This model does not support streaming responses. Add @cog.streaming to predict() to enable SSE.',
  },
  /** Cog. */
  TRAINING_STREAMS_NOT_SUPPORTED: {
    status: 406,
    form: 'error',
    message: 'Training endpoints do not support streaming responses.',
  },
  /** Cog. */
  TOO_MANY_READERS: { status: 429, form: 'error', message: 'Too many stream subscribers' },
  /** Cog, also after a failed setup. */
  NOT_READY: {
    status: 503,
    form: 'failed',
    message: 'Setup has not finished yet. Wait until it has finished, or GET /health-check for status.',
  },
  /** Cog. */
  AT_CAPACITY: { status: 409, form: 'failed', message: 'At capacity - all prediction slots busy' },
  QUEUE_FULL: {
    status: 429,
    form: 'failed',
    message: 'All prediction slots are busy and {limit} predictions wait, which is as many as may. Try again later.',
  },
  QUEUE_TOO_LARGE: {
    status: 429,
    form: 'failed',
    message:
      'All prediction slots are busy and the inputs that wait fill the {megabytes} megabytes that may. Try again later, or with a smaller input.',
  },
  DRAINING: {
    status: 503,
    form: 'failed',
    message: 'The server is shutting down and takes no new predictions. Send the request to another one.',
  },
  /** Cog. */
  SCHEMA_NOT_AVAILABLE: { status: 503, form: 'error', message: 'OpenAPI schema not available' },
  PREDICTION_NOT_FOUND: { status: 404, form: 'error', message: 'No prediction with this id runs, waits or is kept.' },
  SHUTDOWN_FROM_ELSEWHERE: {
    status: 403,
    form: 'error',
    message:
      'Only programs on this machine may shut the server down, and this request {reason}. With SHUTDOWN_FROM=any it is taken from anywhere.',
  },
  SHUTDOWN_FROM_BROWSER: {
    status: 403,
    form: 'error',
    message:
      'No page in a browser may shut the server down, and this request has the header {header}. Send it without.',
  },
  /** Cog: both with an empty body; 405 with `allow`. */
  NOT_FOUND: { status: 404, form: 'empty', message: '' },
  METHOD_NOT_ALLOWED: { status: 405, form: 'empty', message: '' },
  INTERNAL: {
    status: 500,
    form: 'failed',
    message: 'The server failed on this request. The reason is in its log, with the request id {requestId}.',
  },
} as const satisfies Record<string, ErrorRow>

interface ErrorRow {
  readonly status: number
  readonly form: 'text' | 'error' | 'failed' | 'detail' | 'empty'
  readonly message: string
  /** What `retry-after` says. */
  readonly retryAfterSeconds?: number
}

/** Errors of a prediction (status `failed`) and of a stream (event `error`): they have no HTTP status of their own. */
export const PREDICTION_ERRORS = {
  /** Cog's words, then ours. */
  WORKER_CRASHED: 'Worker crashed: the process that runs the Predictor ended with {ending}. It is started again.',
  PREDICT_FAILED: 'Prediction failed: {name}: {message}',
  TRAIN_FAILED: 'Training failed: {name}: {message}',
  DEADLINE_PASSED: 'Canceled: the deadline that the request set (Cancel-After, {seconds} s) has passed.',
  /** Cog. */
  STREAM_LAGGED: 'SSE stream lagged; events were dropped',
  /** Cog. */
  REPLAY_TRUNCATED: 'SSE stream replay truncated; events were dropped',
} as const

export type ErrorCode = keyof typeof ERRORS

type Slots<Message extends string> = Message extends `${string}{${infer Name}}${infer Rest}`
  ? Name | Slots<Rest>
  : never

type Values<Message extends string> = Readonly<Record<Slots<Message>, string | number>>

/** Puts values into the braces of a message. */
export function fill<Message extends string>(message: Message, values: Values<Message>): string {
  const known: Readonly<Record<string, string | number>> = values
  return message.replace(/\{(\w+)\}/g, (_braces, name: string) => String(known[name]))
}

/** An error that ends a request. What the client gets follows from `code` alone. */
export class ServerError extends Error {
  readonly code: ErrorCode
  readonly detail: readonly InputProblem[]
  /** When to try again, where that is known, in whole seconds: what `retry-after` says. */
  readonly retryAfterSeconds: number | undefined

  private constructor(
    code: ErrorCode,
    message: string,
    { detail = [], retryAfterMs }: { detail?: readonly InputProblem[]; retryAfterMs?: number } = {},
  ) {
    super(message)
    this.name = 'ServerError'
    this.code = code
    this.detail = detail
    const row: ErrorRow = ERRORS[code]
    this.retryAfterSeconds =
      retryAfterMs === undefined ? row.retryAfterSeconds : Math.max(1, Math.ceil(retryAfterMs / 1000))
  }

  static of<Code extends ErrorCode>(code: Code, values: Values<(typeof ERRORS)[Code]['message']>): ServerError {
    const message: string = ERRORS[code].message
    return new ServerError(code, fill(message, values as Values<string>))
  }

  /** The same error, with the time after which to try again: a whole second at least. */
  after(retryAfterMs: number): ServerError {
    return new ServerError(this.code, this.message, { detail: this.detail, retryAfterMs })
  }

  /** A 422 in Cog's form. */
  static withDetail(
    code: 'INVALID_INPUT' | 'ID_MISMATCH' | 'ID_TOO_LONG' | 'CANCEL_AFTER',
    detail: readonly InputProblem[],
  ): ServerError {
    return new ServerError(code, detail.map(({ loc, msg }) => `${loc.join('.')}: ${msg}`).join('; '), { detail })
  }

  get status(): number {
    return ERRORS[this.code].status
  }
}
