import { quantile } from '../report.js'
import type { LoadResult } from './load.js'

/** Limits that a request must keep to count as good, in milliseconds. */
export interface Goodput {
  readonly ttft: number
  readonly tpot: number
}

type Spread<N extends string> = { readonly [K in `${'mean' | 'median' | 'p99'}_${N}_ms`]: number }

/**
 * The keys of vLLM's `bench serve` (its --save-result file), with its meanings (benchmarks/serve.py, calculate_metrics):
 * TTFT, sent → first piece; TPOT, (end − first piece) / (tokens − 1); ITL, between two pieces; E2EL, sent → end. Only
 * requests that succeeded count. Times in milliseconds, rates a second.
 */
export interface ServingFigures extends Spread<'ttft'>, Spread<'tpot'>, Spread<'itl'>, Spread<'e2el'> {
  readonly duration: number
  readonly completed: number
  readonly failed: number
  readonly total_input_tokens: number
  readonly total_output_tokens: number
  readonly request_throughput: number
  readonly request_goodput: number
  readonly output_throughput: number
  readonly total_token_throughput: number
}

export function servingFigures({ outcomes, duration }: LoadResult, goodput: Goodput): ServingFigures {
  const good = outcomes.filter(({ failure }) => failure === undefined)
  const each = good.map(({ sentAt, pieces, endedAt, outputTokens }) => {
    const first = pieces[0] ?? endedAt
    return {
      ttft: first - sentAt,
      tpot: outputTokens > 1 ? (endedAt - first) / (outputTokens - 1) : undefined,
      itl: pieces.slice(1).map((at, index) => at - pieces[index]!),
      e2el: endedAt - sentAt,
    }
  })
  const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0)
  const inputTokens = sum(good.map((one) => one.inputTokens))
  const outputTokens = sum(good.map((one) => one.outputTokens))
  const kept = each.filter(({ ttft, tpot = 0 }) => ttft <= goodput.ttft && tpot <= goodput.tpot)
  return {
    duration,
    completed: good.length,
    failed: outcomes.length - good.length,
    total_input_tokens: inputTokens,
    total_output_tokens: outputTokens,
    request_throughput: good.length / duration,
    request_goodput: kept.length / duration,
    output_throughput: outputTokens / duration,
    total_token_throughput: (inputTokens + outputTokens) / duration,
    ...spread(
      'ttft',
      each.map(({ ttft }) => ttft),
    ),
    ...spread(
      'tpot',
      each.flatMap(({ tpot }) => tpot ?? []),
    ),
    ...spread(
      'itl',
      each.flatMap(({ itl }) => itl),
    ),
    ...spread(
      'e2el',
      each.map(({ e2el }) => e2el),
    ),
  }
}

function spread<N extends string>(name: N, values: readonly number[]): Spread<N> {
  const mean = values.reduce((total, value) => total + value, 0) / values.length
  const entries = { mean, median: quantile(values, 0.5), p99: quantile(values, 0.99) }
  return Object.fromEntries(Object.entries(entries).map(([key, value]) => [`${key}_${name}_ms`, value])) as Spread<N>
}
