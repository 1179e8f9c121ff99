/** Counts by the values of a few labels, which must not come from clients: each combination is kept for ever. */
export class Counter {
  readonly #labels: readonly string[]
  readonly #counts = new Map<string, number>()

  /** @param labels their names, in the order in which values are given. */
  constructor(...labels: readonly string[]) {
    this.#labels = labels
  }

  add(...values: readonly (string | number)[]): void {
    const key = this.#labels.map((label, i) => `${label}="${values[i]}"`).join(',')
    this.#counts.set(key, (this.#counts.get(key) ?? 0) + 1)
  }

  /** A counter without labels is 0 before its first time; one with labels is not there. */
  samples(name: string): string[] {
    if (this.#labels.length === 0) return [`${name} ${this.#counts.get('') ?? 0}`]
    return [...this.#counts].map(([labels, count]) => `${name}{${labels}} ${count}`)
  }
}

/** From a token to the longest that a client is likely to wait for, in seconds. */
export const DURATIONS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300] as const

/** How often values fell at or below each of some bounds. */
export class Histogram {
  readonly #bounds: readonly number[]
  readonly #counts: number[]
  #count = 0
  #sum = 0

  /** @param bounds ascending. */
  constructor(bounds: readonly number[]) {
    this.#bounds = bounds
    this.#counts = bounds.map(() => 0)
  }

  observe(value: number): void {
    this.#count++
    this.#sum += value
    const bucket = this.#bounds.findIndex((bound) => value <= bound)
    if (bucket >= 0) this.#counts[bucket]!++
  }

  samples(name: string): string[] {
    let below = 0
    const buckets = this.#bounds.map((bound, i) => {
      below += this.#counts[i]!
      return `${name}_bucket{le="${bound}"} ${below}`
    })
    return [
      ...buckets,
      `${name}_bucket{le="+Inf"} ${this.#count}`,
      `${name}_sum ${this.#sum}`,
      `${name}_count ${this.#count}`,
    ]
  }
}

/** What is told under one name. */
export interface MetricFamily {
  readonly name: string
  readonly type: 'counter' | 'gauge' | 'histogram'
  readonly help: string
  /** A gauge may be just its value. */
  readonly value: number | { samples(name: string): string[] }
}

/** Source: Prometheus' text format, version 0.0.4. */
export function exposition(families: readonly MetricFamily[]): string {
  const lines = families.flatMap(({ name, type, help, value }) => [
    `# HELP ${name} ${help}`,
    `# TYPE ${name} ${type}`,
    ...(typeof value === 'number' ? [`${name} ${value}`] : value.samples(name)),
  ])
  return `${lines.join('\n')}\n`
}
