import type { Clock } from '../../model/hub/retry.js'

/** From here on a sleep is not a pause before another attempt, but the watch over a silent connection. */
const WATCH_MS = 10_000

export interface FakeClock extends Clock {
  /** The pauses asked for, in order, without those that watch a connection. */
  readonly pauses: number[]
  /** From now until the next pause, watched connections seem to be silent for as long as is allowed. */
  silence(): void
}

/** A clock on which pauses are over at once, and on which a connection counts as silent only when the test says so. */
export function fakeClock(startMs = Date.parse('2026-01-01T00:00:00Z')): FakeClock {
  const pauses: number[] = []
  let nowMs = startMs
  let silent = false
  const turn = () => new Promise<void>((resolve) => setImmediate(resolve))
  return {
    pauses,
    now: () => nowMs,
    silence() {
      silent = true
    },
    async sleep(ms, signal) {
      if (ms === WATCH_MS || ms === 3 * WATCH_MS) {
        do {
          await turn()
          signal?.throwIfAborted()
        } while (!silent)
        return
      }
      silent = false
      pauses.push(ms)
      nowMs += ms
      await turn()
      signal?.throwIfAborted()
    },
  }
}
