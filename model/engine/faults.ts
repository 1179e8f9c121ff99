import {
  EngineDefunctError,
  LogitsError,
  OrtError,
  OutOfMemoryError,
  RunCanceledError,
  RuntimeStoppedError,
  StepFailedError,
  StepOutOfMemoryError,
} from '../errors.js'
import { isOutOfMemory } from '../runtime/out-of-memory.js'

/** Failed steps in a row after which an engine gives up: one may be chance, and two a bad moment. */
export const MOST_FAILED_STEPS = 3

/** What a step's run threw → what the requests of that step are told. */
export function stepError(reason: unknown): Error {
  if (reason instanceof RunCanceledError || reason instanceof RuntimeStoppedError) return reason
  const outOfMemory = reason instanceof OutOfMemoryError || (reason instanceof OrtError && isOutOfMemory(reason))
  return outOfMemory ? new StepOutOfMemoryError(reason) : new StepFailedError(reason)
}

/** Counts the failed steps of an engine, and says when it is to give up. */
export class FaultWatch {
  #inARow = 0

  /** Failed steps since the last that gave a token. */
  get inARow(): number {
    return this.#inARow
  }

  /**
   * Looks at what a step gave each of its requests that was due something. A step from which any request got its token
   * was no failure, though others may have got none; one in which nobody was due any says nothing.
   *
   * @returns the fault, where there was one, after which the engine must make anew what the run used.
   * @throws {EngineDefunctError} it was one too many in a row, or the runtime itself has ended.
   */
  note(outcomes: Iterable<unknown>): Error | undefined {
    let fault: Error | undefined
    let gaveTokens = false
    for (const outcome of outcomes) {
      if (!(outcome instanceof Error)) gaveTokens = true
      else if (isFault(outcome)) fault ??= outcome
    }
    if (gaveTokens) this.#inARow = 0
    else if (fault !== undefined) this.#inARow++
    if (fault instanceof RuntimeStoppedError) throw new EngineDefunctError('its runtime has ended', fault)
    if (this.#inARow < MOST_FAILED_STEPS) return fault
    throw new EngineDefunctError(`${this.#inARow} steps in a row have failed`, fault?.cause ?? fault)
  }
}

/** A canceled run is none, nor what a request did to itself. */
function isFault(error: Error): boolean {
  return [StepFailedError, StepOutOfMemoryError, LogitsError, RuntimeStoppedError].some((type) => error instanceof type)
}
