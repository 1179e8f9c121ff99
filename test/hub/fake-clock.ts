import type { Clock } from '../../model/hub/retry.js'

/** A sleep as long as one of these is not a pause before another attempt, but the watch over a silent connection. */
const WATCHES_MS = [10_000, 30_000]

export interface FakeClock extends Clock {
  /** The pauses asked for, in order, without those that watch a connection. */
  readonly pauses: number[]
  /** From now until the next pause, watched connections seem to be silent for as long as is allowed. */
  silence(): void
}

/** A clock on which pauses are over at once, and on which a connection counts as silent only when the test says so. */
export function fakeClock(startMs = Date.parse('2026-01-01T00:00:00Z')): FakeClock {
  const pauses: number[] = []
  const watching = new Set<() => void>()
  let nowMs = startMs
  let silent = false

  const watch = (signal?: AbortSignal) =>
    new Promise<void>((resolve, reject) => {
      const wake = () => {
        signal?.removeEventListener('abort', end)
        resolve()
      }
      const end = () => {
        watching.delete(wake)
        reject(signal?.reason)
      }
      signal?.addEventListener('abort', end)
      if (silent) setImmediate(wake)
      else watching.add(wake)
    })

  return {
    pauses,
    now: () => nowMs,
    silence() {
      silent = true
      for (const wake of watching) wake()
      watching.clear()
    },
    async sleep(ms, signal) {
      if (WATCHES_MS.includes(ms)) return watch(signal)
      silent = false
      pauses.push(ms)
      nowMs += ms
      await new Promise((resolve) => setImmediate(resolve))
      signal?.throwIfAborted()
    },
  }
}
