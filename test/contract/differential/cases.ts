import * as fc from 'fast-check'
import type { OpenApiDocument } from '../../../server/messages.js'
import { type JsonText, type Member, nearlyValidInput, objectText, validInput } from './inputs.js'

/** A request as it goes over the wire. */
export interface WireRequest {
  readonly method: string
  readonly path: string
  readonly headers: readonly Member[]
  /** Bytes; {@link HOOK} in it stands for the address of the receiver of webhooks. */
  readonly body?: Buffer
  /** Whether the body comes in chunks, without its length. */
  readonly chunked?: boolean
}

/** One of the generated requests, and what happens while it runs. */
export interface DifferentialCase {
  readonly request: WireRequest
  /**
   * For a prediction that takes a while: what to do once its first chunk is out. Its stream is then read by a second
   * request, too, unless it is a stream itself.
   */
  readonly meanwhile?: Meanwhile
}

export interface Meanwhile {
  readonly id: string
  /** Sent one after another, each when the one before is answered. */
  readonly requests: readonly WireRequest[]
  /** Whether the client of the first request then hangs up. */
  readonly leaves: boolean
}

export const HOOK = '<hook>'

export const STREAM = 'text/event-stream'

const JSON_TYPE: Member = ['content-type', 'application/json']

/** Texts that a client may choose as an id. None leads out of a folder: the real server names folders by them. */
const IDS = fc.oneof(
  { weight: 4, arbitrary: fc.constantFrom('a1', 'x', 'pred-7', 'A_b.c~d') },
  {
    weight: 1,
    arbitrary: fc.constantFrom(
      '',
      'a/b',
      'a b',
      'é',
      '😀',
      '%',
      '%2F',
      'a+b',
      '?#',
      '"',
      '\n',
      '\u0000',
      'a'.repeat(300),
    ),
  },
)

const WRONG_TYPES: readonly JsonText[] = ['null', '5', '5.0', 'true', '[]', '{}', '["start"]', '{"a":"b"}', '"text"']

/** Absent `absences` times as often as not. */
function sometimes<Value>(absences: number, value: fc.Arbitrary<Value>): fc.Arbitrary<Value | undefined> {
  return fc.oneof({ weight: absences, arbitrary: fc.constant(undefined) }, { weight: 1, arbitrary: value })
}

/** The body's fields beside `input`. */
function envelope(): fc.Arbitrary<Member[]> {
  const member = (key: string, values: fc.Arbitrary<JsonText>) => values.map((value): Member => [key, value])
  const events = fc
    .array(fc.constantFrom('start', 'output', 'logs', 'completed'), { maxLength: 5 })
    .map((names) => JSON.stringify(names))
  const webhook = fc.tuple(
    member('webhook', fc.constant(JSON.stringify(HOOK))),
    fc.option(member('webhook_events_filter', events), { nil: undefined }),
  )
  const odd = fc.oneof(
    member('webhook', fc.constantFrom('"no url"', '""', '"ftp://localhost/x"', '"/relative"', ...WRONG_TYPES)),
    member(
      'webhook_events_filter',
      fc.constantFrom('["started"]', '["START"]', '[null]', '[["start"]]', '"start"', ...WRONG_TYPES),
    ),
    member(
      'context',
      fc.constantFrom('{"a":"b","":"é"}', '{"a":5}', '{"a":null}', '{"__proto__":"x"}', ...WRONG_TYPES),
    ),
    member('id', fc.constantFrom('"\\ud800"', '"\\u0061"', ...WRONG_TYPES)),
    member('input', fc.constantFrom(...WRONG_TYPES)),
    member(
      'created_at',
      fc.constantFrom('"2026-01-01T00:00:00Z"', 'NaN', '1e999', '"\\ud800"', '"\\u0000"', ...WRONG_TYPES),
    ),
    member('__proto__', fc.constantFrom('{"input":{"prompt":"a"}}', ...WRONG_TYPES)),
    member('', fc.constantFrom(...WRONG_TYPES)),
  )
  return fc
    .tuple(sometimes(1, webhook), sometimes(4, odd))
    .map(([hook, one]) => [...(hook ?? []), one].filter((entry) => entry !== undefined))
}

/** Makes a text that is JSON into one that probably is not, or into another. */
function broken(text: JsonText): fc.Arbitrary<Buffer> {
  const at = fc.nat({ max: Math.max(0, text.length) })
  const noise = fc.constantFrom(',', '{', '}', '"', '\\', ':', '[', '0', ' ', '\n', '\u0000', '\ufeff', "'", '//', 'é')
  return fc.oneof(
    at.map((end) => Buffer.from(text.slice(0, end))),
    fc.tuple(at, noise).map(([place, more]) => Buffer.from(text.slice(0, place) + more + text.slice(place))),
    fc.tuple(at, noise).map(([place, other]) => Buffer.from(text.slice(0, place) + other + text.slice(place + 1))),
    noise.map((more) => Buffer.from(text + more)),
    fc
      .constantFrom('', ' ', 'null', 'true', '5', '"text"', '[]', '[{}]', '{}', '{"input":{"prompt":"a"},}')
      .map(Buffer.from),
    fc.tuple(fc.constantFrom(125, 126, 127, 200), fc.constantFrom('prompt', 'deep')).map(([depth, name]) => {
      const deep = '['.repeat(depth) + ']'.repeat(depth)
      return Buffer.from(
        objectText([
          [
            'input',
            objectText([
              ['prompt', '"a"'],
              [name, deep],
            ]),
          ],
        ]),
      )
    }),
    fc
      .tuple(at, fc.constantFrom([0xff], [0xc0, 0x80], [0xed, 0xa0, 0x80], [0xe2, 0x82]))
      .map(([place, bytes]) =>
        Buffer.concat([Buffer.from(text.slice(0, place)), Buffer.from(bytes), Buffer.from(text.slice(place))]),
      ),
  )
}

function headers(): fc.Arbitrary<Member[]> {
  const header = (name: string, usual: readonly string[], odd: readonly string[]) =>
    fc
      .oneof({ weight: 6, arbitrary: fc.constantFrom(...usual) }, { weight: 1, arbitrary: fc.constantFrom(...odd) })
      .map((value): Member[] => (value === '' ? [] : [[name, value]]))
  return fc
    .tuple(
      header(
        'content-type',
        ['application/json'],
        [
          '',
          'Application/JSON; charset=utf-8',
          'application/json;charset=latin1',
          'application/vnd.api+json',
          'application/problem+json; a=b',
          ' application/json ',
          'application/json,text/plain',
          'application/jsonx',
          'application/+json',
          'application/x-www-form-urlencoded',
          'text/json',
          'text/plain',
          'json',
          'application/json; charset',
          'application /json',
        ],
      ),
      header(
        'accept',
        ['', '', 'application/json', '*/*', STREAM],
        [
          `application/json, ${STREAM}`,
          `${STREAM};q=0`,
          `${STREAM} ;q=1`,
          'TEXT/EVENT-STREAM',
          'text/*',
          `,,${STREAM},`,
          `${STREAM}x`,
          ';',
        ],
      ),
      header(
        'prefer',
        ['', '', 'respond-async'],
        [
          'Respond-Async',
          'respond-async, wait=5',
          'wait=5',
          'respond-async;x=1',
          'respond-sync',
          '"respond-async"',
          ' respond-async ',
        ],
      ),
      header('traceparent', [''], ['00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01', 'none']),
      header('tracestate', [''], ['congo=t61rcWkgMzE', 'a=1,b=2']),
      header('x-extra', [''], ['1', 'é']),
      header('last-event-id', [''], ['0', '7', 'x']),
      // A second header of a name that is there already, or is the only one.
      sometimes(
        15,
        fc.constantFrom<Member>(
          ['accept', STREAM],
          ['accept', 'application/json'],
          ['prefer', 'respond-async'],
          ['prefer', 'wait=5'],
          ['content-type', 'text/plain'],
          ['content-type', 'application/json'],
          ['traceparent', 'another'],
          ['tracestate', 'c=3'],
        ),
      ).map((second) => (second ? [second] : [])),
    )
    .map((all) => all.flat())
}

/** Where a prediction is asked for: POST, or PUT with an id in the path, mostly the same one as in the body. */
function place(): fc.Arbitrary<{ method: string; path: string; id: Member[] }> {
  const bodyId = (id: string): Member[] => [['id', JSON.stringify(id)]]
  return fc.oneof(
    {
      weight: 4,
      arbitrary: fc.option(IDS, { nil: undefined }).map((id) => posted(id === undefined ? [] : bodyId(id))),
    },
    { weight: 3, arbitrary: IDS.map((id) => put(id, [])) },
    { weight: 2, arbitrary: IDS.map((id) => put(id, bodyId(id))) },
    { weight: 1, arbitrary: fc.tuple(IDS, IDS).map(([id, other]) => put(id, bodyId(other))) },
    {
      weight: 1,
      arbitrary: fc
        .constantFrom('%ff', 'a%C3', '%zz', '%', 'a%00', '%41', 'a%2fb', 'a;b', "a'b", 'a?b=c', 'a/', '%E2%82%AC')
        .map((path) => ({ method: 'PUT', path: `/predictions/${path}`, id: [] })),
    },
  )
}

function posted(id: Member[]): { method: string; path: string; id: Member[] } {
  return { method: 'POST', path: '/predictions', id }
}

function put(id: string, body: Member[]): { method: string; path: string; id: Member[] } {
  return { method: 'PUT', path: `/predictions/${encodeURIComponent(id)}`, id: body }
}

function predictions(document: OpenApiDocument): fc.Arbitrary<DifferentialCase> {
  const input = fc.oneof(
    { weight: 5, arbitrary: validInput(document) },
    { weight: 5, arbitrary: nearlyValidInput(document) },
  )
  return fc
    .tuple(place(), headers(), input, envelope(), fc.constantFrom('', ' ', '\n\t'))
    .chain(([{ method, path, id }, sent, members, fields, space]) => {
      const text = objectText([...id, ['input', objectText(members, space)], ...fields], space)
      const whole = fc.constant(Buffer.from(text))
      const body = fc.oneof({ weight: 7, arbitrary: whole }, { weight: 1, arbitrary: broken(text) })
      return fc.tuple(body, sometimes(9, fc.constant(true))).map(([bytes, chunked]) => ({
        request: { method, path, headers: sent, body: bytes, ...(chunked && { chunked }) },
      }))
    })
}

/** Everything else that is served, and what is not. `/shutdown` would end the comparison, so nothing posts to it. */
function otherRequests(): fc.Arbitrary<DifferentialCase> {
  const paths = [
    '/',
    '/health-check',
    '/openapi.json',
    '/predictions',
    '/predictions/a1',
    '/predictions/a1/cancel',
    '/predictions/%ff/cancel',
    '/predictions/a/b/cancel',
    '/predictions//cancel',
    '/predictions/',
    '/Predictions',
    '//predictions',
    '/docs',
    '/shutdown',
    '/health-check/',
    '/health-check?a=b',
    '/openapi.json?',
    '/openapi',
    '/%70redictions',
    '/favicon.ico',
    '/../predictions',
    '/trainings',
    '/trainings/a1',
    '/trainings/a1/cancel',
    '/metrics',
    '/livez',
    '/readyz',
  ]
  return fc
    .tuple(
      fc.constantFrom('GET', 'GET', 'HEAD', 'POST', 'PUT', 'DELETE', 'OPTIONS', 'PATCH', 'PROPFIND'),
      fc.constantFrom(...paths),
      headers(),
      fc.option(fc.constantFrom('{}', '', '{"input":{}}', 'no json').map(Buffer.from), { nil: undefined }),
    )
    .filter(([method, path]) => !(method === 'POST' && path === '/shutdown'))
    .map(([method, path, sent, body]) => ({ request: { method, path, headers: sent, ...(body && { body }) } }))
}

/** Seconds between two chunks of a prediction that is interfered with: room to do it in. */
const GAP_SECONDS = 0.4

/** Predictions of a while that are canceled, joined, left, or come in the way of another. */
function meanwhiles(): fc.Arbitrary<DifferentialCase> {
  const modes = fc.constantFrom<Member[]>([], [['prefer', 'respond-async']], [['accept', STREAM]])
  const id = IDS.filter((text) => text !== '')
  return fc
    .tuple(
      id,
      fc.boolean(),
      modes,
      fc.constantFrom('log: a', 'err: a', 'metric: a', 'a b c'),
      fc.option(fc.constant(1)),
    )
    .chain(([id, isPut, mode, prompt, failAt]) => {
      const input = { prompt, n: 2, delay: GAP_SECONDS, ...(failAt !== null && { fail_at: failAt }) }
      const where = isPut ? put(id, []) : posted([['id', JSON.stringify(id)]])
      const filter = fc.option(fc.subarray(['start', 'output', 'logs', 'completed']), { nil: undefined })
      return fc
        .record({
          requests: fc.array(interference(id), { maxLength: 2 }),
          cancel: fc.boolean(),
          leaves: fc.boolean(),
          filter,
        })
        .map((rest) => {
          const fields: Member[] = [
            ...where.id,
            ['input', JSON.stringify(input)],
            ['webhook', JSON.stringify(HOOK)],
            ...(rest.filter ? [['webhook_events_filter', JSON.stringify(rest.filter)] as const] : []),
          ]
          return {
            request: { ...wire(where), headers: [JSON_TYPE, ...mode], body: Buffer.from(objectText(fields)) },
            // Nothing after the cancel: the model in Python obeys it when it next wakes, ours at once.
            meanwhile: {
              id,
              requests: [...rest.requests, ...(rest.cancel ? [cancelOf(id)] : [])],
              leaves: rest.leaves,
            },
          }
        })
    })
}

function wire({ method, path }: { method: string; path: string }): { method: string; path: string } {
  return { method, path }
}

function cancelOf(id: string): WireRequest {
  return { method: 'POST', path: `/predictions/${encodeURIComponent(id)}/cancel`, headers: [] }
}

function interference(id: string): fc.Arbitrary<WireRequest> {
  const own = `/predictions/${encodeURIComponent(id)}`
  const modes = fc.constantFrom<Member[]>([], [['prefer', 'respond-async']])
  const bodies = fc.constantFrom(
    '{}',
    '{"input":{"prompt":5}}',
    '{"input":5}',
    '{"id":"other"}',
    '{"webhook":"no url"}',
    '{"id":5}',
    'no json',
    JSON.stringify({ id }),
  )
  const more = fc.constantFrom('{"input":{"prompt":"b","n":1}}', '{"input":{"prompt":"b","n":0}}', '{"input":{}}', '{')
  const send = (method: string, path: string, mode: Member[], body: string): WireRequest => ({
    method,
    path,
    headers: [JSON_TYPE, ...mode],
    body: Buffer.from(body),
  })
  return fc.oneof(
    {
      weight: 1,
      arbitrary: fc.constant(cancelOf('unknown')),
    },
    { weight: 3, arbitrary: fc.tuple(modes, bodies).map(([mode, body]) => send('PUT', own, mode, body)) },
    { weight: 1, arbitrary: fc.constant<WireRequest>({ method: 'PUT', path: own, headers: [] }) },
    { weight: 1, arbitrary: fc.tuple(modes, more).map(([mode, body]) => send('POST', '/predictions', mode, body)) },
    { weight: 1, arbitrary: more.map((body) => send('PUT', '/predictions/other', [['accept', STREAM]], body)) },
    {
      weight: 1,
      arbitrary: fc.constantFrom<WireRequest>(
        { method: 'GET', path: own, headers: [] },
        { method: 'GET', path: '/health-check', headers: [] },
      ),
    },
  )
}

/** Every kind of request that the comparison knows, for a model of this document. */
export function cases(document: OpenApiDocument): fc.Arbitrary<DifferentialCase> {
  return fc.oneof(
    { weight: 16, arbitrary: predictions(document) },
    { weight: 2, arbitrary: meanwhiles() },
    { weight: 2, arbitrary: otherRequests() },
  )
}
