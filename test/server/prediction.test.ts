import fc from 'fast-check'
import t from 'tap'
import { Prediction, type PredictionEvent } from '../../server/prediction.js'

function create(options: { iterator?: boolean; historyLimit?: number; now?: () => number } = {}) {
  return new Prediction({
    id: 'p',
    input: { prompt: 'hi' },
    iterator: options.iterator ?? true,
    dollarsPerSecond: 0.5,
    historyLimit: options.historyLimit ?? 1024,
    now: options.now ?? (() => 0),
  })
}

t.test('a prediction that succeeds carries output, logs, metrics, its time and its cost', async (t) => {
  let now = 1000
  const prediction = create({ now: () => now })
  now = 1500
  prediction.begin()
  prediction.start()
  prediction.addLog('line 0\n', 'stdout')
  prediction.addOutput('a')
  prediction.addMetric('tokens', 2, 'increment')
  prediction.addOutput('b')
  now = 3500
  prediction.succeed()
  await prediction.ended
  t.strictSame(JSON.parse(JSON.stringify(prediction.answer())), {
    id: 'p',
    logs: 'line 0\n',
    metrics: { tokens: 2, predict_time: 2, total_time: 2.5, cost: 1 },
    output: ['a', 'b'],
    status: 'succeeded',
  })
})

t.test(
  'an answer of a failed or canceled prediction has neither output nor logs, its last event has both',
  async (t) => {
    for (const end of ['fail', 'cancel'] as const) {
      const prediction = create()
      const events: PredictionEvent[] = []
      prediction.subscribe((event) => events.push(event))
      prediction.start()
      prediction.addLog('line\n', 'stderr')
      prediction.addOutput('a')
      if (end === 'fail') prediction.fail('broken')
      else prediction.cancel()
      const whole = { logs: 'line\n', output: ['a'], status: prediction.status }
      t.match(events.at(-1), { name: 'completed', data: whole })
      t.equal(prediction.answer().logs, '')
      t.notOk('output' in prediction.answer())
      t.equal(prediction.answer().error, end === 'fail' ? 'broken' : undefined)
    }
  },
)

t.test('a generator that yields nothing has an empty list as output, a failed one none', async (t) => {
  const empty = create()
  empty.start()
  empty.succeed()
  t.strictSame(empty.answer().output, [])
  const failed = create()
  failed.start()
  failed.fail('x')
  t.notOk('output' in failed.body())
})

t.test('one value is the output itself, and null is a value', async (t) => {
  for (const value of ['text', null, { a: 1 }]) {
    const prediction = create({ iterator: false })
    prediction.start()
    t.notOk('output' in prediction.progress())
    prediction.addOutput(value)
    prediction.succeed()
    t.strictSame(prediction.answer().output, value)
  }
})

t.test('metrics are replaced, deleted, added up, appended and nested', async (t) => {
  const prediction = create()
  prediction.addMetric('a', 1, 'replace')
  prediction.addMetric('a', 2, 'replace')
  prediction.addMetric('gone', 1, 'replace')
  prediction.addMetric('gone', null, 'replace')
  prediction.addMetric('n', 1, 'increment')
  prediction.addMetric('n', 2, 'increment')
  prediction.addMetric('list', 'x', 'append')
  prediction.addMetric('list', 'y', 'append')
  prediction.addMetric('deep.er.est', 1, 'replace')
  prediction.addMetric('predict_time', 'forged', 'replace')
  prediction.succeed()
  const { metrics } = JSON.parse(JSON.stringify(prediction.body()))
  t.strictSame(metrics, {
    a: 2,
    n: 3,
    list: ['x', 'y'],
    deep: { er: { est: 1 } },
    predict_time: 0,
    total_time: 0,
    cost: 0,
  })
})

t.test('a metric named __proto__ is a metric and pollutes nothing', async (t) => {
  const prediction = create()
  prediction.addMetric('__proto__.polluted', true, 'replace')
  prediction.addMetric('constructor.prototype.polluted', true, 'replace')
  t.notOk('polluted' in {})
  t.equal(
    JSON.stringify(prediction.body().metrics),
    '{"__proto__":{"polluted":true},"constructor":{"prototype":{"polluted":true}}}',
  )
})

t.test('a late reader gets all events, and learns how many are gone', async (t) => {
  const prediction = create({ historyLimit: 3 })
  prediction.start()
  for (const text of ['a', 'b', 'c', 'd']) prediction.addOutput(text)
  const live: PredictionEvent[] = []
  const { events, dropped, unsubscribe } = prediction.subscribe((event) => live.push(event))
  t.equal(dropped, 2)
  t.strictSame(
    events.map((event) => event.name === 'output' && event.data.index),
    [1, 2, 3],
  )
  prediction.addOutput('e')
  unsubscribe()
  prediction.addOutput('f')
  t.strictSame(live, [{ name: 'output', data: { chunk: 'e', index: 4 } }])
})

t.test(
  'where no event is kept, a late reader gets what comes from then on, and misses nothing that it asked for',
  async (t) => {
    const prediction = create({ historyLimit: 0 })
    prediction.start()
    prediction.addOutput('a')
    const live: PredictionEvent[] = []
    const late = prediction.subscribe((event) => live.push(event))
    t.match(late, { events: [], dropped: 0, next: 2 })
    t.match(
      prediction.subscribe(() => {}, 0),
      { events: [], dropped: 1, next: 2 },
      'unless it says what it has',
    )
    t.match(
      prediction.subscribe(() => {}, 1),
      { events: [], dropped: 0, next: 2 },
    )
    prediction.addOutput('b')
    prediction.succeed()
    t.match(live, [{ name: 'output', data: { chunk: 'b', index: 1 } }, { name: 'completed' }])
    t.match(
      prediction.subscribe(() => {}),
      { events: [], dropped: 4 },
      'and nothing comes after the end',
    )
  },
)

t.test('a final state is final, whatever is called in whatever order', async () => {
  const calls = {
    start: (p: Prediction) => p.start(),
    output: (p: Prediction) => p.addOutput('x'),
    log: (p: Prediction) => p.addLog('l\n', 'stdout'),
    metric: (p: Prediction) => p.addMetric('m', 1, 'increment'),
    succeed: (p: Prediction) => p.succeed(),
    fail: (p: Prediction) => p.fail('e'),
    cancel: (p: Prediction) => p.cancel(),
  }
  const names = Object.keys(calls) as (keyof typeof calls)[]
  fc.assert(
    fc.property(fc.array(fc.constantFrom(...names), { maxLength: 30 }), (sequence) => {
      const prediction = create()
      const events: PredictionEvent[] = []
      prediction.subscribe((event) => events.push(event))
      let final: string | undefined
      for (const name of sequence) {
        calls[name](prediction)
        final ??= prediction.isFinal ? JSON.stringify(prediction.body()) : undefined
      }
      const completed = events.filter((event) => event.name === 'completed')
      const firstEnd = sequence.findIndex((name) => ['succeed', 'fail', 'cancel'].includes(name))
      return (
        completed.length === (firstEnd < 0 ? 0 : 1) &&
        (final === undefined || (final === JSON.stringify(prediction.body()) && events.at(-1) === completed[0])) &&
        events.filter((event) => event.name === 'start').length <= 1
      )
    }),
  )
})
