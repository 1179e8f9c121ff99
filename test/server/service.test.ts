import { pino } from 'pino'
import t from 'tap'
import type { SetupRequest, ToWorker, Worker, WorkerEvent } from '../../server/messages.js'
import { openApiDocument } from '../../server/openapi.js'
import type { Prediction } from '../../server/prediction.js'
import { Service } from '../../server/service.js'
import { Predictor as EchoStream } from '../predictors/echo-stream.js'
import { FakeClock, TEST_FILES } from './fixtures.js'

/** A worker that does what the test says. */
class ScriptedWorker implements Worker {
  readonly posted: ToWorker[] = []
  tell: (event: WorkerEvent) => void = () => {}

  start(_setup: SetupRequest, listener: (event: WorkerEvent) => void): void {
    this.tell = listener
    listener({ type: 'starting' })
  }

  post(message: ToWorker): void {
    this.posted.push(message)
  }

  async stop(): Promise<void> {}

  ready(options: { concurrency?: number; healthcheck?: boolean } = {}): void {
    this.tell({
      type: 'ready',
      document: openApiDocument(EchoStream),
      streaming: true,
      iterator: true,
      healthcheck: options.healthcheck ?? false,
      concurrency: options.concurrency ?? 1,
    })
  }

  /** The key of the run that was posted last. */
  get lastKey(): number {
    const message = this.posted.findLast(({ type }) => type === 'predict')
    return message?.type === 'predict' ? message.key : -1
  }
}

function serve({ queueLimit = 0 } = {}) {
  const worker = new ScriptedWorker()
  const clock = new FakeClock()
  const service = new Service({
    worker,
    predictor: { file: '/p.ts', name: 'P', concurrency: 1, files: TEST_FILES },
    dollarsPerSecond: 0,
    log: pino({ level: 'silent' }),
    schedule: clock.schedule,
    now: clock.now,
    queueLimit,
  })
  const create = (id: string, onAdmit = (_prediction: Prediction) => {}) =>
    service.create({ id, input: { prompt: 'a' }, context: {}, onAdmit })
  return { worker, clock, service, create }
}

t.test('setup goes from STARTING to READY, with its lines in the health', async (t) => {
  const { worker, service, create } = serve()
  t.match(await service.health(), { status: 'STARTING', setup: { status: 'starting' } })
  await t.rejects(create('a'), { code: 'NOT_READY' })
  worker.tell({ type: 'log', line: 'loading', level: 'info' })
  worker.ready()
  t.match(await service.health(), { status: 'READY', setup: { status: 'succeeded', logs: '[predictor] loading\n' } })
  t.equal(await service.firstSetup, 'succeeded')
})

t.test('a setup that fails or crashes is final, and its logs are the reason', async (t) => {
  const failures: [WorkerEvent, string][] = [
    [{ type: 'setup-failed', reason: 'Error: no weights' }, 'worker setup failed: Error: no weights'],
    [{ type: 'died', ending: 'signal SIGKILL', restarts: false }, 'worker crashed: signal SIGKILL'],
    [{ type: 'setup-timed-out' }, 'worker setup timed out'],
  ]
  for (const [event, logs] of failures) {
    const { worker, service, create } = serve()
    worker.tell(event)
    t.match(await service.health(), { status: 'SETUP_FAILED', setup: { status: 'failed', logs } })
    t.equal(await service.firstSetup, 'failed')
    await t.rejects(create('a'), { code: 'NOT_READY' })
    worker.tell({ type: 'died', ending: 'exit code 1', restarts: false })
    t.match(await service.health(), { status: 'SETUP_FAILED', setup: { logs } }, 'also when the worker ends of it')
  }
})

t.test('whoever listens hears each time that it begins or ceases to be ready', async (t) => {
  const { worker, service, create } = serve()
  const heard: boolean[] = []
  service.onReadiness((ready) => heard.push(ready))
  t.strictSame(heard, [false], 'at once')
  worker.ready()
  t.strictSame(heard, [false, true])
  void create('a')
  t.equal(service.status, 'BUSY')
  worker.tell({ type: 'died', ending: 'exit code 1', restarts: true })
  worker.tell({ type: 'starting' })
  t.strictSame(heard, [false, true, false])
  worker.ready()
  service.leave()
  await service.drain({ limitMs: 1000, graceMs: 500 })
  t.strictSame(heard, [false, true, false, true, false])
})

t.test('how long a setup took is told by the clock that never jumps', async (t) => {
  const lines: string[] = []
  const worker = new ScriptedWorker()
  const clock = new FakeClock()
  new Service({
    worker,
    predictor: { file: '/p.ts', name: 'P', concurrency: 1, files: TEST_FILES },
    dollarsPerSecond: 0,
    log: pino({ level: 'info' }, { write: (line) => lines.push(line) }),
    schedule: clock.schedule,
    now: clock.now,
  })
  clock.advance(1500)
  worker.ready()
  t.match(lines, [/"setupMs":1500,/])
})

t.test('when the worker dies, what ran fails with the reason, and the next worker serves again', async (t) => {
  const { worker, service, create } = serve()
  worker.ready()
  const creating = create('a')
  const key = worker.lastKey
  worker.tell({ type: 'batch', events: [{ key, kind: 'accepted' }] })
  const prediction = await creating
  worker.tell({ type: 'died', ending: 'signal SIGSEGV', restarts: true })
  await prediction.ended
  t.match(prediction.answer(), {
    status: 'failed',
    error: 'Worker crashed: the process that runs the Predictor ended with signal SIGSEGV. It is started again.',
  })
  t.equal(service.status, 'DEFUNCT')
  await t.rejects(create('b'), { code: 'NOT_READY' })
  worker.tell({ type: 'starting' })
  t.equal(service.status, 'STARTING')
  worker.ready()
  t.equal(service.status, 'READY', 'no slot is lost')
})

t.test(
  'a Predictor that gives up is DEFUNCT at once: what runs ends with its own reason, what waits stays',
  async (t) => {
    const { worker, service, create } = serve({ queueLimit: 1 })
    worker.ready()
    const creating = create('a')
    const key = worker.lastKey
    worker.tell({ type: 'batch', events: [{ key, kind: 'accepted' }] })
    const running = await creating
    const waiting = create('b')
    worker.tell({ type: 'defunct', reason: 'no device' })
    t.match(await service.health(), { status: 'DEFUNCT' })
    await t.rejects(create('c'), { code: 'NOT_READY' })
    worker.tell({ type: 'batch', events: [{ key, kind: 'ended', status: 'failed', error: 'its own', errorName: 'E' }] })
    await running.ended
    t.match(running.answer(), { status: 'failed', error: 'its own' })
    t.equal(worker.lastKey, key, 'the free slot is not given to what waits')
    worker.tell({ type: 'log', line: 'late', level: 'warn' })
    worker.tell({ type: 'died', ending: 'exit code 0', restarts: true })
    worker.tell({ type: 'starting' })
    worker.ready()
    t.equal(worker.lastKey, key + 1)
    worker.tell({ type: 'batch', events: [{ key: key + 1, kind: 'accepted' }] })
    t.equal((await waiting).id, 'b')
  },
)

t.test('what a Predictor logs after its setup is in the log, and no part of the setup', async (t) => {
  const { worker, service } = serve()
  worker.tell({ type: 'log', line: 'loading', level: 'info' })
  worker.ready()
  worker.tell({ type: 'log', line: 'a step failed', level: 'warn' })
  t.equal((await service.health()).setup.logs, '[predictor] loading\n')
})

t.test('a prediction that the worker had not yet accepted fails, too, when it dies', async (t) => {
  const { worker, create } = serve()
  worker.ready()
  const creating = create('a')
  worker.tell({ type: 'died', ending: 'exit code 1', restarts: true })
  t.match(await creating, { status: 'failed' })
})

t.test('the order of refusals is: bad input, not ready, no slot', async (t) => {
  const { worker, service, create } = serve()
  worker.ready()
  const bad = () => service.create({ id: 'b', input: {}, context: {} })
  void create('a')
  await t.rejects(create('c'), { code: 'AT_CAPACITY' })
  await t.rejects(bad(), { code: 'INVALID_INPUT' })
  worker.tell({ type: 'died', ending: 'exit code 1', restarts: true })
  await t.rejects(create('d'), { code: 'NOT_READY' })
  await t.rejects(bad(), { code: 'INVALID_INPUT' })
})

t.test('a stream that joined a prediction while it was checked ends when the check refuses it', async (t) => {
  const { worker, service, create } = serve()
  worker.ready()
  const creating = create('a')
  const joined = service.find('a')!
  const detail = [{ loc: ['body', 'input', 'prompt'], msg: 'too long', type: 'value_error' }] as const
  worker.tell({ type: 'batch', events: [{ key: worker.lastKey, kind: 'rejected', detail }] })
  await t.rejects(creating, { code: 'INVALID_INPUT', detail })
  await joined.ended
  t.match(joined.body(), { status: 'failed', error: 'body.input.prompt: too long' })
  t.equal(service.status, 'READY')
})

t.test('a slot is taken until the worker says that the predictor has let go', async (t) => {
  const { worker, service, create } = serve()
  worker.ready()
  const creating = create('a')
  const key = worker.lastKey
  worker.tell({ type: 'batch', events: [{ key, kind: 'accepted' }] })
  const prediction = await creating
  service.cancel(prediction)
  t.strictSame(worker.posted.at(-1), { type: 'cancel', key })
  t.equal(service.status, 'BUSY')
  t.notOk(prediction.isFinal)
  let statusAtEnd = ''
  prediction.subscribe((event) => {
    if (event.name === 'completed') statusAtEnd = service.status
  })
  worker.tell({ type: 'batch', events: [{ key, kind: 'ended', status: 'canceled' }] })
  t.equal(statusAtEnd, 'READY', 'free before anyone hears of the end')
  t.equal(prediction.status, 'canceled')
  t.notOk(service.cancelById('a'))
})

t.test('a prediction can be canceled from the moment it is let in, before the worker has accepted it', async (t) => {
  const { worker, service, create } = serve()
  worker.ready({ concurrency: 2 })
  void create('a', (prediction) => service.cancel(prediction))
  t.strictSame(worker.posted.at(-1), { type: 'cancel', key: worker.lastKey })
  t.equal(worker.posted.filter(({ type }) => type === 'predict').length, 1)
})

t.test('cancel by id reaches every prediction with it', async (t) => {
  const { worker, service, create } = serve()
  worker.ready({ concurrency: 3 })
  for (const id of ['same', 'other', 'same']) void create(id)
  worker.posted.length = 0
  t.ok(service.cancelById('same'))
  t.equal(worker.posted.length, 2)
  t.notOk(service.cancelById('unknown'))
})

t.test('events of a run that is over, or was never known, are ignored', async (t) => {
  const { worker, service } = serve()
  worker.ready()
  worker.tell({ type: 'batch', events: [{ key: 99, kind: 'ended', status: 'succeeded' }] })
  worker.tell({ type: 'health', call: 99, error: null })
  t.equal(service.status, 'READY')
})

t.test("the Predictor's health is asked once for all who wait, and has 5 seconds", async (t) => {
  const { worker, clock, service } = serve()
  worker.ready({ healthcheck: true })
  const answers = [service.health(), service.health()]
  const asked = worker.posted.filter(({ type }) => type === 'healthcheck')
  t.equal(asked.length, 1)
  worker.tell({
    type: 'health',
    call: (asked[0] as { call: number }).call,
    error: 'user-defined healthcheck returned False',
  })
  for (const answer of answers) {
    t.match(await answer, {
      status: 'UNHEALTHY',
      healthcheckError: 'Healthcheck failed: user-defined healthcheck returned False',
    })
  }
  const late = service.health()
  clock.advance(5000)
  t.match(await late, { status: 'UNHEALTHY', healthcheckError: 'Healthcheck failed: no answer within 5 s' })
  t.equal(clock.waiting, 0)
  const crashed = service.health()
  worker.tell({ type: 'died', ending: 'exit code 1', restarts: true })
  t.match(await crashed, { status: 'UNHEALTHY' })
})

t.test(
  'draining refuses the new, waits for the running, cancels at the limit and gives up after the grace',
  async (t) => {
    const { worker, clock, service, create } = serve()
    worker.ready({ concurrency: 2 })
    const creating = [create('a'), create('b')]
    const keys = worker.posted.flatMap((message) => (message.type === 'predict' ? [message.key] : []))
    worker.tell({ type: 'batch', events: keys.map((key) => ({ key, kind: 'accepted' })) })
    const [a, b] = await Promise.all(creating)
    let drained = false
    const draining = service.drain({ limitMs: 1000, graceMs: 500 }).then(() => {
      drained = true
    })
    await t.rejects(create('c'), { code: 'DRAINING' })
    clock.advance(999)
    t.notOk(worker.posted.some(({ type }) => type === 'cancel'))
    clock.advance(1)
    t.strictSame(
      worker.posted.slice(-2),
      keys.map((key) => ({ type: 'cancel', key })),
    )
    worker.tell({ type: 'batch', events: [{ key: keys[0]!, kind: 'ended', status: 'canceled' }] })
    t.equal(a!.status, 'canceled')
    await new Promise(setImmediate)
    t.notOk(drained)
    clock.advance(500)
    await draining
    t.equal(b!.status, 'canceled')
    t.equal(clock.waiting, 0)
  },
)

t.test('draining an idle service is over at once', async (t) => {
  const { worker, clock, service } = serve()
  worker.ready()
  await service.drain({ limitMs: 1000, graceMs: 500 })
  t.equal(clock.waiting, 0)
})

t.test('when the worker dies, what waits goes on waiting, and runs on the next one in its order', async (t) => {
  const { worker, service, create } = serve({ queueLimit: 2 })
  worker.ready()
  const [a, b, c] = [create('a'), create('b'), create('c')]
  const ran = () => worker.posted.flatMap((message) => (message.type === 'predict' ? [message.id] : []))
  worker.tell({ type: 'died', ending: 'signal SIGSEGV', restarts: true })
  t.match(await a, { status: 'failed' })
  await t.rejects(create('d'), { code: 'NOT_READY' })
  worker.tell({ type: 'starting' })
  t.strictSame(ran(), ['a'])
  t.equal(service.place(service.find('b')!)?.position, 1)
  worker.ready()
  t.strictSame(ran(), ['a', 'b'])
  for (const one of [b, c]) {
    const key = worker.lastKey
    worker.tell({ type: 'batch', events: [{ key, kind: 'accepted' }] })
    worker.tell({ type: 'batch', events: [{ key, kind: 'ended', status: 'succeeded' }] })
    t.match(await one, { status: 'succeeded' })
  }
  t.strictSame(ran(), ['a', 'b', 'c'])
  t.equal(service.status, 'READY')
})

t.test('draining lets what waits run, and cancels it at the limit', async (t) => {
  const { worker, clock, service, create } = serve({ queueLimit: 3 })
  worker.ready()
  const [a, b, c] = [create('a'), create('b'), create('c')]
  const draining = service.drain({ limitMs: 1000, graceMs: 500 })
  await t.rejects(create('d'), { code: 'DRAINING' })
  worker.tell({ type: 'batch', events: [{ key: worker.lastKey, kind: 'ended', status: 'succeeded' }] })
  t.match(await a, { status: 'succeeded' })
  clock.advance(1000)
  t.match(await c, { status: 'canceled' }, 'it still waited')
  t.strictSame(worker.posted.at(-1), { type: 'cancel', key: worker.lastKey })
  worker.tell({ type: 'batch', events: [{ key: worker.lastKey, kind: 'ended', status: 'canceled' }] })
  t.match(await b, { status: 'canceled' })
  await draining
  t.equal(clock.waiting, 0)
})
