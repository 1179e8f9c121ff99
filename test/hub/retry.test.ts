import t from 'tap'
import { HubError } from '../../model/errors.js'
import { Retries, requestedWaitMs, systemClock, TransientError, withStallGuard } from '../../model/hub/retry.js'
import { fakeClock } from './fake-clock.js'

const never = new AbortController().signal

t.test('each failure in a row waits about twice as long, and the last is final', async (t) => {
  const clock = fakeClock()
  const lines: string[] = []
  const retries = new Retries({ clock, signal: never, log: (line) => lines.push(line), limit: 4 })
  const error = new TransientError('the line is down')
  for (let i = 0; i < 3; i++) await retries.waitAfter(error, 'config.json')
  t.ok(
    clock.pauses.every((ms, i) => ms > 700 * 2 ** i && ms <= 1000 * 2 ** i),
    String(clock.pauses),
  )
  t.match(lines[0], /^config\.json: the line is down\. Trying again in \d\.\d s\.$/)
  await t.rejects(retries.waitAfter(error, 'config.json'), {
    name: 'HubError',
    message:
      'config.json: the line is down, 4 times in a row. Check the network and HF_ENDPOINT, and try again: what has arrived is kept.',
    cause: error,
  })
  t.equal(lines.length, 3)
})

t.test('after a reset it counts from the beginning', async (t) => {
  const clock = fakeClock()
  const retries = new Retries({ clock, signal: never, log: () => {}, limit: 2 })
  for (let i = 0; i < 5; i++) {
    retries.reset()
    await retries.waitAfter(new TransientError('x'), 'y')
  }
  t.ok(clock.pauses.every((ms) => ms <= 1000))
})

t.test('another error passes as it is, and a signal before all', async (t) => {
  const controller = new AbortController()
  const retries = new Retries({ clock: fakeClock(), signal: controller.signal, log: () => {}, limit: 5 })
  const final = new HubError('no')
  await t.rejects(retries.waitAfter(final, 'x'), final)
  const reason = new Error('stop')
  controller.abort(reason)
  await t.rejects(retries.waitAfter(new TransientError('x'), 'x'), reason)
})

t.test('reads how long a server asks to wait', async (t) => {
  const now = Date.parse('Thu, 01 Jan 2026 00:00:00 GMT')
  const cases: [Record<string, string>, number | undefined][] = [
    [{}, undefined],
    [{ 'retry-after': '0' }, 0],
    [{ 'retry-after': '120' }, 120_000],
    [{ 'retry-after': 'Thu, 01 Jan 2026 00:01:00 GMT' }, 60_000],
    [{ 'retry-after': 'Wed, 31 Dec 2025 23:59:00 GMT' }, 0],
    [{ 'retry-after': 'soon' }, undefined],
    [{ 'retry-after': '-5', ratelimit: '"resolvers";r=0;t=9' }, 9000],
    [{ ratelimit: '"api";r=0;t=243' }, 243_000],
    [{ ratelimit: '"api";r=12;t=243' }, undefined],
    [{ 'retry-after': '5', ratelimit: '"api";r=0;t=243' }, 5000],
  ]
  for (const [headers, waitMs] of cases)
    t.equal(requestedWaitMs(new Headers(headers), now), waitMs, JSON.stringify(headers))
})

t.test('a run that shows no life is ended, one that does is left alone', async (t) => {
  const options = { idleMs: 10_000, clock: fakeClock(), signal: never }
  options.clock.silence()
  const dead = withStallGuard(
    options,
    (signal) => new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason))),
  )
  await t.rejects(dead, { name: 'TransientError', message: 'nothing arrived for 10 s' })

  const living = withStallGuard(options, async (signal, alive) => {
    for (let i = 0; i < 50; i++) {
      alive()
      await new Promise((resolve) => setImmediate(resolve))
      signal.throwIfAborted()
    }
    return 'done'
  })
  t.equal(await living, 'done')
})

t.test('the system’s clock wakes at once with the reason of the signal', async (t) => {
  const controller = new AbortController()
  const reason = new Error('stop')
  const sleeping = systemClock.sleep(3_600_000, controller.signal)
  controller.abort(reason)
  await t.rejects(sleeping, reason)
  await t.resolves(systemClock.sleep(0))
  t.ok(systemClock.now() > Date.parse('2026-01-01'))
})
