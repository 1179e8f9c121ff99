import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, watch } from 'node:fs'
import { mkdir, readFile, rm, stat, utimes, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { acquireLock, type LockOptions } from '../../model/hub/lock.js'
import { type FakeClock, fakeClock } from './fake-clock.js'

const never = new AbortController().signal

interface Waiter extends LockOptions {
  readonly clock: FakeClock
  /** Who held the lock at each look. */
  readonly waits: (number | undefined)[]
}

function options(overrides: Partial<LockOptions> = {}): Waiter {
  const waits: (number | undefined)[] = []
  const onWait = (holder: number | undefined) => void waits.push(holder)
  return { signal: never, onWait, waits, ...overrides, clock: fakeClock() }
}

/** A process id that was ours a moment ago and is nobody's now. */
function deadPid(): number {
  return spawnSync(process.execPath, ['--version']).pid
}

/** A lock as `holder` would have left it. */
async function plant(path: string, holder: object): Promise<void> {
  const lock = await acquireLock(path, options())
  const content = JSON.parse(await readFile(path, 'utf8'))
  await lock.release()
  await writeFile(path, JSON.stringify({ ...content, token: 'another', ...holder }))
}

t.test('makes the file, and removes it', async (t) => {
  const path = join(t.testdir(), 'a.lock')
  const lock = await acquireLock(path, options())
  t.match(JSON.parse(await readFile(path, 'utf8')), { pid: process.pid })
  await lock.release()
  t.notOk(existsSync(path))
  await lock.release()
})

t.test('lets one in at a time, in one process too', async (t) => {
  const path = join(t.testdir(), 'a.lock')
  let inside = 0
  let most = 0
  // Nobody may seem dead only because the fake clock runs ahead of the disk.
  const clock = { ...fakeClock(), elapsed: () => 0 }
  const enter = async () => {
    const lock = await acquireLock(path, { ...options(), clock })
    most = Math.max(most, ++inside)
    await new Promise((resolve) => setImmediate(resolve))
    inside--
    await lock.release()
  }
  await Promise.all(Array.from({ length: 8 }, enter))
  t.equal(most, 1)
  t.equal(inside, 0)
})

t.test('says who holds it while it waits', async (t) => {
  const path = join(t.testdir(), 'a.lock')
  const first = await acquireLock(path, options())
  const here = options()
  const second = await acquireLock(path, {
    ...here,
    onWait: async (holder) => {
      here.waits.push(holder)
      if (here.waits.length === 3) await first.release()
    },
  })
  t.strictSame(here.waits, [process.pid, process.pid, process.pid])
  await second.release()
})

t.test('takes over at once from a process of this machine that is dead', async (t) => {
  const path = join(t.testdir(), 'a.lock')
  await plant(path, { pid: deadPid() })
  const here = options()
  const lock = await acquireLock(path, here)
  t.strictSame(here.clock.pauses, [])
  t.match(JSON.parse(await readFile(path, 'utf8')), { pid: process.pid })
  await lock.release()
})

t.test('waits 30 s for a sign of life from elsewhere, and takes over then:', async (t) => {
  const locks: [string, (path: string) => Promise<void>][] = [
    ['another machine', (path) => plant(path, { pid: deadPid(), machine: 'elsewhere' })],
    ['an empty file', (path) => writeFile(path, '')],
    ['no lock of ours', (path) => writeFile(path, '[1, {"pid": "x"}]')],
    ['a process id that kill() would take for a group', (path) => plant(path, { pid: -1 })],
    [
      'a file from the future',
      async (path) => {
        await plant(path, { machine: 'elsewhere' })
        await utimes(path, new Date('2100-01-01'), new Date('2100-01-01'))
      },
    ],
  ]
  for (const [name, make] of locks) {
    t.test(name, async (t) => {
      const path = join(t.testdir(), 'a.lock')
      await make(path)
      const here = options()
      const lock = await acquireLock(path, here)
      t.equal(
        here.clock.pauses.reduce((sum, ms) => sum + ms, 0),
        30_000,
      )
      await lock.release()
    })
  }
})

t.test('does not take over from another machine that gives signs of life', async (t) => {
  const path = join(t.testdir(), 'a.lock')
  await plant(path, { machine: 'elsewhere' })
  const here = options()
  let beats = 0
  const lock = await acquireLock(path, {
    ...here,
    onWait: async () => {
      // It beats ten times, each a little before it would count as dead, then releases.
      if (here.clock.pauses.length % 50 !== 49) return
      beats++
      if (beats === 10) await rm(path)
      else await utimes(path, new Date(2026, 0, 1, 0, beats), new Date(2026, 0, 1, 0, beats))
    },
  })
  t.equal(beats, 10)
  await lock.release()
})

t.test(
  'a clock of the machine that jumps an hour makes no living process seem dead, nor a dead one alive',
  async (t) => {
    for (const jumpMs of [3_600_000, -3_600_000]) {
      const path = join(t.testdir(), 'a.lock')
      await plant(path, { machine: 'elsewhere' })
      const here = options()
      const lock = await acquireLock(path, { ...here, onWait: () => here.clock.jump(jumpMs) })
      t.equal(
        here.clock.pauses.reduce((sum, ms) => sum + ms, 0),
        30_000,
      )
      await lock.release()
    }
  },
)

t.test('one that was taken over tells its holder, who does not remove the other’s', async (t) => {
  const path = join(t.testdir(), 'a.lock')
  const { clock, ...others } = options()
  const lock = await acquireLock(path, { ...others, clock })
  const lost = once(lock.lost, 'abort')
  await writeFile(path, 'another')
  clock.beat()
  await lost
  t.match(lock.lost.reason, { name: 'HubError', message: /a\.lock was taken over by another process/ })
  await lock.release()
  t.equal(await readFile(path, 'utf8'), 'another')
})

t.test('touches its file at each beat', async (t) => {
  const path = join(t.testdir(), 'a.lock')
  const { clock, ...others } = options()
  const lock = await acquireLock(path, { ...others, clock })
  await utimes(path, new Date(0), new Date(0))
  const watcher = watch(path)
  t.teardown(() => watcher.close())
  const touched = once(watcher, 'change')
  clock.beat()
  await touched
  t.ok((await stat(path)).mtimeMs > Date.parse('2026-01-01'))
  await lock.release()
})

t.test('stops waiting when the signal fires', async (t) => {
  const path = join(t.testdir(), 'a.lock')
  const first = await acquireLock(path, options())
  const controller = new AbortController()
  const reason = new Error('stop')
  const second = acquireLock(path, options({ signal: controller.signal, onWait: () => controller.abort(reason) }))
  await t.rejects(second, reason)
  await first.release()
  t.notOk(existsSync(path))
})

t.test('a takeover that was killed half-way is cleared away', async (t) => {
  const path = join(t.testdir(), 'a.lock')
  await plant(path, { pid: deadPid() })
  await mkdir(`${path}.takeover`)
  await utimes(`${path}.takeover`, new Date(0), new Date(0))
  const lock = await acquireLock(path, options())
  await lock.release()
  t.notOk(existsSync(`${path}.takeover`))
})

t.test('a folder that is not there is a typed error', async (t) => {
  const path = join(t.testdir(), 'none', 'a.lock')
  await t.rejects(acquireLock(path, options()), { name: 'HubError', message: /a\.lock: cannot be used \(ENOENT\)/ })
})
