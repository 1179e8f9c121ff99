import type { DifferentialCase } from './cases.js'
import { type Difference, NONE, type Observation } from './compare.js'
import { isLost } from './send.js'

/** All that is known of a case that differs. */
export interface Context {
  readonly one: DifferentialCase
  readonly cog: Observation
  readonly ours: Observation
}

/** When a difference is one that docs/cog-compatibility.md lists. */
export interface Purpose {
  /** The row's first cell. */
  readonly row: string
  readonly covers: (difference: Difference, context: Context) => boolean
}

/** Rows that concern every answer: they are taken out before the comparison. */
export const STANDING = [
  'metrics',
  'drawn ids',
  '`user-agent` of webhooks',
  'words before the message of an error of the Predictor',
  'words after the first colon of a 400 or 422 in plain text',
] as const

export const PURPOSES: readonly Purpose[] = [
  {
    row: 'NaN, Infinity, 1e999, lone surrogates',
    covers: ({ cog, ours }, { one }) =>
      /^400 Failed to parse/.test(cog) &&
      NO_JSON.test(bodyOf(one)) &&
      !/^(?:400|5)|\\ud[89a-f]/.test(withoutDetail(ours)),
  },
  {
    row: 'integers that no double holds exactly',
    covers: ({ ours }) => /^(?:422 )?\{"detail":.* is beyond ±/.test(ours),
  },
  {
    row: '5.0 for an integer',
    covers: ({ at, cog: theirs }, { one, cog }) =>
      textsOf(cog).some((text) => text.includes(FLOAT_IN_PYTHON)) ||
      // Nobody is told that it failed, if it is async and its webhook is for output only: there is none.
      (at === 'webhooks' && theirs === NONE && COUNT_AS_FLOAT.test(bodyOf(one))),
  },
  {
    row: '`Prefer`',
    covers: ({ at }, { one }) => {
      const prefer = one.request.headers.flatMap(([name, value]) => (name === 'prefer' ? [value] : [])).join(',')
      const asks = prefer.split(',').some((part) => part.split(';')[0]!.trim().toLowerCase() === 'respond-async')
      return at === 'the request: status' && asks && prefer.trim() !== 'respond-async'
    },
  },
  {
    row: 'a body that is an array',
    covers: ({ ours }, { one }) => /^422 Failed to deserialize/.test(ours) && /^\s*\[/.test(bodyOf(one)),
  },
  {
    row: 'a body that is of the wrong shape before it is no JSON',
    covers: ({ cog, ours }, { one }) =>
      /^422 Failed to deserialize/.test(cog) && /^400 Failed to parse/.test(ours) && !isJson(bodyOf(one)),
  },
  {
    row: 'nested deeper than 127 where nothing uses it',
    covers: ({ ours }) => /^400 Failed to parse .*nested deeper/.test(ours),
  },
  {
    row: 'an id that no folder can have as its name',
    covers: (_difference, { cog, one }) =>
      // Of the 300 letters of the long id, a broken body may have one changed.
      cog.answers.some(isLost) && /%00|\\u0000|a{128}/.test(one.request.path + bodyOf(one)),
  },
  {
    row: 'the paths of trainings',
    covers: (_difference, { one, ours }) =>
      ours.answers[0]?.status === 404 && one.request.path.startsWith('/trainings'),
  },
  {
    row: '`tracestate` in two headers',
    covers: ({ at }, { one }) =>
      at === 'webhooks' && one.request.headers.filter(([name]) => name === 'tracestate').length > 1,
  },
  {
    row: '`/metrics`',
    covers: ({ cog }, { one }) => /^404\b/.test(cog) && one.request.path === '/metrics',
  },
  {
    row: '`/livez`, `/readyz`',
    covers: ({ cog }, { one }) => /^404\b/.test(cog) && ['/livez', '/readyz'].includes(one.request.path),
  },
]

/** Tokens that Python's and JavaScript's readers of JSON take, and Rust's does not. */
const NO_JSON = /NaN|Infinity|1e999|\\ud[89a-f][\da-f]{2}/

/** The echo model's number of chunks, written with a point or an exponent. */
const COUNT_AS_FLOAT = /"n":\s*\d+(?:\.\d+|e[+-]?\d)/

/** What Python says of a model that takes an integer and got 5.0. */
const FLOAT_IN_PYTHON = "'float' object cannot be interpreted as an integer"

function bodyOf(one: DifferentialCase): string {
  return one.request.body?.toString() ?? ''
}

/** Errors that name a field show what was sent for it. */
function withoutDetail(text: string): string {
  return text.startsWith('422 {"detail":') ? '422' : text
}

function isJson(text: string): boolean {
  try {
    JSON.parse(text)
    return true
  } catch {
    return false
  }
}

function textsOf({ answers, webhooks }: Observation): string[] {
  return [...answers, ...webhooks].map(({ body }) => body)
}

/** The rows that explain every one of the differences; undefined if one is unexplained. */
export function rowsFor(found: readonly Difference[], context: Context): readonly string[] | undefined {
  const rowOf = (one: Difference) => PURPOSES.find(({ covers }) => covers(one, context))?.row
  const status = found.find(({ at }) => at === 'the request: status')
  const cause = status && rowOf(status)
  // What runs on one side only calls its webhooks on that side only.
  const rows = found.map((one) => (one.at === 'webhooks' ? (cause ?? rowOf(one)) : rowOf(one)))
  return rows.every((row) => row !== undefined) ? [...new Set(rows)] : undefined
}

/** The first cells of the table in docs/cog-compatibility.md. */
export function rowsOf(page: string): string[] {
  return page
    .split('\n')
    .filter((line) => line.startsWith('| ') && !/^\| (?:what|---) /.test(line))
    .map((line) => line.slice(2).split(' | ')[0]!.trim())
}
