import t from 'tap'
import { Divergence, logSoftmax } from '../../bench/divergence.js'

const logs = (...probabilities: number[]) => Float32Array.from(probabilities, Math.log)

t.test('logits become logarithms of probabilities, however large they are', async (t) => {
  const found = logSoftmax(Float32Array.from([1000, 1000 + Math.log(3)]))
  t.ok(Math.abs(Math.exp(found[0]!) - 0.25) < 1e-4)
  t.ok(Math.abs(Math.exp(found[1]!) - 0.75) < 1e-4)
})

t.test('a model does not diverge from itself', async (t) => {
  const divergence = new Divergence()
  divergence.add(logs(0.5, 0.25, 0.25), logs(0.5, 0.25, 0.25), 0)
  t.same(divergence.figures(), { meanKL: 0, p99KL: 0, sameTop1: 1, perplexityRatio: 1 })
})

t.test('it counts nats from the reference, agreement on the likeliest, and how likely the text is', async (t) => {
  const divergence = new Divergence()
  divergence.add(logs(0.5, 0.5), logs(0.25, 0.75), 1)
  divergence.add(logs(0.25, 0.75), logs(0.25, 0.75), 0)
  const { meanKL, p99KL, sameTop1, perplexityRatio } = divergence.figures()
  const expected = 0.5 * Math.log(0.5 / 0.25) + 0.5 * Math.log(0.5 / 0.75)
  t.ok(Math.abs(meanKL - expected / 2) < 1e-6)
  t.ok(Math.abs(p99KL - expected) < 1e-6)
  // The first reference holds both for equally likely, so its first is taken.
  t.equal(sameTop1, 0.5)
  t.ok(Math.abs(perplexityRatio - Math.sqrt(0.5 / 0.75)) < 1e-6)
})
