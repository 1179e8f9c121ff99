/**
 * Every error that `model/` throws on purpose. They know nothing of HTTP: whoever serves the model translates `code` into
 * a status. A message names what was wrong, the value, the limit, and what to do next; none carries a prompt's text.
 */
export class ModelError extends Error {
  /** Stable and upper-case, the same for every instance of a class. */
  readonly code: string

  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = new.target.name
    this.code = code
  }
}

/** A setting has a value outside its range. `bezel` ends with exit code 2 on it. */
export class SettingsError extends ModelError {
  readonly setting: string

  constructor(setting: string, message: string) {
    super('BAD_SETTING', message)
    this.setting = setting
  }
}

/** A checkpoint (config.json, safetensors, index, tokenizer files) is not what the exporter needs. */
export class CheckpointError extends ModelError {
  readonly file: string
  readonly tensor: string | undefined

  constructor(file: string, message: string, options: { tensor?: string } & ErrorOptions = {}) {
    super('BAD_CHECKPOINT', `${file}: ${message}`, options)
    this.file = file
    this.tensor = options.tensor
  }
}

/**
 * A GGUF file is none, is damaged, or holds what Gemma 1 does not have. `field` is the metadata key, the tensor or the part of
 * the header that is wrong, `value` what stands there.
 */
export class GgufError extends CheckpointError {
  readonly field: string
  readonly value: string

  constructor(file: string, field: string, value: string, wanted: string, options?: ErrorOptions) {
    super(file, `${field} is ${value}, but ${wanted}.`, options)
    this.field = field
    this.value = value
  }
}

/** An export could not be written (disk full, target exists, dtype not possible on the target). */
export class ExportError extends ModelError {
  constructor(message: string, options?: ErrorOptions) {
    super('EXPORT_FAILED', message, options)
  }
}

/** An exported model folder lacks a file, or a file in it is not what its manifest says. */
export class ModelFolderError extends ModelError {
  readonly path: string

  constructor(path: string, message: string, options?: ErrorOptions) {
    super('BAD_MODEL_FOLDER', `${path}: ${message}`, options)
    this.path = path
  }
}

/** libonnxruntime was not found, cannot be loaded on this platform, or has another version than this code needs. */
export class LibraryError extends ModelError {
  constructor(message: string, options?: ErrorOptions) {
    super('ORT_LIBRARY', message, options)
  }
}

/** ONNX Runtime refused a call. `call` is the C function, `ortCode` its OrtErrorCode (1 FAIL, 2 INVALID_ARGUMENT …). */
export class OrtError extends ModelError {
  readonly call: string
  readonly ortCode: number
  /** ONNX Runtime's own words. */
  readonly reason: string

  constructor(call: string, ortCode: number, reason: string) {
    super('ORT_CALL_FAILED', `${call}: ${reason} (OrtErrorCode ${ortCode})`)
    this.call = call
    this.ortCode = ortCode
    this.reason = reason
  }
}

/** Memory for a tensor could not be had. `byteLength` is what was asked for, `place` where. */
export class OutOfMemoryError extends ModelError {
  readonly byteLength: number
  readonly place: string

  constructor(byteLength: number, place: string, options?: ErrorOptions) {
    super(
      'OUT_OF_MEMORY',
      `${place} has no ${Math.ceil(byteLength / 1e6)} MB for a tensor. Lower CONTEXT_LENGTH or the number of slots, or free memory.`,
      options,
    )
    this.byteLength = byteLength
    this.place = place
  }
}

/** The machine, or the container, has less memory than the model and one slot need. Nothing was loaded. */
export class NotEnoughMemoryError extends ModelError {
  readonly neededBytes: number
  readonly availableBytes: number

  constructor(message: string, numbers: { neededBytes: number; availableBytes: number }) {
    super('NOT_ENOUGH_MEMORY', message)
    this.neededBytes = numbers.neededBytes
    this.availableBytes = numbers.availableBytes
  }
}

/** `DEVICE=cuda` was asked for, and there is no GPU that ONNX Runtime can use. The message says why. */
export class DeviceError extends ModelError {
  constructor(message: string, options?: ErrorOptions) {
    super('DEVICE_UNUSABLE', message, options)
  }
}

/** The thread that runs ONNX Runtime has ended, or was closed: neither this call nor a later one can be answered. */
export class RuntimeStoppedError extends ModelError {
  constructor(message: string, options?: ErrorOptions) {
    super('RUNTIME_STOPPED', message, options)
  }
}

/** A run was ended from outside before it was through. What it was to write is undefined; the session stays usable. */
export class RunCanceledError extends ModelError {
  constructor() {
    super('RUN_CANCELED', 'The run was canceled.')
  }
}

/** The model gave logits that are no finite numbers, so that no token can be chosen. The request ends; others go on. */
export class LogitsError extends ModelError {
  constructor(value: number) {
    super(
      'BAD_LOGITS',
      `The model's best logit is ${value}, so that there is no next token. Send the request again; if that fails too, its weights are damaged: check the export's files.`,
    )
  }
}

/** A step of the model could not be run. The requests of that step end, and can be sent again; the others go on. `cause` says all of why. */
export class StepFailedError extends ModelError {
  constructor(cause: unknown) {
    super(
      'STEP_FAILED',
      `A step of the model failed: ${firstLine(cause)}. What came before it is valid; the engine goes on. Send the request again.`,
      { cause },
    )
  }
}

/** The same for a lack of memory. */
export class StepOutOfMemoryError extends ModelError {
  constructor(cause: unknown) {
    super(
      'STEP_OUT_OF_MEMORY',
      `There was no memory for a step of the model: ${firstLine(cause)}. What came before it is valid; the engine goes on. ` +
        'Send the request again; if it happens often, lower CONTEXT_LENGTH or the number of slots, or free memory.',
      { cause },
    )
  }
}

/** The engine has given up: whatever it still had has failed, and it takes no more. Open another one. `cause` is the last fault. */
export class EngineDefunctError extends ModelError {
  constructor(why: string, cause: unknown) {
    super('ENGINE_DEFUNCT', `The engine has given up: ${why}. The last reason: ${firstLine(cause)}.`, { cause })
  }
}

/** ONNX Runtime's texts may go on with traces of its own. */
function firstLine(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error)
  return text.split('\n', 1)[0]!.replace(/\.$/, '')
}

/** The token mask that a request came with cannot be followed. Its answer ends; other requests go on. */
export class TokenMaskError extends ModelError {
  constructor(why: string, options?: ErrorOptions) {
    super('TOKEN_MASK', `The request's token mask cannot be followed: ${why}.`, options)
  }
}

/** One field of a request cannot be served. `field` is the engine's name of it. */
export class InvalidRequestError extends ModelError {
  readonly field: string

  constructor(field: string, message: string, options?: ErrorOptions) {
    super('INVALID_REQUEST', message, options)
    this.field = field
  }
}

/** The prompt does not leave room for one new token in a slot. */
export class PromptTooLongError extends ModelError {
  readonly promptTokens: number
  readonly slotTokens: number

  constructor(promptTokens: number, slotTokens: number) {
    super(
      'PROMPT_TOO_LONG',
      `The prompt has ${promptTokens} tokens, but a slot holds ${slotTokens} with at least one for the answer. ` +
        `Shorten it to at most ${slotTokens - 1} tokens, or raise CONTEXT_LENGTH if the model was made for more.`,
    )
    this.promptTokens = promptTokens
    this.slotTokens = slotTokens
  }
}

/** The Hub could not be asked, or its answer cannot be used. `status` is what it answered, where that is the reason. */
export class HubError extends ModelError {
  readonly status: number | undefined

  constructor(message: string, options: { status?: number } & ErrorOptions = {}) {
    super('HUB_FAILED', message, options)
    this.status = options.status
  }
}

/** The Hub refuses the repository to us (401, 403): no token, a wrong one, or a licence that was not accepted. */
export class HubAccessError extends ModelError {
  readonly status: number

  constructor(status: number, message: string) {
    super('HUB_ACCESS', message)
    this.status = status
  }
}

/** A file arrived whole, but its hash is not the one that the Hub announced. */
export class IntegrityError extends ModelError {
  constructor(message: string) {
    super('HUB_INTEGRITY', message)
  }
}

/** The disk is full. `path` is what was being written; `detail` says how much is needed and free, where that is known. */
export class DiskFullError extends ModelError {
  readonly path: string

  constructor(path: string, options: { detail?: string } & ErrorOptions = {}) {
    const detail = options.detail === undefined ? '' : ` (${options.detail})`
    super('DISK_FULL', `${path}: no space left on this disk${detail}. Free some, or choose another folder.`, options)
    this.path = path
  }
}
