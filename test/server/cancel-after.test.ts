import t from 'tap'
import { z } from 'zod'
import { parseCancelAfter } from '../../server/cancel-after.js'
import { definePredictor } from '../../server/predictor.js'
import { FakeClock, testServer } from './fixtures.js'

t.test('durations are read in all forms, from 5 seconds to a day', async (t) => {
  const seconds: [string, number][] = [
    ['30', 30],
    ['30s', 30],
    ['5m', 300],
    ['1h30m45s', 5445],
    ['24h', 86_400],
    ['1440m', 86_400],
    ['86400', 86_400],
    ['5', 5],
    [' 5s ', 5],
    ['0h0m5s', 5],
  ]
  for (const [text, value] of seconds) t.equal(parseCancelAfter(text), value * 1000, text)
  for (const text of ['', '4', '4s', '0', '24h1s', '1d', '-30', '1.5m', '5 m', '30ms', '1s1m', 'x', '9'.repeat(30)]) {
    t.equal(parseCancelAfter(text), undefined, text)
  }
})

const endless = definePredictor({
  input: z.object({}),
  output: z.string(),
  streaming: false,
  predict: (_input, _state, { signal }) =>
    new Promise<string>((resolve) => signal.addEventListener('abort', () => resolve('x'))),
})
const request = (id: string, cancelAfter?: string) =>
  ({
    method: 'POST',
    url: '/predictions',
    headers: { 'content-type': 'application/json', ...(cancelAfter && { 'cancel-after': cancelAfter }) },
    payload: { id, input: {} },
  }) as const

t.test('at its deadline a prediction is canceled, whether it runs or waits, and names it', async (t) => {
  const clock = new FakeClock()
  const { app, service } = await testServer({ predictor: endless, clock, queueLimit: 2 })
  t.teardown(() => app.close())
  const running = app.inject(request('a', '10s'))
  const waiting = app.inject(request('b', '8'))
  const next = app.inject(request('c', '1h'))
  while (!service.find('c')) await new Promise(setImmediate)
  clock.advance(8000)
  t.strictSame((await waiting).json(), {
    error: 'Canceled: the deadline that the request set (Cancel-After, 8 s) has passed.',
    id: 'b',
    logs: '',
    metrics: { cost: 0, predict_time: 0, queue_time: 8, total_time: 8 },
    status: 'canceled',
  })
  clock.advance(2000)
  t.match((await running).json(), { id: 'a', status: 'canceled', error: /10 s/, metrics: { predict_time: 10 } })
  service.cancelById('c')
  const { error, status } = (await next).json()
  t.strictSame([error, status], [undefined, 'canceled'])
  t.equal(clock.waiting, 0, 'no deadline outlives its prediction')
  t.equal(service.status, 'READY')
})

t.test('a deadline that cannot be kept is refused, and nothing runs', async (t) => {
  const { app, service } = await testServer({ predictor: endless })
  t.teardown(() => app.close())
  const response = await app.inject(request('a', '4s'))
  t.equal(response.statusCode, 422)
  const msg = 'must be 5 s to 24 h, such as 30, 30s, 5m or 1h30m45s'
  t.strictSame(response.json(), { detail: [{ loc: ['header', 'Cancel-After'], msg, type: 'value_error' }] })
  t.equal(service.status, 'READY')
})
