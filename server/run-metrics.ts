import type { MetricMode, Metrics } from './predictor.js'

const LONGEST_NAME = 128
const MOST_SEGMENTS = 4
const SEGMENT = /^[A-Za-z](?:_?[A-Za-z0-9])*$/
/** The server's own. */
const RESERVED: ReadonlySet<string> = new Set(['predict_time', 'total_time', 'cost'])

/**
 * The metrics of one run, as its Predictor sees them: checks each recording by Cog's rules and passes it on.
 *
 * Source: Cog's documentation, "Metrics": naming rules, accumulation modes, type safety.
 */
export function createMetrics(record: (name: string, value: unknown, mode: MetricMode) => void): Metrics {
  const types = new Map<string, string>()
  const take = (name: string, value: unknown, mode: MetricMode) => {
    assertName(name)
    assertJson(name, value)
    if (mode === 'replace' && value === null) types.delete(name)
    else {
      const type = mode === 'append' ? 'list' : typeOf(value)
      const before = types.get(name) ?? type
      if (type !== before) {
        throw new TypeError(`The metric ${name} is a ${before} and cannot become a ${type}. Set it to null first.`)
      }
      types.set(name, type)
    }
    record(name, value, mode)
  }
  return {
    set: (name, value) => take(name, value, 'replace'),
    increment: (name, by = 1) => {
      if (!Number.isFinite(by))
        throw new TypeError(`The metric ${name} can grow by a finite number only, not by ${by}.`)
      take(name, by, 'increment')
    },
    append: (name, value) => take(name, value, 'append'),
  }
}

function assertName(name: string): void {
  const segments = name.split('.')
  const isLegal =
    name.length <= LONGEST_NAME &&
    segments.length <= MOST_SEGMENTS &&
    segments.every((segment) => SEGMENT.test(segment)) &&
    segments[0] !== 'cog' &&
    !RESERVED.has(name)
  if (isLegal) return
  throw new TypeError(
    `${JSON.stringify(name.slice(0, LONGEST_NAME))} cannot be a metric's name: at most ${LONGEST_NAME} characters, at most ` +
      `${MOST_SEGMENTS} segments between dots, each of letters, digits and single underscores inside, a letter first; ` +
      `${[...RESERVED].join(', ')} and cog.… are the server's.`,
  )
}

function assertJson(name: string, value: unknown): void {
  if (typeof value === 'number' ? Number.isFinite(value) : isJson(value)) return
  throw new TypeError(`The metric ${name} has a value that JSON cannot carry.`)
}

function isJson(value: unknown): boolean {
  try {
    return JSON.stringify(value) !== undefined
  } catch {
    // A cycle, or a bigint.
    return false
  }
}

function typeOf(value: unknown): string {
  return Array.isArray(value) ? 'list' : typeof value
}
