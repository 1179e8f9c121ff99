import t from 'tap'
import { createMetrics } from '../../server/run-metrics.js'

function recorded() {
  const calls: unknown[][] = []
  return { calls, metrics: createMetrics((...call) => calls.push(call)) }
}

t.test('set, increment and append are passed on in their order', async (t) => {
  const { calls, metrics } = recorded()
  metrics.set('timing.decode', 0.5)
  metrics.increment('tokens')
  metrics.increment('tokens', 2.5)
  metrics.append('steps', { name: 'a' })
  metrics.set('timing.decode', null)
  t.strictSame(calls, [
    ['timing.decode', 0.5, 'replace'],
    ['tokens', 1, 'increment'],
    ['tokens', 2.5, 'increment'],
    ['steps', { name: 'a' }, 'append'],
    ['timing.decode', null, 'replace'],
  ])
})

t.test("names are Cog's", async (t) => {
  const { calls, metrics } = recorded()
  const legal = ['temperature', 'token_count', 'TTFT', 'T2I_latency', 'a.b.c.d', 'x'.repeat(128), 'cost_of_it']
  for (const name of legal) metrics.set(name, 1)
  t.equal(calls.length, legal.length)
  const reserved = ['predict_time', 'total_time', 'cost', 'cog.system', 'cog']
  const illegal = [
    '',
    '_token',
    'token_',
    'foo__bar',
    '.foo',
    'foo..bar',
    'foo bar',
    '1a',
    'a.b.c.d.e',
    '__proto__',
    'é',
  ]
  for (const name of [...reserved, ...illegal, 'x'.repeat(129)]) {
    t.throws(() => metrics.set(name, 1), { name: 'TypeError', message: /cannot be a metric's name/ }, name)
  }
  t.equal(calls.length, legal.length)
})

t.test('a metric keeps its type until it is deleted', async (t) => {
  const { metrics } = recorded()
  metrics.set('count', 1)
  const message = 'The metric count is a number and cannot become a string. Set it to null first.'
  t.throws(() => metrics.set('count', 'oops'), { name: 'TypeError', message })
  t.throws(() => metrics.append('count', 1), /is a number and cannot become a list/)
  metrics.set('count', null)
  metrics.set('count', 'a string')
  t.throws(() => metrics.increment('count'), /is a string and cannot become a number/)
  metrics.set('list', [1])
  metrics.append('list', 2)
})

t.test('what JSON cannot carry is refused', async (t) => {
  const { calls, metrics } = recorded()
  const cycle: unknown[] = []
  cycle.push(cycle)
  for (const value of [Number.NaN, Number.POSITIVE_INFINITY, undefined, 1n, cycle, () => {}]) {
    t.throws(() => metrics.set('a', value), { name: 'TypeError', message: /JSON cannot carry/ })
  }
  t.throws(() => metrics.increment('a', Number.NaN), {
    message: 'The metric a can grow by a finite number only, not by NaN.',
  })
  t.equal(calls.length, 0)
})
