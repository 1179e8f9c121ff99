/** A prediction's output is larger than allowed. The message tells no value. */
export class OutputLimitError extends Error {
  constructor(limit: number) {
    super(
      `The output is over ${limit / 1e6} megabytes. Return less, a file that is uploaded, or raise OUTPUT_MEGABYTES.`,
    )
    this.name = 'OutputLimitError'
  }
}

/** What a number, a boolean or null takes at most. */
const SMALL = 32

/**
 * How much one prediction may tell: outputs, metrics and logs together. The server holds all of it until the prediction
 * has ended, so that a Predictor that never stops would fill its memory.
 */
export class RunBudget {
  readonly #limit: number
  #used = 0
  #isCut = false

  /** @param limit in bytes of JSON, about: one for each character. */
  constructor(limit: number) {
    this.#limit = limit
  }

  /** @throws {OutputLimitError} it is too much; the prediction must end. */
  take(value: unknown): void {
    this.#used += sizeOf(value)
    if (this.#used > this.#limit) throw new OutputLimitError(this.#limit)
  }

  /**
   * The same for a line of the logs, which may not throw: what is printed is printed.
   *
   * @returns the line, or in the place of the first that is too much a word about those that are dropped; then nothing.
   */
  cut(line: string): string | undefined {
    if (this.#isCut) return undefined
    if (this.#used + line.length <= this.#limit) {
      this.#used += line.length
      return line
    }
    this.#isCut = true
    return `Output and logs are over ${this.#limit / 1e6} megabytes (OUTPUT_MEGABYTES): later lines are dropped.`
  }
}

function sizeOf(value: unknown): number {
  if (typeof value === 'string') return value.length
  return typeof value === 'object' && value !== null ? JSON.stringify(value).length : SMALL
}
