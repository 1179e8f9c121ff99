import t from 'tap'
import { z } from 'zod'
import { definePredictor } from '../../server/predictor.js'
import { deferred, testServer } from './fixtures.js'

t.test('ready and busy are ready; unhealthy and leaving are not; alive is all of them', async (t) => {
  const gate = deferred<void>()
  let healthy = true
  const { app, service } = await testServer({
    predictor: definePredictor({
      input: z.object({}),
      output: z.string(),
      streaming: false,
      predict: async () => {
        await gate.promise
        return 'x'
      },
      healthcheck: () => healthy,
    }),
  })
  t.teardown(() => app.close())
  const ask = async (url: string) => {
    const { statusCode, body } = await app.inject({ method: 'GET', url })
    return `${statusCode} ${body}`
  }
  t.equal(await ask('/readyz'), '200 {"status":"READY"}')
  const send = () =>
    app.inject({ method: 'POST', url: '/predictions', headers: { 'content-type': 'application/json' }, payload: {} })
  const answer = send()
  while (service.status !== 'BUSY') await new Promise(setImmediate)
  t.equal(await ask('/readyz'), '200 {"status":"BUSY"}')
  healthy = false
  t.equal(await ask('/readyz'), '503 {"status":"UNHEALTHY"}')
  healthy = true
  gate.resolve()
  t.equal((await answer).statusCode, 200)
  service.leave()
  t.equal(await ask('/readyz'), '503 {"status":"DRAINING"}')
  t.equal((await send()).statusCode, 200, 'who has not noticed yet is still served')
  t.equal(await ask('/livez'), '200 {"status":"alive"}')
  t.match(await app.inject({ method: 'POST', url: '/livez' }), { statusCode: 405, headers: { allow: 'GET,HEAD' } })
})
