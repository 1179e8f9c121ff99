import { readFileSync } from 'node:fs'
import t from 'tap'
import { differences, type Observation, signatureOf } from './compare.js'
import { PURPOSES, rowsFor, rowsOf, STANDING } from './purposes.js'

const JSON_HEADERS = { 'content-type': 'application/json' }

function seen(body: string, status = 200, headers: Record<string, string> = JSON_HEADERS): Observation {
  return { answers: [{ to: 'the request', status, headers, body }], webhooks: [] }
}

function stream(events: readonly string[]): Observation {
  return seen(events.map((event) => `${event}\n\n`).join(''), 200, { 'content-type': 'text/event-stream' })
}

function request(body: string, headers: readonly (readonly [string, string])[] = []) {
  return { request: { method: 'POST', path: '/predictions', headers, body: Buffer.from(body) } }
}

t.test('ids that were drawn, times, and what ours has beside are matched', async (t) => {
  const cog = seen(
    '{"error":"Prediction failed: Generator iteration error: ValueError: no","id":"pred_18eae96949b7c4ff","logs":"","metrics":{"predict_time":0.1},"status":"failed"}',
  )
  const ours = seen(
    '{"error":"Prediction failed: Error: no","id":"abcdefghijklmnopqrstuvwxyz","logs":"","metrics":{"cost":6.7e-8,"predict_time":2,"total_time":2.1},"status":"failed"}',
  )
  t.same(differences(cog, ours), [])
})

t.test('all else in a body counts: an id that was sent, a message, a key, their order', async (t) => {
  const body =
    '{"error":"Prediction failed: Error: no","id":"mine","logs":"","metrics":{"predict_time":1},"status":"failed"}'
  for (const [from, to] of [
    ['"mine"', '"abcdefghijklmnopqrstuvwxyz"'],
    [': no', ': nothing'],
    ['"predict_time":1', '"predict_time":1,"tokens":5'],
    ['"logs":"",', ''],
    ['"id":"mine","logs":""', '"logs":"","id":"mine"'],
  ] as const) {
    t.match(differences(seen(body), seen(body.replace(from, to))), [{ at: 'the request: body' }], to)
  }
})

t.test('a header that is there on one side only is a difference, but for those of the connection', async (t) => {
  t.same(differences(seen(''), seen('', 200, { ...JSON_HEADERS, date: 'today', 'content-length': '0' })), [])
  t.match(differences(seen(''), seen('', 200, { ...JSON_HEADERS, 'retry-after': '1' })), [
    { at: 'the request: header retry-after', cog: 'undefined', ours: '1' },
  ])
})

t.test('a status that differs stands for what follows from it', async (t) => {
  const found = differences(seen('{}', 404), seen('text', 400, {}))
  t.same(found, [{ at: 'the request: status', cog: '404 {}', ours: '400 text' }])
  t.equal(signatureOf(found), 'the request: status 404/400')
})

t.test('streams are compared event by event, in order', async (t) => {
  const events = [
    'event: start\ndata: {}',
    'event: output\ndata: {"chunk":"a","index":0}',
    'event: completed\ndata: {}',
  ]
  t.same(differences(stream(events), stream(events)), [])
  t.match(differences(stream(events), stream([events[0]!, events[2]!, events[1]!])), [{ at: 'the request: event 1' }])
  t.match(differences(stream(events), stream(events.slice(0, 2))), [{ at: 'the request: event 2', ours: '' }])
  t.match(differences(stream(events.slice(0, 2)), stream(events)), [{ at: 'the request: event 2', cog: '' }])
})

t.test('webhooks are compared as a set, with what they carry', async (t) => {
  const call = (body: string, headers = {}) => ({ headers: { ...JSON_HEADERS, ...headers }, body })
  const with_ = (...webhooks: Observation['webhooks']): Observation => ({ answers: [], webhooks })
  t.same(differences(with_(call('a'), call('b')), with_(call('b', { 'user-agent': 'x' }), call('a'))), [])
  t.match(differences(with_(call('a'), call('a')), with_(call('a'))), [{ at: 'webhooks', ours: 'the rest is equal' }])
  t.match(differences(with_(call('a', { traceparent: '1' })), with_(call('a'))), [{ at: 'webhooks' }])
})

t.test('an answer that did not come is a difference, and one that the client left is not', async (t) => {
  const answer = (ending?: string): Observation => ({
    answers: [{ to: 'the request', headers: {}, body: '', ...(ending && { ending }) }],
    webhooks: [],
  })
  t.same(differences(answer('left'), answer('left')), [])
  t.match(differences(answer('left'), answer('socket hang up')), [{ at: 'the request: ending' }])
  t.match(differences(answer(), { answers: [], webhooks: [] }), [{ at: 'the request', ours: 'nothing' }])
})

t.test('every row that excuses a difference is in docs/cog-compatibility.md', async (t) => {
  const rows = rowsOf(readFileSync(new URL('../../../docs/cog-compatibility.md', import.meta.url), 'utf8'))
  for (const row of [...STANDING, ...PURPOSES.map(({ row }) => row)]) t.ok(rows.includes(row), row)
})

t.test('a case differs on purpose only if a row covers each of its differences', async (t) => {
  const cog = seen('Failed to parse the request body as JSON: x', 400)
  const ours = seen('{"detail":[]}', 422)
  const one = request('{"input":{"prompt":NaN}}')
  const context = { one, cog, ours }
  const found = differences(cog, ours)
  t.same(rowsFor(found, context), ['NaN, Infinity, 1e999, lone surrogates'])
  t.equal(rowsFor([...found, { at: 'the server', cog: '', ours: '' }], context), undefined)
  t.equal(rowsFor(found, { ...context, one: request('{"input":{"prompt":5}}') }), undefined)
})

t.test('a failure that only Cog has, and tells nobody, is known by the count that was no integer', async (t) => {
  const cog: Observation = { answers: [], webhooks: [] }
  const ours: Observation = { answers: [], webhooks: [{ headers: {}, body: '{"output":["a"]}' }] }
  const one = (n: string) => ({ one: request(`{"input":{"n": ${n}}}`), cog, ours })
  for (const n of ['5.0', '5e0', '50e-1']) t.same(rowsFor(differences(cog, ours), one(n)), ['5.0 for an integer'], n)
  t.equal(rowsFor(differences(cog, ours), one('5')), undefined)
  t.equal(rowsFor(differences(ours, cog), { ...one('5.0'), cog: ours, ours: cog }), undefined)
})

t.test('webhooks of what ran on one side only follow from its status', async (t) => {
  const cog = { ...seen('{}', 200), webhooks: [{ headers: {}, body: 'a' }] }
  const ours = seen('{"id":"x","status":"starting"}', 202)
  const one = request('{}', [['prefer', 'respond-async, wait=5']])
  t.same(rowsFor(differences(cog, ours), { one, cog, ours }), ['`Prefer`'])
  t.equal(rowsFor(differences({ ...cog, answers: [] }, { ...ours, answers: [] }), { one, cog, ours }), undefined)
})
