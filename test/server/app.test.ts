import { once } from 'node:events'
import { type IncomingMessage, request } from 'node:http'
import t from 'tap'
import { z } from 'zod'
import { definePredictor, textStream } from '../../server/predictor.js'
import { Predictor as EchoStream, NoStream } from '../predictors/echo-stream.js'
import { Predictor as Prepared } from '../predictors/prepared.js'
import { deferred, testServer } from './fixtures.js'

const JSON_TYPE = { 'content-type': 'application/json' }
const post = (payload: string | object, headers: Record<string, string> = JSON_TYPE) =>
  ({ method: 'POST', url: '/predictions', headers, payload }) as const

t.test('a prediction tells what it took and cost, keys in alphabetical order', async (t) => {
  const { app, clock } = await testServer({
    predictor: definePredictor({
      input: z.object({}),
      output: textStream(),
      streaming: true,
      async *predict(_input, _state, context) {
        clock.advance(2000)
        context.metrics.set('output_token_count', 1)
        yield 'text'
      },
    }),
  })
  t.teardown(() => app.close())
  const response = await app.inject(post({ id: 'x', input: {} }))
  t.equal(response.headers['content-type'], 'application/json')
  t.equal(
    response.body,
    '{"id":"x","logs":"","metrics":{"cost":1,"output_token_count":1,"predict_time":2,"total_time":2},"output":["text"],"status":"succeeded"}',
  )
})

t.test('a drawn id is 26 characters of base32 and never the same', async (t) => {
  const { app } = await testServer({ predictor: EchoStream })
  t.teardown(() => app.close())
  const ids = new Set<string>()
  for (let i = 0; i < 20; i++) {
    const { id } = (await app.inject(post({ input: { prompt: 'a', n: 1 } }))).json()
    t.match(id, /^[a-z2-7]{26}$/)
    ids.add(id)
  }
  t.equal(ids.size, 20)
  t.equal((await app.inject(post({ id: null, input: { prompt: 'a', n: 1 } }))).json().id.length, 26)
  t.equal((await app.inject(post({ id: '', input: { prompt: 'a', n: 1 } }))).json().id, '')
})

t.test('the content type decides whether a body is read at all', async (t) => {
  const { app } = await testServer({ predictor: EchoStream })
  t.teardown(() => app.close())
  const missing = await app.inject(post('{"input":{"prompt":"a"}}', {}))
  t.equal(missing.statusCode, 422, 'without a content type the body counts as {}')
  t.match(missing.json(), { detail: [{ loc: ['body', 'input', 'prompt'], msg: 'Field required' }] })
  t.equal((await app.inject({ method: 'POST', url: '/predictions' })).statusCode, 422)
  for (const type of [
    'text/plain',
    'application/jsonx',
    'application/x',
    'application/+json',
    'json',
    '*/*',
    'application/json/x',
    'application/json;;',
    'application/json; charset',
    'application/json;a=b ;c=d',
    'application/json;a=;b=c',
    'application/json;a="',
    'application/json,text/plain',
    'application /json',
    '',
  ]) {
    const response = await app.inject(post('{"input":{"prompt":"a"}}', { 'content-type': type }))
    t.equal(response.statusCode, 415, type)
    t.equal(response.body, 'Expected request with `Content-Type: application/json`')
    t.equal(response.headers['content-type'], 'text/plain; charset=utf-8')
  }
  for (const type of [
    'APPLICATION/JSON',
    'application/json;charset=utf-8',
    'application/ld+JSON; x=y',
    'application/json;',
    'application/json; a="x;y" ; c=d',
    'application/json;a=',
    'application/json+x',
    'application/a+b+json',
  ]) {
    t.equal((await app.inject(post('{"input":{"prompt":"a"}}', { 'content-type': type }))).statusCode, 200, type)
  }
})

t.test('a body over the limit is refused, announced or not, and one of just that size is taken', async (t) => {
  const { app } = await testServer({ predictor: EchoStream, bodyLimitBytes: 100 })
  t.teardown(() => app.close())
  const body = '{"input":{"prompt":"a"}}'
  t.equal((await app.inject(post(body.padEnd(100)))).statusCode, 200)
  const response = await app.inject(post(body.padEnd(101)))
  t.equal(response.statusCode, 413)
  t.equal(response.body, 'Failed to buffer the request body: length limit exceeded: it is over 100 bytes')
})

t.test('bodies that are no JSON, too deep, or of the wrong shape are refused before anything runs', async (t) => {
  const { app, worker } = await testServer({ predictor: EchoStream })
  t.teardown(() => app.close())
  worker.received.length = 0
  const refused: [string, number, RegExp][] = [
    ['', 400, /^Failed to parse the request body as JSON: unexpected end at character 0$/],
    ['{"input":{"prompt":"secret"', 400, /^Failed to parse the request body as JSON: /],
    ['{} {}', 400, /^Failed to parse/],
    [
      `{"input":{"prompt":"x","deep":${'['.repeat(10_000)}${']'.repeat(10_000)}}}`,
      400,
      /nested deeper than 127 levels$/,
    ],
    ['[1]', 422, /^Failed to deserialize the JSON body into the target type: invalid type: sequence, expected struct/],
    ['null', 422, /invalid type: null, expected struct PredictionRequest$/],
    ['{"id":5}', 422, /: id: invalid type: number, expected a string$/],
    ['{"context":{"a":1}}', 422, /: context.a: invalid type: number, expected a string$/],
    ['{"id":"a","id":"a"}', 422, /: duplicate field `id`$/],
    ['{"input":{},"id":"a","input":{"prompt":"secret"}}', 422, /: duplicate field `input`$/],
    ['{"\\u0069d":"a","id":"a"}', 422, /: duplicate field `id`$/],
    ['{"id":"\\ud800","input":{"prompt":"a"}}', 400, /: lone surrogate$/],
    ['{"webhook":"http://x/\\udfff"}', 400, /: lone surrogate$/],
    ['{"context":{"id":"\\ud800"}}', 400, /: lone surrogate$/],
    ['{"context":{"\\ud800":"a"},"id":"a"}', 400, /: lone surrogate$/],
    ['{"context":null}', 422, /: context: invalid type: null, expected a map$/],
    ['{"webhook":{}}', 422, /: webhook: invalid type: map, expected a string$/],
    ['{"webhook_events_filter":["start",null]}', 400, /: webhook_events_filter: expected a text$/],
    ['{"webhook_events_filter":[1]}', 400, /: webhook_events_filter: expected a text$/],
    ['{"webhook_events_filter":null}', 422, /: webhook_events_filter: invalid type: null, expected a sequence$/],
    [
      '{"webhook_events_filter":["secret"]}',
      422,
      /: webhook_events_filter: .*expected start or output or logs or completed$/,
    ],
  ]
  for (const [body, status, text] of refused) {
    const response = await app.inject(post(body))
    t.equal(response.statusCode, status, body.slice(0, 40))
    t.match(response.body, text)
    t.notMatch(response.body, /secret/)
    t.equal(response.headers['content-type'], 'text/plain; charset=utf-8')
  }
  t.strictSame(worker.received, [])
})

t.test('numbers and texts that no JSON can carry are refused with the name of their field', async (t) => {
  const { app } = await testServer({ predictor: EchoStream })
  t.teardown(() => app.close())
  const refused: [string, string, RegExp][] = [
    ['{"prompt":"x","delay":NaN}', 'delay', /a non-finite number is not of type "number"/],
    ['{"prompt":"x","delay":-Infinity}', 'delay', /a non-finite number/],
    ['{"prompt":"x","delay":1e999}', 'delay', /a non-finite number/],
    ['{"prompt":"x","fail_at":1e308}', 'fail_at', /1e\+308 is beyond/],
    ['{"prompt":"\\ud800"}', 'prompt', /lone surrogate at index 0/],
    ['{"prompt":"ok \\udfff"}', 'prompt', /lone surrogate at index 3/],
  ]
  for (const [input, field, msg] of refused) {
    const response = await app.inject(post(`{"input":${input}}`))
    t.equal(response.statusCode, 422, input)
    t.match(response.json(), { detail: [{ loc: ['body', 'input', field], msg, type: 'value_error' }] })
  }
  for (const input of ['{"prompt":"x","n":1.0}', '{"prompt":"x","n":1,"delay":-0}', '{"prompt":"\\u0000","n":1}']) {
    t.equal((await app.inject(post(`{"input":${input}}`))).json().status, 'succeeded', input)
  }
})

t.test('keys that name prototypes change nothing', async (t) => {
  const { app } = await testServer({ predictor: EchoStream })
  t.teardown(() => app.close())
  const bodies = [
    '{"__proto__":{"input":{"prompt":"x"}}}',
    '{"input":{"__proto__":{"prompt":"x"}}}',
    '{"input":{"constructor":{"prototype":{"prompt":"x"}}}}',
  ]
  for (const body of bodies) t.equal((await app.inject(post(body))).statusCode, 422, body)
  const context =
    '{"input":{"prompt":"x","n":1,"__proto__":{"n":2}},"context":{"__proto__":"y"},"__proto__":{"id":"z"}}'
  t.match((await app.inject(post(context))).json(), { status: 'succeeded', output: ['x'] })
  t.notOk('prompt' in {})
})

t.test(
  "the Predictor's own check answers 422 before anything starts, whole and streamed, and frees its slot",
  async (t) => {
    const { app, service } = await testServer({ predictor: { ...Prepared, streaming: true } })
    t.teardown(() => app.close())
    for (const headers of [JSON_TYPE, { ...JSON_TYPE, accept: 'text/event-stream' }]) {
      const response = await app.inject(post({ input: { words: ['abcdefghijkl'] } }, headers))
      t.equal(response.statusCode, 422)
      t.equal(
        response.body,
        '{"detail":[{"loc":["body","input","words"],"msg":"12 letters are more than 10. Send fewer.","type":"value_error"}]}',
      )
      t.equal(service.status, 'READY')
    }
  },
)

t.test('a path that is no UTF-8 is refused, and any other id is taken as it is', async (t) => {
  const { app } = await testServer({ predictor: EchoStream })
  t.teardown(() => app.close())
  const bad = await app.inject({ method: 'PUT', url: '/predictions/%ff', headers: JSON_TYPE, payload: '{}' })
  t.equal(bad.statusCode, 400)
  t.equal(bad.body, 'Invalid URL: Invalid UTF-8 in `id`')
  const cancel = await app.inject({ method: 'POST', url: '/predictions/%ff/cancel' })
  t.equal(cancel.statusCode, 400)
  for (const [url, id] of [
    ['%', '%'],
    ['%zz', '%zz'],
    ['50%25%', '50%%'],
  ]) {
    const payload = { input: { prompt: 'a', n: 1 } }
    const response = await app.inject({ method: 'PUT', url: `/predictions/${url}`, headers: JSON_TYPE, payload })
    t.match(response.json(), { id, status: 'succeeded' }, 'a percent sign that begins no escape stands for itself')
  }
  for (const id of ['../../etc/passwd', 'a b', 'ü😀', 'x'.repeat(3000), '__proto__', '%']) {
    const url = `/predictions/${encodeURIComponent(id)}`
    const response = await app.inject({
      method: 'PUT',
      url,
      headers: JSON_TYPE,
      payload: { input: { prompt: 'a', n: 1 } },
    })
    t.match(response.json(), { id, status: 'succeeded' }, id.slice(0, 20))
  }
})

t.test('an unknown path and a wrong method are told before all else', async (t) => {
  const { app } = await testServer({ predictor: EchoStream })
  t.teardown(() => app.close())
  for (const type of ['json', 'application /json', 'application/json']) {
    const ask = async (method: 'POST' | 'PUT' | 'PATCH', url: string) =>
      await app.inject({ method, url, headers: { 'content-type': type }, payload: '{"input":{"prompt":"a"}}' })
    t.equal((await ask('PUT', '/nowhere')).statusCode, 404, type)
    t.equal((await ask('PUT', '/predictions/')).statusCode, 404, 'no id is no prediction')
    t.equal((await ask('PATCH', '/')).headers.allow, 'GET,HEAD')
    t.equal((await ask('PUT', '/predictions/%ff/cancel')).headers.allow, 'POST')
    t.equal((await ask('PUT', '/predictions//cancel')).headers.allow, 'POST')
    const cancel = await ask('POST', '/predictions/unknown/cancel')
    t.equal(cancel.body, '{}', 'a body that is not used may be of any type')
    t.equal(cancel.statusCode, 404)
  }
  const stray = await app.inject({ method: 'PUT', url: '/nowhere/%ff' })
  t.equal(stray.statusCode, 404)
})

t.test('the slot is free when the answer comes', async (t) => {
  const { app } = await testServer({ predictor: EchoStream, concurrency: 1 })
  t.teardown(() => app.close())
  for (let i = 0; i < 50; i++) {
    t.equal((await app.inject(post({ input: { prompt: 'a', n: 1 } }))).statusCode, 200)
  }
})

t.test('as many run at once as there are slots, and the next is refused', async (t) => {
  const gate = deferred()
  const { app, service } = await testServer({
    concurrency: 3,
    predictor: definePredictor({
      input: z.object({}),
      output: z.string(),
      streaming: false,
      predict: async () => {
        await gate.promise
        return 'x'
      },
    }),
  })
  t.teardown(() => app.close())
  const answers = Promise.all([1, 2, 3].map(() => app.inject(post({ input: {} }))))
  while (service.status !== 'BUSY') await new Promise(setImmediate)
  const refused = await app.inject(post({ input: {} }))
  t.equal(refused.statusCode, 409)
  t.equal(refused.body, '{"error":"At capacity - all prediction slots busy","status":"failed"}')
  gate.resolve()
  for (const answer of await answers) t.equal(answer.statusCode, 200)
  t.equal(service.status, 'READY')
})

t.test('at no level does the log carry what users wrote or what the model answered', async (t) => {
  const lines: string[] = []
  const { app } = await testServer({ predictor: EchoStream, onLog: (line) => lines.push(line) })
  t.teardown(() => app.close())
  const secret = 'xyzzy'
  const bodies = [
    { input: { prompt: secret } },
    { input: { prompt: `log: ${secret}` } },
    { input: { prompt: `metric: ${secret}` } },
    { input: { prompt: secret, fail_at: 0 } },
    { input: { prompt: { secret } } },
    { input: { prompt: 'x', mode: secret } },
    { input: { prompt: 'x', n: 1, other: secret } },
  ]
  for (const body of bodies) {
    await app.inject(post(body))
    await app.inject(post(body, { ...JSON_TYPE, accept: 'text/event-stream' }))
  }
  await app.inject(post(`{"input":"${secret}`))
  t.ok(lines.length > bodies.length)
  t.notMatch(lines.join(''), secret)
})

t.test('a key named __proto__ inside of an object reaches no Predictor', async (t) => {
  const predictor = definePredictor({
    input: z.object({ object: z.record(z.string(), z.unknown()) }),
    output: z.array(z.string()),
    streaming: false,
    predict: ({ object }) => [...Object.keys(object), String('polluted' in object)],
  })
  const { app } = await testServer({ predictor })
  t.teardown(() => app.close())
  const response = await app.inject(post('{"input":{"object":{"__proto__":{"polluted":1},"a":1,"constructor":2}}}'))
  t.strictSame(response.json().output, ['a', 'constructor', 'false'])
})

t.test('of an Accept that comes twice the first counts', async (t) => {
  const { app, listen } = await testServer({ predictor: EchoStream })
  t.teardown(() => app.close())
  const url = `http://127.0.0.1:${await listen()}/predictions`
  const typeOf = async (...accept: string[]) => {
    const body = JSON.stringify({ input: { prompt: 'a', n: 1 } })
    const headers = ['host', 'x', 'content-type', 'application/json', ...accept.flatMap((value) => ['Accept', value])]
    const call = request(url, { method: 'POST', headers: [...headers, 'content-length', String(body.length)] })
    call.end(body)
    const [response] = (await once(call, 'response')) as [IncomingMessage]
    response.resume()
    return response.headers['content-type']
  }
  t.equal(await typeOf('text/html', 'text/event-stream'), 'application/json')
  t.equal(await typeOf('text/event-stream', 'text/html'), 'text/event-stream')
  t.equal(await typeOf('text/html, text/event-stream'), 'text/event-stream')
})

t.test('nobody joins the stream of a model that does not stream', async (t) => {
  const { app, service } = await testServer({ predictor: NoStream, keepMs: 1000 })
  t.teardown(() => app.close())
  const accept = 'text/event-stream'
  const running = app.inject(post({ id: 'p', input: { prompt: 'late: a', n: 2, delay: 600 } }))
  while (service.find('p')?.status !== 'processing') await new Promise(setImmediate)
  t.equal((await app.inject({ method: 'PUT', url: '/predictions/p', headers: { accept } })).statusCode, 406)
  t.equal((await app.inject({ method: 'GET', url: '/predictions/p', headers: { accept } })).statusCode, 406)
  service.cancelById('p')
  t.equal((await running).json().status, 'canceled')
})
