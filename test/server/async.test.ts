import { once } from 'node:events'
import { request } from 'node:http'
import t from 'tap'
import { z } from 'zod'
import { definePredictor } from '../../server/predictor.js'
import { Predictor as EchoStream } from '../predictors/echo-stream.js'
import { Predictor as Prepared } from '../predictors/prepared.js'
import { deferred, testServer } from './fixtures.js'

const post = (payload: object, headers: Record<string, string> = { prefer: 'respond-async' }) =>
  ({
    method: 'POST',
    url: '/predictions',
    headers: { 'content-type': 'application/json', ...headers },
    payload,
  }) as const

function waiting() {
  const gate = deferred()
  const predictor = definePredictor({
    input: z.object({}),
    output: z.string(),
    streaming: false,
    async predict() {
      await gate.promise
      return 'done'
    },
  })
  return { gate, predictor }
}

t.test('respond-async is answered with 202 while the prediction runs, which then goes on by itself', async (t) => {
  const { gate, predictor } = waiting()
  const { app, service } = await testServer({ predictor })
  t.teardown(() => app.close())
  const answer = await app.inject(post({ id: 'a' }))
  t.equal(answer.statusCode, 202)
  t.equal(answer.body, '{"id":"a","status":"starting"}')
  const prediction = service.find('a')!
  t.equal(prediction.status, 'processing')
  t.equal((await app.inject(post({}))).statusCode, 409, 'it holds its slot')
  gate.resolve()
  await prediction.ended
  t.match(prediction.body(), { status: 'succeeded', output: 'done' })
  t.equal(service.status, 'READY')
})

t.test('a client that waits for no answer may leave: its prediction goes on', async (t) => {
  const { gate, predictor } = waiting()
  const { app, service, listen } = await testServer({ predictor })
  t.teardown(() => app.close())
  const port = await listen()
  const client = request({ port, method: 'PUT', path: '/predictions/left', headers: { prefer: 'respond-async' } })
  client.end()
  const [response] = await once(client, 'response')
  response.destroy()
  await once(response, 'close')
  const prediction = service.find('left')!
  gate.resolve()
  await prediction.ended
  t.equal(prediction.status, 'succeeded')
})

t.test('Prefer is a list, in any letter case, with parameters; Accept goes before it', async (t) => {
  const { app } = await testServer({ predictor: EchoStream, concurrency: 100 })
  t.teardown(() => app.close())
  const statusOf = async (headers: Record<string, string>) =>
    (await app.inject(post({ input: { prompt: 'a', n: 1 } }, headers))).statusCode
  for (const prefer of [
    'respond-async',
    ' respond-async ',
    'Respond-Async',
    'wait=5, respond-async',
    'respond-async;x=1',
  ]) {
    t.equal(await statusOf({ prefer }), 202, prefer)
  }
  for (const prefer of ['wait=5', 'respond', 'respond-asynchronously', '']) {
    t.equal(await statusOf({ prefer }), 200, prefer)
  }
  t.equal(await statusOf({ prefer: 'respond-async', accept: 'text/event-stream' }), 200)
})

t.test('respond-async is refused as the other modes are, also by the Predictor itself', async (t) => {
  const { app } = await testServer({ predictor: EchoStream })
  t.teardown(() => app.close())
  t.equal((await app.inject(post({ input: {} }))).statusCode, 422)
  const { app: checked } = await testServer({ predictor: Prepared })
  t.teardown(() => checked.close())
  const refused = await checked.inject(post({ input: { words: ['more than ten letters'] } }))
  t.equal(refused.statusCode, 422, refused.body)
})

t.test('draining waits for predictions that nobody waits for', async (t) => {
  const { gate, predictor } = waiting()
  const { app, service } = await testServer({ predictor })
  t.teardown(() => app.close())
  await app.inject(post({ id: 'a' }))
  const prediction = service.find('a')!
  const draining = service.drain({ limitMs: 1000, graceMs: 500 })
  t.equal(prediction.status, 'processing')
  gate.resolve()
  await draining
  t.equal(prediction.status, 'succeeded')
})
