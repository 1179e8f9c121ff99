import t from 'tap'
import { exactUrl } from '../../server/exact-url.js'
import { Predictor as EchoStream } from '../predictors/echo-stream.js'
import { testServer } from './fixtures.js'

t.test('what is sent as the contract writes it goes on as it is', async (t) => {
  for (const url of [
    '/',
    '/?a=/',
    '/predictions',
    '/predictions?x=%',
    '/predictions/a%2Fb/cancel',
    '/predictions/%C3%BC',
  ]) {
    t.equal(exactUrl(url), url)
  }
  t.equal(exactUrl('/predictions/100%/cancel?q'), '/predictions/100%25/cancel')
})

t.test('another spelling of a path is another path, and a percent sign in an id may stand for itself', async (t) => {
  const { app } = await testServer({ predictor: EchoStream, keepMs: 1000 })
  t.teardown(() => app.close())
  const payload = JSON.stringify({ input: { prompt: 'a', n: 1 } })
  const send = (method: 'GET' | 'PUT' | 'POST', url: string) =>
    app.inject({ method, url, ...(method === 'PUT' && { payload, headers: { 'content-type': 'application/json' } }) })
  for (const [method, url] of [
    ['GET', '/health%2Dcheck'],
    ['POST', '/%73hutdown'],
    ['GET', '/health-check/'],
    ['GET', '//health-check'],
    ['PUT', '/predictions/'],
    ['GET', '/predictions/?x'],
    ['POST', '/predictions/x/canc%65l'],
    ['PUT', '/trainings/'],
  ] as const) {
    const { statusCode, body } = await send(method, url)
    t.strictSame([statusCode, body], [404, ''], url)
  }
  t.equal((await send('PUT', '/predictions/100%')).json().id, '100%')
  t.equal((await send('PUT', '/predictions/%zz%41')).json().id, '%zzA')
  t.equal((await send('PUT', '/predictions/%ff')).statusCode, 400)
})
