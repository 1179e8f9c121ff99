/** logits [V] → natural logarithms of the probabilities. */
export function logSoftmax(logits: Float32Array): Float32Array {
  const most = logits.reduce((largest, value) => Math.max(largest, value), Number.NEGATIVE_INFINITY)
  let sum = 0
  for (const value of logits) sum += Math.exp(value - most)
  const mass = most + Math.log(sum)
  return logits.map((value) => value - mass)
}

export interface DivergenceFigures {
  /** Σ p (log p − log q) in nats, p the reference's: mean over all positions, and what 99 % of them stay below. */
  readonly meanKL: number
  readonly p99KL: number
  /** Share of positions at which both hold the same token for the likeliest. */
  readonly sameTop1: number
  /** Perplexity of the text as it is, over the reference's. */
  readonly perplexityRatio: number
}

/** Compares one model's distributions with a reference's, position by position. */
export class Divergence {
  readonly #divergences: number[] = []
  #sameTop1 = 0
  /** Σ log p − log q of the tokens of the text. */
  #surprise = 0

  /** @param next  the token that follows in the text */
  add(reference: Float32Array, found: Float32Array, next: number): void {
    let divergence = 0
    let [likeliest, likeliestFound] = [0, 0]
    for (let id = 0; id < reference.length; id++) {
      const [p, q] = [reference[id]!, found[id]!]
      divergence += Math.exp(p) * (p - q)
      if (p > reference[likeliest]!) likeliest = id
      if (q > found[likeliestFound]!) likeliestFound = id
    }
    this.#divergences.push(divergence)
    if (likeliest === likeliestFound) this.#sameTop1++
    this.#surprise += reference[next]! - found[next]!
  }

  figures(): DivergenceFigures {
    const count = this.#divergences.length
    const sorted = this.#divergences.toSorted((a, b) => a - b)
    return {
      meanKL: sorted.reduce((sum, value) => sum + value, 0) / count,
      p99KL: sorted[Math.floor(count * 0.99)]!,
      sameTop1: this.#sameTop1 / count,
      perplexityRatio: Math.exp(this.#surprise / count),
    }
  }
}
