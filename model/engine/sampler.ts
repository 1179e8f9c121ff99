import { LogitsError, TokenMaskError } from '../errors.js'
import { uniform } from './random.js'
import { type TokenMask, writeMask } from './token-mask.js'

export interface SamplingParameters {
  /** ≥ 0; 0 is greedy. */
  readonly temperature: number
  /** 0 … 1: the smallest set of likeliest tokens that holds this share; 1 is off. */
  readonly topP: number
  /** The k likeliest; ≤ 0 is off, 1 is greedy. */
  readonly topK: number
  /** > 0; 1 is off. */
  readonly repetitionPenalty: number
  /** End tokens cannot come before this many others have. */
  readonly minNewTokens: number
  /** A safe integer. */
  readonly seed: number
  /** What may come next, where not all may. */
  readonly tokenMask?: TokenMask
}

/** What one row asks of the sampling graph. */
export interface SamplingRow {
  /** > 0 */
  readonly temperature: number
  /** 1 where there are no edits. */
  readonly penalty: number
  /** Ids whose logits change: by the penalty, and by what is added (0 or −∞). Each once. */
  readonly edits: ReadonlyMap<number, number>
  /** One byte for each id, 1 where it may come; all may where there is none. Valid until the sampler makes its next row. */
  readonly allowed?: Uint8Array
  /** How many candidates will do in all likelihood. */
  readonly candidates: number
}

/** One row of the sampling graph's answer: the K best of V, best first. */
export interface Candidates {
  /** Logits after penalty and temperature. */
  readonly values: Float32Array
  readonly ids: BigInt64Array
  /** Σ exp(x − values[0]) over the whole vocabulary. */
  readonly mass: number
  /** V */
  readonly vocabSize: number
}

/** Candidates for a row whose top_k is off: enough for most steps, and as quick to find as one. */
const USUAL_CANDIDATES = 64

/** Chooses the tokens of one request. */
export class Sampler {
  readonly #parameters: SamplingParameters
  readonly #endTokenIds: readonly number[]
  /** Ids of prompt and answer, where they matter; to none of their logits anything is added. */
  readonly #seen = new Map<number, number>()
  readonly #answer: number[] = []
  /** [V], where there is a mask. */
  readonly #allowed: Uint8Array

  /** @param model  its end tokens, and its vocabulary's size V. */
  constructor(
    parameters: SamplingParameters,
    model: { readonly endTokenIds: readonly number[]; readonly vocabSize: number },
    promptIds: readonly number[],
  ) {
    this.#parameters = parameters
    this.#endTokenIds = model.endTokenIds
    this.#allowed = new Uint8Array(parameters.tokenMask === undefined ? 0 : model.vocabSize)
    if (parameters.repetitionPenalty !== 1) for (const id of promptIds) this.#seen.set(id, 0)
  }

  /**
   * What the next token's row asks of the sampling graph.
   * @throws {TokenMaskError} the mask threw, or leaves nothing.
   */
  row(): SamplingRow {
    const { temperature, topK, repetitionPenalty, minNewTokens } = this.#parameters
    const edits = this.#answer.length < minNewTokens ? this.#withoutEnd() : this.#seen
    const allowed = this.#mask(edits)
    return {
      temperature: temperature === 0 ? 1 : temperature,
      penalty: repetitionPenalty,
      edits,
      ...(allowed && { allowed }),
      candidates: temperature === 0 || topK <= 0 ? USUAL_CANDIDATES : topK + 1,
    }
  }

  /**
   * @returns the next token, or undefined where it takes more candidates to say.
   * @throws {LogitsError} the logits are no numbers.
   */
  choose(candidates: Candidates): number | undefined {
    return chooseToken(candidates, this.#parameters, uniform(this.#parameters.seed, this.#answer.length))
  }

  /** Notes that a token has become part of the answer. */
  accept(id: number): void {
    this.#answer.push(id)
    if (this.#parameters.repetitionPenalty !== 1) this.#seen.set(id, 0)
  }

  #mask(edits: SamplingRow['edits']): Uint8Array | undefined {
    try {
      const allowed = this.#parameters.tokenMask?.(this.#answer)
      if (allowed === undefined) return undefined
      writeMask(allowed, this.#allowed, (id) => edits.get(id) === Number.NEGATIVE_INFINITY)
      return this.#allowed
    } catch (cause) {
      if (cause instanceof TokenMaskError) throw cause
      throw new TokenMaskError(`it threw ${cause}`, { cause })
    }
  }

  #withoutEnd(): ReadonlyMap<number, number> {
    return new Map([...this.#seen, ...this.#endTokenIds.map((id) => [id, Number.NEGATIVE_INFINITY] as const)])
  }
}

/**
 * Top-k, then top-p over what that leaves, then the token at which the running sum of probabilities passes `random`.
 * Equal logits go by id. Whatever K is, the answer is that of K = V, or undefined.
 *
 * @param random  in [0, 1)
 * @throws {LogitsError} the best candidate, or the mass, is no finite number.
 * Source: transformers 5.24, generation/logits_process.py (TopKLogitsWarper keeps what equals the k-th; TopPLogitsWarper
 *   keeps a token while the likelier ones sum to less than p, and always one).
 */
export function chooseToken(
  candidates: Candidates,
  { temperature, topK, topP }: Pick<SamplingParameters, 'temperature' | 'topK' | 'topP'>,
  random: number,
): number | undefined {
  assertFinite(candidates)
  const { values, mass, vocabSize } = candidates
  const best = values[0]!

  // Where one that cannot come is among them, all that can are: how many there are is known then, and what they are.
  const impossible = values.indexOf(Number.NEGATIVE_INFINITY)
  const possible = impossible < 0 ? vocabSize : impossible
  const complete = impossible >= 0 || values.length === vocabSize
  // Of those that equal the last, some may have been left out: they do not count as known.
  const known = complete ? Math.min(values.length, possible) : values.indexOf(values.at(-1)!)
  if (known === 0) return undefined
  if (temperature === 0 || topK === 1) return tokenAt(candidates, known, 0)

  let kept = possible
  let total = mass
  if (topK > 0 && topK < possible) {
    if (topK > known) return undefined
    kept = topK
    while (kept < known && values[kept] === values[topK - 1]) kept++
    total = 0
    for (let rank = 0; rank < kept; rank++) total += Math.exp(values[rank]! - best)
  }

  const ranks = Math.min(kept, known)
  if (topP < 1) {
    let sum = 0
    let rank = 0
    do sum += Math.exp(values[rank]! - best)
    while (++rank < ranks && sum < topP * total)
    if (rank === ranks && ranks < kept && sum < topP * total) return undefined
    kept = rank
    total = sum
  }

  let sum = 0
  for (let rank = 0; rank < Math.min(kept, known); rank++) {
    sum += Math.exp(values[rank]! - best)
    if (sum > random * total) return tokenAt(candidates, known, rank)
  }
  // All are known, and rounding alone has left a rest: it is the last one's that has any probability.
  return kept <= known ? tokenAt(candidates, known, lastPossible(values, kept, best)) : undefined
}

/** @throws {LogitsError} the best candidate, or the mass, is no finite number: then none is. */
export function assertFinite({ values, mass }: Candidates): void {
  const best = values[0]!
  if (!Number.isFinite(best) || !Number.isFinite(mass)) throw new LogitsError(best)
}

/** The id at a rank of the first `known`, where equal values are ranked by rising id. */
function tokenAt({ values, ids }: Candidates, known: number, rank: number): number {
  let start = rank
  while (start > 0 && values[start - 1] === values[rank]) start--
  let end = rank + 1
  while (end < known && values[end] === values[rank]) end++
  return Number(ids.slice(start, end).sort()[rank - start])
}

function lastPossible(values: Float32Array, count: number, best: number): number {
  let rank = count - 1
  while (rank > 0 && Math.exp(values[rank]! - best) === 0) rank--
  return rank
}
