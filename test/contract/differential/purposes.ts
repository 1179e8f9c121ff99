import type { DifferentialCase } from './cases.js'
import type { Difference, Observation } from './compare.js'

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
    row: 'NaN, lone surrogates in an input',
    covers: ({ cog, ours }) =>
      /^400 Failed to parse/.test(cog) && /^422 \{"detail":.*(?:non-finite number|lone surrogate)/.test(ours),
  },
  {
    row: 'integers that no double holds exactly',
    covers: ({ ours }) => /^422 \{"detail":.* is beyond ±/.test(ours),
  },
  {
    row: '5.0 for an integer',
    covers: (_difference, { cog }) => textsOf(cog).some((text) => text.includes(FLOAT_IN_PYTHON)),
  },
  {
    row: '`Prefer`',
    covers: ({ at }, { one }) => {
      const prefer = one.request.headers.find(([name]) => name === 'prefer')?.[1] ?? ''
      const asks = prefer.split(',').some((part) => part.split(';')[0]!.trim().toLowerCase() === 'respond-async')
      return at === 'the request: status' && asks && prefer.trim() !== 'respond-async'
    },
  },
  {
    row: 'a body that is an array',
    covers: ({ ours }, { one }) => /^422 /.test(ours) && /^\s*\[/.test(one.request.body?.toString() ?? ''),
  },
  {
    row: 'an id that no folder can have as its name',
    covers: (_difference, { cog }) => textsOf(cog).some((text) => text.includes('Failed to create output dir')),
  },
]

/** What Python says of a model that takes an integer and got 5.0. */
const FLOAT_IN_PYTHON = "'float' object cannot be interpreted as an integer"

function textsOf({ answers, webhooks }: Observation): string[] {
  return [...answers, ...webhooks].map(({ body }) => body)
}

/** The rows that explain every one of the differences; undefined if one is unexplained. */
export function rowsFor(found: readonly Difference[], context: Context): readonly string[] | undefined {
  const rows = found.map((one) => PURPOSES.find(({ covers }) => covers(one, context))?.row)
  return rows.every((row) => row !== undefined) ? [...new Set(rows)] : undefined
}

/** The first cells of the table in docs/cog-compatibility.md. */
export function rowsOf(page: string): string[] {
  return page
    .split('\n')
    .filter((line) => line.startsWith('| ') && !/^\| (?:what|---) /.test(line))
    .map((line) => line.slice(2).split(' | ')[0]!.trim())
}
