import { randomUUID } from 'node:crypto'
import { mkdir, open, readFile, readlink, rmdir, stat, unlink, utimes } from 'node:fs/promises'
import { hostname } from 'node:os'
import { HubError } from '../errors.js'
import type { Clock } from './retry.js'
import { codeOf, storing } from './storage.js'

export interface LockOptions {
  readonly clock: Clock
  readonly signal: AbortSignal
  /** Called at each look at a lock that another holds. `holder` is its process id, where that is known. */
  readonly onWait: (holder: number | undefined) => void | Promise<void>
}

export interface Lock {
  /** Fires if another process took the lock away, which it does when this one seemed dead: stop at once. */
  readonly lost: AbortSignal
  /** Idempotent. Never removes another's lock. */
  release(): Promise<void>
}

const HEARTBEAT_MS = 5_000
/** Six missed heartbeats: a busy disk or a long pause of the process is not yet death. */
const STALE_MS = 30_000
const POLL_MS = 500

/**
 * Takes the lock file at `path`, waiting while a living process holds it. It works between processes, containers and machines
 * that share the folder: the holder touches its file every five seconds. A lock is taken over when its process is known to be
 * dead (same machine), or when it was not touched for 30 s by a clock of our own that never jumps (clocks of two machines are not compared).
 *
 * @throws {HubError} {DiskFullError} the file cannot be written; the signal's reason, if that fires while waiting.
 */
export async function acquireLock(path: string, options: LockOptions): Promise<Lock> {
  const content = JSON.stringify({ pid: process.pid, machine: await machine(), token: randomUUID() })
  let seen = { state: '', sinceMs: options.clock.elapsed() }
  while (!(await storing(path, () => createExclusively(path, content)))) {
    const state = await look(path)
    if (state === undefined) continue // just released
    const nowMs = options.clock.elapsed()
    if (state.key !== seen.state) seen = { state: state.key, sinceMs: nowMs }
    if ((await isDead(state.content)) || nowMs - seen.sinceMs >= STALE_MS) {
      if (await storing(path, () => takeAway(path, state.key))) continue
    }
    await options.onWait(holderOf(state.content)?.pid)
    await options.clock.sleep(POLL_MS, options.signal)
  }
  return hold(path, content, options.clock)
}

function hold(path: string, content: string, clock: Clock): Lock {
  const lost = new AbortController()
  const over = new AbortController()
  const beat = async () => {
    while (!lost.signal.aborted) {
      await clock.sleep(HEARTBEAT_MS, over.signal)
      try {
        if ((await look(path))?.content === content) {
          const now = new Date()
          await utimes(path, now, now)
        } else {
          lost.abort(new HubError(`${path} was taken over by another process, which goes on with the work.`))
        }
      } catch {
        // An error of one beat (a network disk that is away) is no loss: the next one tries again.
      }
    }
  }
  const beating = beat().catch(() => {}) // ended by `over`
  return {
    lost: lost.signal,
    async release() {
      over.abort()
      await beating
      if ((await look(path))?.content === content) await unlink(path)
    },
  }
}

async function createExclusively(path: string, content: string): Promise<boolean> {
  try {
    const handle = await open(path, 'wx')
    try {
      await handle.writeFile(content)
    } catch (error) {
      await unlink(path)
      throw error
    } finally {
      await handle.close()
    }
    return true
  } catch (error) {
    if (codeOf(error) === 'EEXIST') return false
    throw error
  }
}

/** The lock's content, and a key that changes whenever its holder gives a sign of life. */
async function look(path: string): Promise<{ content: string; key: string } | undefined> {
  try {
    const content = await readFile(path, 'utf8')
    return { content, key: `${(await stat(path)).mtimeMs} ${content}` }
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined
    throw error
  }
}

/**
 * Removes a lock that was found dead, if it still is the one that was found. A folder beside it lets only one process at a
 * time do so: else the second would remove the fresh lock of the first.
 *
 * @returns false where another process is at it.
 */
async function takeAway(path: string, key: string): Promise<boolean> {
  const guard = `${path}.takeover`
  try {
    await mkdir(guard)
  } catch (error) {
    if (codeOf(error) !== 'EEXIST') throw error
    // Whoever made it needs it for a millisecond: an old one was left by a process that was killed just then.
    const made = await stat(guard).catch(() => undefined)
    if (made !== undefined && Date.now() - made.mtimeMs > STALE_MS) await rmdir(guard).catch(() => {})
    return false
  }
  try {
    if ((await look(path))?.key === key) await unlink(path)
    return true
  } finally {
    await rmdir(guard)
  }
}

function holderOf(content: string): { pid: number; machine: string } | undefined {
  try {
    const holder: unknown = JSON.parse(content)
    if (typeof holder !== 'object' || holder === null) return undefined
    const { pid, machine } = holder as Record<string, unknown>
    // kill() gives 0 and negative numbers another meaning.
    if (typeof pid !== 'number' || !Number.isInteger(pid) || pid <= 0 || typeof machine !== 'string') return undefined
    return { pid, machine }
  } catch {
    return undefined // being written just now
  }
}

async function isDead(content: string): Promise<boolean> {
  const holder = holderOf(content)
  if (holder === undefined || holder.machine !== (await machine())) return false
  try {
    process.kill(holder.pid, 0)
    return false
  } catch (error) {
    return codeOf(error) === 'ESRCH'
  }
}

/**
 * Where process ids mean the same: host name, boot and, for containers (which may share both), the namespace of process ids.
 * The last two exist on Linux only.
 */
async function machine(): Promise<string> {
  const boot = await readFile('/proc/sys/kernel/random/boot_id', 'utf8').catch(() => '')
  const namespace = await readlink('/proc/self/ns/pid').catch(() => '')
  return [hostname(), boot.trim(), namespace].join(' ')
}
