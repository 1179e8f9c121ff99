import { readFileSync } from 'node:fs'
import type { Candidates, SamplingParameters } from '../../model/engine/sampler.js'

export interface SamplingCase {
  readonly logits: { readonly seed: number; readonly levels: number }
  readonly prompt: readonly number[]
  readonly generated: readonly number[]
  readonly parameters: Omit<SamplingParameters, 'seed'>
  /** [id, probability], likeliest first. */
  readonly probabilities: readonly [number, number][]
}

export const samplingFixture = JSON.parse(readFileSync(new URL('fixtures/sampling.json', import.meta.url), 'utf8')) as {
  readonly vocabSize: number
  readonly endTokenIds: readonly number[]
  readonly cases: readonly SamplingCase[]
}

/** logits_of() of fixtures/make-sampling.py. */
export function logitsOf(
  { seed, levels }: SamplingCase['logits'],
  vocabSize = samplingFixture.vocabSize,
): Float32Array {
  let state = seed
  return Float32Array.from({ length: vocabSize }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return ((Math.floor(state / 2 ** 8) % levels) / levels) * 12 - 6
  })
}

/** The sampling graph in plain words: the K best of a row, after edits and temperature. */
export function candidatesOf(
  logits: Float32Array,
  row: { edits: ReadonlyMap<number, number>; penalty: number; temperature: number },
  count: number,
): Candidates {
  const scaled = logits.slice()
  const penalty = Math.fround(row.penalty)
  for (const [id, add] of row.edits) {
    const logit = logits[id]!
    scaled[id] = Math.fround(logit < 0 ? logit * penalty : logit / penalty) + add
  }
  for (const [id, score] of scaled.entries()) scaled[id] = score / Math.fround(row.temperature)
  const order = [...scaled.keys()].sort((a, b) => scaled[b]! - scaled[a]! || a - b).slice(0, count)
  const best = scaled[order[0]!]!
  return {
    values: Float32Array.from(order, (id) => scaled[id]!),
    ids: BigInt64Array.from(order, BigInt),
    mass: scaled.reduce((sum, score) => sum + Math.exp(score - best), 0),
    vocabSize: logits.length,
  }
}
