import fc from 'fast-check'
import t from 'tap'
import { z } from 'zod'
import { definePredictor } from '../../../server/predictor.js'
import { Predictor as EchoStream } from '../../predictors/echo-stream.js'
import { deferred, testServer } from '../fixtures.js'

const JSON_TYPE = { 'content-type': 'application/json' }
const post = (payload: object) => ({ method: 'POST', url: '/predictions', headers: JSON_TYPE, payload }) as const

/** Runs until it is told to stop, or canceled. */
function held() {
  const gate = deferred()
  const predictor = definePredictor({
    input: z.object({ text: z.string().default('') }),
    output: z.string(),
    streaming: false,
    async predict(input, _state, { signal }) {
      const canceled = new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()))
      await Promise.race([gate.promise, canceled])
      return input.text
    },
  })
  return { predictor, release: () => gate.resolve() }
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise(setImmediate)
}

t.test('an id is any text of up to 16 KiB, and one that is longer is refused', async (t) => {
  const { app, service } = await testServer({ predictor: EchoStream })
  t.teardown(() => app.close())
  const input = { prompt: 'a', n: 1 }
  for (const id of ['../../etc/passwd', '..', 'a\0b', '\u{1f600}', 'x'.repeat(10_000), 'ü'.repeat(8192)]) {
    t.match((await app.inject(post({ id, input }))).json(), { id, status: 'succeeded' }, id.slice(0, 20))
  }
  const refused = await app.inject(post({ id: 'ü'.repeat(8193), input }))
  t.equal(refused.statusCode, 422)
  t.strictSame(refused.json(), {
    detail: [{ loc: ['body', 'id'], msg: 'prediction ID must be at most 16384 bytes', type: 'value_error' }],
  })
  t.equal(service.status, 'READY')
})

t.test('PUT of an id that runs, also with another body, starts no second one and changes nothing', async (t) => {
  const { predictor, release } = held()
  const { app, service, worker } = await testServer({ predictor, concurrency: 4 })
  t.teardown(() => app.close())
  const put = (text: string) =>
    app.inject({ method: 'PUT', url: '/predictions/same', headers: JSON_TYPE, payload: { input: { text } } })
  const first = put('first')
  await until(() => service.find('same') !== undefined)
  const others = await Promise.all([put('first'), put('second')])
  for (const other of others) t.match(other.json(), { id: 'same', input: { text: 'first' } })
  for (const other of others) t.equal(other.statusCode, 202)
  release()
  t.match((await first).json(), { output: 'first', status: 'succeeded' })
  const started = worker.received.flatMap((message) => (message.type === 'batch' ? message.events : []))
  t.equal(started.filter(({ kind }) => kind === 'accepted').length, 1)
  t.equal(service.status, 'READY')
})

t.test('a cancel while it runs, again, after the end and of nothing does no harm', async (t) => {
  const { predictor } = held()
  const { app, service } = await testServer({ predictor })
  t.teardown(() => app.close())
  const cancel = async (id: string) =>
    (await app.inject({ method: 'POST', url: `/predictions/${id}/cancel` })).statusCode
  t.equal(await cancel('a'), 404, 'before it began')
  const answer = app.inject(post({ id: 'a', input: {} }))
  await until(() => service.find('a') !== undefined)
  t.strictSame(await Promise.all([cancel('a'), cancel('a')]), [200, 200])
  t.match((await answer).json(), { id: 'a', status: 'canceled' })
  t.equal(await cancel('a'), 404)
  t.equal(await cancel('..%2f..'), 404)
  t.equal(service.status, 'READY')
})

t.test('1,000 cancels at random among running predictions leave every slot free', async (t) => {
  const { predictor } = held()
  const { app, service } = await testServer({ predictor, concurrency: 8 })
  t.teardown(() => app.close())
  const ids = fc.sample(fc.integer({ min: 0, max: 15 }), { numRuns: 1000, seed: 1 }).map(String)
  const answers: Promise<{ statusCode: number }>[] = []
  for (const id of ids) {
    answers.push(app.inject(post({ id, input: {} })))
    answers.push(app.inject({ method: 'POST', url: `/predictions/${ids[answers.length % 1000]}/cancel` }))
    if (answers.length % 50 === 0) await new Promise(setImmediate)
  }
  let over = false
  const all = Promise.all(answers).finally(() => {
    over = true
  })
  while (!over) {
    for (let id = 0; id < 16; id++) service.cancelById(String(id))
    await new Promise(setImmediate)
  }
  t.ok((await all).every(({ statusCode }) => [200, 404, 409].includes(statusCode)))
  t.equal(service.status, 'READY')
})
