import assert from 'node:assert/strict'
import fc from 'fast-check'
import t from 'tap'
import { type Candidates, chooseToken, Sampler } from '../../model/engine/sampler.js'
import { LogitsError } from '../../model/errors.js'
import { candidatesOf, logitsOf, type SamplingCase, samplingFixture } from './rows.js'

const { vocabSize: V, endTokenIds, cases } = samplingFixture

function samplerFor({ prompt, generated, parameters }: SamplingCase): Sampler {
  const sampler = new Sampler({ ...parameters, seed: 1 }, { endTokenIds, vocabSize: V }, prompt)
  for (const id of generated) sampler.accept(id)
  return sampler
}

t.test("every draw falls on the token that Hugging Face's probabilities put there", async (t) => {
  t.equal(cases.length, 13)
  for (const example of cases) {
    const { parameters, probabilities, logits } = example
    const about = JSON.stringify(parameters)
    const row = samplerFor(example).row()
    const candidates = candidatesOf(logitsOf(logits), row, V)
    let before = 0
    const wrong: unknown[] = []
    for (const [rank, [id, probability]] of probabilities.entries()) {
      const chosen = chooseToken(candidates, parameters, before + probability / 2)!
      // Of equal logits at the nucleus' edge Hugging Face keeps others than we, and each side orders ties in its own way.
      const hasEqual = probabilities[rank - 1]?.[1] === probability || probabilities[rank + 1]?.[1] === probability
      const [found, wanted] = [chosen, id].map((id) => candidates.values[candidates.ids.indexOf(BigInt(id))])
      if (hasEqual ? found !== wanted : chosen !== id) wrong.push({ rank, id, probability, chosen })
      before += probability
    }
    t.same(wrong, [], about)
    t.ok(Math.abs(before - 1) < 1e-6, about)
  }
})

t.test('fewer candidates give the same token, or say that they do not do', async (t) => {
  const example = fc.record({
    levels: fc.constantFrom(1, 3, 16, 2 ** 20),
    seed: fc.nat(1e6),
    vocabSize: fc.integer({ min: 1, max: 80 }),
    count: fc.integer({ min: 1, max: 80 }),
    temperature: fc.constantFrom(0, 0.01, 0.7, 1, 5),
    topK: fc.integer({ min: -1, max: 100 }),
    topP: fc.oneof(fc.constantFrom(0, 1), fc.double({ min: 0, max: 1, noNaN: true })),
    random: fc.oneof(fc.constantFrom(0, 1 - 2 ** -53), fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true })),
  })
  let [decided, undecided] = [0, 0]
  fc.assert(
    fc.property(example, ({ levels, seed, vocabSize, count, random, ...parameters }) => {
      const row = { edits: new Map(), penalty: 1, temperature: parameters.temperature || 1 }
      const logits = logitsOf({ seed, levels }, vocabSize)
      const all = chooseToken(candidatesOf(logits, row, vocabSize), parameters, random)
      const some = chooseToken(candidatesOf(logits, row, Math.min(count, vocabSize)), parameters, random)
      assert.ok(all !== undefined && all >= 0 && all < vocabSize)
      assert.ok(some === undefined || some === all, `${some} of ${count} candidates, ${all} of all`)
      if (some === undefined) undecided++
      else decided++
    }),
    { numRuns: 5000 },
  )
  t.ok(decided > 500 && undecided > 500, `${decided} decided, ${undecided} not`)
})

t.test('equal logits go by id, in whatever order they come', async (t) => {
  const candidates = (ids: bigint[]): Candidates => ({
    values: Float32Array.of(2, 2, 2, 1),
    ids: BigInt64Array.from(ids),
    mass: 3 + Math.exp(-1),
    vocabSize: 4,
  })
  const parameters = { temperature: 1, topK: 0, topP: 1 }
  for (const random of [0.1, 0.4, 0.7, 0.95]) {
    t.equal(
      chooseToken(candidates([3n, 0n, 2n, 1n]), parameters, random),
      chooseToken(candidates([0n, 2n, 3n, 1n]), parameters, random),
    )
  }
  t.equal(chooseToken(candidates([3n, 0n, 2n, 1n]), { ...parameters, temperature: 0 }, 0.9), 0)
  t.equal(chooseToken(candidates([3n, 0n, 2n, 1n]), { ...parameters, topK: 1 }, 0.9), 0)
})

t.test('logits that are no numbers are an error, not a token', async (t) => {
  const parameters = { temperature: 1, topK: 0, topP: 1 }
  const candidates = (best: number, mass: number) => ({
    values: Float32Array.of(best, 0),
    ids: BigInt64Array.of(0n, 1n),
    mass,
    vocabSize: 2,
  })
  for (const [best, mass] of [
    [Number.NaN, 1],
    [Number.POSITIVE_INFINITY, 1],
    [Number.NEGATIVE_INFINITY, 1],
    [1, Number.NaN],
  ] as const) {
    t.throws(() => chooseToken(candidates(best, mass), parameters, 0.5), LogitsError)
  }
})

t.test('a seed decides the tokens; another seed, other ones', async (t) => {
  const row = { edits: new Map(), penalty: 1, temperature: 1 }
  const candidates = candidatesOf(logitsOf({ seed: 5, levels: 2 ** 20 }), row, V)
  const draw = (seed: number) => {
    const sampler = new Sampler(
      { temperature: 1, topK: 0, topP: 1, repetitionPenalty: 1, minNewTokens: 0, seed },
      { endTokenIds, vocabSize: V },
      [2],
    )
    return Array.from({ length: 50 }, () => {
      const token = sampler.choose(candidates)!
      sampler.accept(token)
      return token
    })
  }
  t.same(draw(77), draw(77))
  t.not(String(draw(77)), String(draw(78)))
  t.ok(new Set(draw(77)).size > 10, 'each position draws anew')
})

t.test('end tokens are masked until min_new_tokens have come, also where the penalty knows them', async (t) => {
  const parameters = { temperature: 1, topK: 0, topP: 1, repetitionPenalty: 2, minNewTokens: 2, seed: 1 }
  const sampler = new Sampler(parameters, { endTokenIds: [1, 107], vocabSize: 256 }, [2, 107, 2])
  const edits = () => [...sampler.row().edits]
  t.same(edits(), [
    [2, 0],
    [107, Number.NEGATIVE_INFINITY],
    [1, Number.NEGATIVE_INFINITY],
  ])
  sampler.accept(9)
  sampler.accept(2)
  t.same(edits(), [
    [2, 0],
    [107, 0],
    [9, 0],
  ])
})

t.test('what cannot come is known to be the rest: no draw asks for more because of it', async (t) => {
  const logits = logitsOf({ seed: 9, levels: 2 ** 20 }, 1000)
  for (const id of logits.keys()) if (id % 100 !== 7) logits[id] = Number.NEGATIVE_INFINITY
  const row = { edits: new Map(), penalty: 1, temperature: 1 }
  const all = candidatesOf(logits, row, 1000)
  for (const parameters of [
    { temperature: 1, topK: 50, topP: 1 },
    { temperature: 1, topK: 0, topP: 0.9 },
    { temperature: 1, topK: 3, topP: 0.5 },
    { temperature: 0, topK: 0, topP: 1 },
  ]) {
    for (const random of [0, 0.3, 0.6, 0.999_999]) {
      const token = chooseToken(candidatesOf(logits, row, 64), parameters, random)
      t.equal(token, chooseToken(all, parameters, random))
      t.equal(token! % 100, 7)
    }
  }
  t.equal(chooseToken(candidatesOf(logits, row, 5), { temperature: 1, topK: 50, topP: 1 }, 0.999), undefined)
})
