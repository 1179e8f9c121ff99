import { setTimeout as sleep } from 'node:timers/promises'
import { HubError } from '../errors.js'

/** Time as a parameter, so that tests wait for nothing. */
export interface Clock {
  /** Milliseconds since 1970, by the machine's clock, which may jump: to compare with dates that a server sends. */
  now(): number
  /** Milliseconds from any start, by a clock that never jumps: to measure how long something takes. */
  elapsed(): number
  /** Rejects with the signal's reason as soon as it fires. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>
}

export const systemClock: Clock = {
  now: Date.now,
  elapsed: () => performance.now(),
  async sleep(ms, signal) {
    try {
      await sleep(ms, undefined, signal === undefined ? {} : { signal })
    } catch (error) {
      signal?.throwIfAborted()
      throw error
    }
  },
}

/** Something that may well succeed when tried again: a cut connection, a busy server, an answer that makes no sense. */
export class TransientError extends Error {
  override readonly name = 'TransientError'
  /** What the server asked for, if it did. */
  readonly waitMs: number | undefined

  constructor(message: string, options: { waitMs?: number | undefined } & ErrorOptions = {}) {
    super(message, options)
    this.waitMs = options.waitMs
  }
}

/** Five failures in a row, with 1, 2, 4 and 8 s between them, outlast a router's restart and are still bearable to watch. */
export const MAX_FAILURES = 5
const FIRST_DELAY_MS = 1000
/** The Hub counts requests in windows of five minutes, so it may ask for that long. */
const MAX_WAIT_MS = 300_000

/** Counts failures in a row, and waits longer after each. One object serves one file or one question. */
export class Retries {
  readonly #options: { clock: Clock; signal: AbortSignal; log: (line: string) => void; limit: number }
  #failures = 0

  /** @param options.limit  failures in a row after which to give up, ≥ 1. */
  constructor(options: { clock: Clock; signal: AbortSignal; log: (line: string) => void; limit: number }) {
    this.#options = options
  }

  /** Forgets past failures: there was real progress since. */
  reset(): void {
    this.#failures = 0
  }

  /**
   * Waits until it makes sense to try again.
   *
   * @param what  what was tried, as the start of a sentence for the log.
   * @throws {HubError} too many failures in a row, or the server asks to wait longer than five minutes; the cause is `error`.
   * @throws `error` itself, if it is not a TransientError; the signal's reason, if that fired.
   */
  async waitAfter(error: unknown, what: string): Promise<void> {
    const { clock, signal, log, limit } = this.#options
    signal.throwIfAborted()
    if (!(error instanceof TransientError)) throw error
    this.#failures++
    if (this.#failures >= limit) {
      const times = limit > 1 ? `, ${limit} times in a row` : ''
      throw new HubError(
        `${what}: ${error.message}${times}. Check the network and HF_ENDPOINT, and try again: what has arrived is kept.`,
        {
          cause: error,
        },
      )
    }
    if (error.waitMs !== undefined && error.waitMs > MAX_WAIT_MS) {
      throw new HubError(
        `${what}: ${error.message}, and the server asks to wait ${Math.ceil(error.waitMs / 1000)} s, more than the ` +
          `${MAX_WAIT_MS / 1000} s waited at most. Try again then: what has arrived is kept.`,
        { cause: error },
      )
    }
    // Up to a quarter less, so that many machines that started at once do not come back at once.
    const delayMs = FIRST_DELAY_MS * 2 ** (this.#failures - 1) * (1 - Math.random() / 4)
    const waitMs = Math.max(delayMs, error.waitMs ?? 0)
    log(`${what}: ${error.message}. Trying again in ${(waitMs / 1000).toFixed(1)} s.`)
    await clock.sleep(waitMs, signal)
  }
}

/**
 * How long a server that answered 429 or 503 asks to be left alone: `Retry-After` in seconds or as a date, else the reset
 * time `t` of the `RateLimit` header that the Hub sends (`"api";r=0;t=55`; draft-ietf-httpapi-ratelimit-headers).
 */
export function requestedWaitMs(headers: Headers, nowMs: number): number | undefined {
  const after = headers.get('retry-after')
  if (after !== null) {
    if (/^\d{1,9}$/.test(after.trim())) return Number(after) * 1000
    // The day's name is part of an HTTP date, and keeps out what Date.parse makes of "-5" (a day in 2001).
    const date = /^[A-Z][a-z]{2}, /.test(after) ? Date.parse(after) : Number.NaN
    if (!Number.isNaN(date)) return Math.max(0, date - nowMs)
  }
  const reset = /;\s*r=0\s*;\s*t=(\d{1,9})/.exec(headers.get('ratelimit') ?? '')?.[1]
  return reset === undefined ? undefined : Number(reset) * 1000
}

/**
 * Runs `run`, and ends it with a TransientError if it gives no sign of life for a while: a connection that is open but dead
 * would otherwise be waited on for ever. It is noticed after one to two times `idleMs`.
 *
 * @param run  gets a signal to obey and a function to call at each sign of life.
 */
export async function withStallGuard<T>(
  options: { idleMs: number; clock: Clock; signal: AbortSignal },
  run: (signal: AbortSignal, alive: () => void) => Promise<T>,
): Promise<T> {
  const cut = new AbortController()
  const over = new AbortController()
  let signs = 0
  const watch = async () => {
    for (;;) {
      const before = signs
      await options.clock.sleep(options.idleMs, over.signal)
      if (signs !== before) continue
      cut.abort(new TransientError(`nothing arrived for ${options.idleMs / 1000} s`))
      return
    }
  }
  const watching = watch().catch(() => {}) // ended by `over`
  try {
    return await run(AbortSignal.any([options.signal, cut.signal]), () => {
      signs++
    })
  } finally {
    over.abort()
    cut.abort() // drops the connection of a run that ended early; nothing where it was read to its end
    await watching
  }
}
