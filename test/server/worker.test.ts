import type { ChildProcess } from 'node:child_process'
import { EventEmitter } from 'node:events'
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import type { FromWorker, ToWorker, WorkerEvent } from '../../server/messages.js'
import { WorkerProcess } from '../../server/worker.js'
import { TEST_FILES } from './fixtures.js'

const SETUP = { type: 'setup', file: '/p.ts', name: 'P', concurrency: 1, files: TEST_FILES } as const
const READY = { type: 'ready', document: { components: { schemas: {} } } } as unknown as FromWorker

/** A child that does what the test says. */
class FakeChild extends EventEmitter {
  connected = true
  exitCode: number | null = null
  signalCode: string | null = null
  readonly pid: number | undefined = 1
  readonly sent: ToWorker[] = []

  send(message: ToWorker): boolean {
    this.sent.push(message)
    return true
  }

  kill(signal: string): boolean {
    this.end(null, signal)
    return true
  }

  end(code: number | null, signal: string | null = null): void {
    this.connected = false
    this.exitCode = code
    this.signalCode = signal
    this.emit('exit', code, signal)
  }
}

function supervised(begin: 'started' | 'waiting' = 'started', limit: { limitMs?: number } = {}) {
  const children: FakeChild[] = []
  const waits: { ms: number; action: () => void; canceled: boolean }[] = []
  const events: WorkerEvent[] = []
  const worker = new WorkerProcess({
    env: {},
    fork: () => {
      const child = new FakeChild()
      children.push(child)
      return child as unknown as ChildProcess
    },
    after: (ms, action) => {
      const wait = { ms, action, canceled: false }
      waits.push(wait)
      return {
        cancel: () => {
          wait.canceled = true
        },
      }
    },
  })
  const start = () => worker.start({ ...SETUP, ...limit }, (event) => events.push(event))
  if (begin === 'started') start()
  return { worker, children, waits, events, start, child: () => children.at(-1)! }
}

t.test('the child is forked at once, and told what to host when that is known', async (t) => {
  const { children, events, start } = supervised('waiting')
  t.equal(children.length, 1)
  t.strictSame(children[0]!.sent, [])
  start()
  t.match(children[0]!.sent, [{ ...SETUP, folder: join(tmpdir(), 'bezel-') }])
  t.strictSame(events, [{ type: 'starting' }])
})

t.test('a child that dies in its first setup, or before, is not started again', async (t) => {
  for (const begin of ['started', 'waiting'] as const) {
    const { children, waits, events, start, child } = supervised(begin)
    child().end(null, 'SIGSEGV')
    if (begin === 'waiting') start()
    t.strictSame(events, [{ type: 'starting' }, { type: 'died', ending: 'signal SIGSEGV', restarts: false }])
    t.equal(children.length, 1)
    t.equal(waits.length, 0)
  }
})

t.test('one that was ready is started again, after waits that double up to ten seconds', async (t) => {
  const { children, waits, events, child } = supervised()
  child().emit('message', READY)
  const ended = (status: 'succeeded' | 'failed') => ({ type: 'batch', events: [{ key: 1, kind: 'ended', status }] })
  const expected = [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]
  for (const [i, ms] of expected.entries()) {
    child().end(1)
    t.strictSame(events.at(-1), { type: 'died', ending: 'exit code 1', restarts: true })
    t.equal(waits.at(-1)!.ms, ms)
    waits.at(-1)!.action()
    t.equal(children.length, i + 2)
    t.strictSame(events.at(-1), { type: 'starting' })
    t.match(child().sent, [SETUP])
  }
  child().emit('message', READY)
  child().emit('message', ended('failed'))
  child().end(1)
  t.equal(waits.at(-1)!.ms, 10_000, 'nor does a setup that succeeds shorten them')
  waits.at(-1)!.action()
  child().emit('message', READY)
  child().emit('message', ended('succeeded'))
  child().end(1)
  t.equal(waits.at(-1)!.ms, 100, 'a prediction that succeeds begins anew')
})

t.test('one that gives up is ended, with its reason, and started again', async (t) => {
  const { worker, waits, events, child } = supervised()
  child().emit('message', READY)
  child().emit('message', { type: 'defunct', reason: 'no device' })
  child().emit('message', { type: 'defunct', reason: 'again' })
  t.strictSame(child().sent.slice(1), [{ type: 'shutdown' }], 'once')
  t.equal(waits.at(-1)!.ms, 1000)
  waits.at(-1)!.action()
  t.equal(child().signalCode, 'SIGKILL', 'one that does not obey is killed')
  const died = {
    type: 'died',
    ending: "the Predictor's own word that it can go on no more (no device)",
    restarts: true,
  } as const
  t.strictSame(events.at(-1), died)
  t.equal(waits.at(-1)!.ms, 100)
  waits.at(-1)!.action()
  child().end(1)
  t.match(events.at(-1), { ending: 'exit code 1' }, 'the next one has a reason of its own')
  await worker.stop(1000)
})

t.test('a setup that fails after one succeeded is tried in a fresh process', async (t) => {
  const { waits, events, child } = supervised()
  child().emit('message', READY)
  child().end(1)
  waits.at(-1)!.action()
  child().emit('message', { type: 'setup-failed', reason: 'Error: device busy' })
  t.strictSame(events.slice(-2), [
    { type: 'setup-failed', reason: 'Error: device busy' },
    { type: 'died', ending: 'signal SIGKILL', restarts: true },
  ])
})

t.test('a first setup that takes longer than it may is the end of its process, and final', async (t) => {
  const { children, waits, events, child } = supervised('started', { limitMs: 1000 })
  t.notOk('limitMs' in child().sent[0]!, 'which the child need not know')
  t.equal(waits[0]!.ms, 1000)
  waits[0]!.action()
  t.equal(child().signalCode, 'SIGKILL')
  child().emit('message', READY)
  t.strictSame(events, [
    { type: 'starting' },
    { type: 'setup-timed-out' },
    { type: 'died', ending: 'signal SIGKILL', restarts: false },
  ])
  t.equal(children.length, 1)
})

t.test('a later setup has as long, and is tried again in a fresh process', async (t) => {
  const { children, waits, events, child } = supervised('started', { limitMs: 1000 })
  child().emit('message', READY)
  t.ok(waits[0]!.canceled)
  child().end(1)
  waits.at(-1)!.action()
  waits.at(-1)!.action()
  t.strictSame(events.slice(-3), [
    { type: 'starting' },
    { type: 'setup-timed-out' },
    { type: 'died', ending: 'signal SIGKILL', restarts: true },
  ])
  waits.at(-1)!.action()
  t.equal(children.length, 3)
})

t.test('no limit is left behind a setup that fails, a child that dies, or an end', async (t) => {
  const ends: Record<string, (one: ReturnType<typeof supervised>) => unknown> = {
    failed: ({ child }) => child().emit('message', { type: 'setup-failed', reason: 'Error: no weights' }),
    died: ({ child }) => child().end(1),
    stopped: ({ worker }) => void worker.stop(1000),
    killed: ({ worker }) => worker.kill(),
  }
  for (const [name, end] of Object.entries(ends)) {
    const one = supervised('started', { limitMs: 1000 })
    end(one)
    t.ok(one.waits[0]!.canceled, name)
  }
})

t.test('a child that cannot be forked counts as dead', async (t) => {
  const { events, child } = supervised()
  Object.assign(child(), { pid: undefined })
  child().emit('error', new Error('spawn EAGAIN'))
  t.strictSame(events.at(-1), { type: 'died', ending: 'spawn EAGAIN', restarts: false })
})

t.test('nothing is posted to a child that is gone', async (t) => {
  const { worker, child } = supervised()
  child().end(1)
  worker.post({ type: 'cancel', key: 1 })
  t.match(child().sent, [SETUP])
  t.equal(child().sent.length, 1)
})

t.test('stop lets the child tear down, and kills it at the limit', async (t) => {
  const { worker, waits, events, child } = supervised()
  const stopped = worker.stop(1000)
  t.strictSame(child().sent.at(-1), { type: 'shutdown' })
  t.equal(waits[0]!.ms, 1000)
  waits[0]!.action()
  await stopped
  t.equal(child().signalCode, 'SIGKILL')
  t.ok(waits[0]!.canceled)
  t.strictSame(events, [{ type: 'starting' }], 'an end that was asked for is no death')
  await worker.stop(1000)
})

t.test('stop while a restart waits forgets the restart', async (t) => {
  const { worker, children, waits, child } = supervised()
  child().emit('message', READY)
  child().end(1)
  await worker.stop(1000)
  t.ok(waits[0]!.canceled)
  t.equal(children.length, 1)
})

t.test("the child's folder is removed with all that lies in it, however the child ends", async (t) => {
  const ends: Record<string, (one: ReturnType<typeof supervised>) => unknown> = {
    crash: ({ child }) => child().end(null, 'SIGSEGV'),
    kill: ({ worker }) => worker.kill(),
    stop: async ({ worker, child }) => {
      const stopped = worker.stop(1000)
      child().end(0)
      await stopped
    },
  }
  for (const [name, end] of Object.entries(ends)) {
    const one = supervised()
    one.child().emit('message', READY)
    const setup = one.child().sent[0]!
    const folder = setup.type === 'setup' ? setup.folder : ''
    mkdirSync(folder, { mode: 0o700 })
    writeFileSync(join(folder, 'input.png'), 'left behind')
    await end(one)
    t.notOk(existsSync(folder), name)
  }
})
