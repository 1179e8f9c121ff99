import type { Clock } from '../../model/hub/retry.js'

/** A sleep as long as one of these is not a pause before another attempt, but the watch over a silent connection. */
const WATCHES_MS = [10_000, 30_000]
/** And this long, a lock's holder rests between two signs of life. */
const HEARTBEAT_MS = 5_000

export interface FakeClock extends Clock {
  /** The pauses asked for, in order, without those that watch a connection or beat. */
  readonly pauses: number[]
  /** From now until the next pause, watched connections seem to be silent for as long as is allowed. */
  silence(): void
  /** Sets the machine's clock, as a time server or a resumed machine does. */
  jump(ms: number): void
  /** Lets every holder of a lock give its next sign of life. */
  beat(): void
}

/** A clock on which pauses are over at once, and on which the test says when a connection counts as silent and a lock beats. */
export function fakeClock(startMs = Date.parse('2026-01-01T00:00:00Z')): FakeClock {
  const pauses: number[] = []
  const watching = new Set<() => void>()
  const resting = new Set<() => void>()
  let nowMs = startMs
  let elapsedMs = 0
  let silent = false

  const waitIn = (waiters: Set<() => void>, signal?: AbortSignal) =>
    new Promise<void>((resolve, reject) => {
      const wake = () => {
        signal?.removeEventListener('abort', end)
        resolve()
      }
      const end = () => {
        waiters.delete(wake)
        reject(signal?.reason)
      }
      signal?.addEventListener('abort', end)
      waiters.add(wake)
    })
  const wakeAll = (waiters: Set<() => void>) => {
    for (const wake of waiters) wake()
    waiters.clear()
  }

  return {
    pauses,
    now: () => nowMs,
    elapsed: () => elapsedMs,
    jump(ms) {
      nowMs += ms
    },
    silence() {
      silent = true
      wakeAll(watching)
    },
    beat() {
      wakeAll(resting)
    },
    async sleep(ms, signal) {
      if (ms === HEARTBEAT_MS) return waitIn(resting, signal)
      if (WATCHES_MS.includes(ms) && !silent) return waitIn(watching, signal)
      if (!WATCHES_MS.includes(ms)) {
        silent = false
        pauses.push(ms)
        nowMs += ms
        elapsedMs += ms
      }
      await new Promise((resolve) => setImmediate(resolve))
      signal?.throwIfAborted()
    },
  }
}
