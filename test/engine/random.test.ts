import t from 'tap'
import { philox, uniform } from '../../model/engine/random.js'

t.test("Philox4x32-10 gives its authors' known answers", async (t) => {
  // Random123 1.14, tests/kat_vectors
  t.same(philox([0, 0, 0, 0], [0, 0]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8])
  const ones = 0xffffffff
  t.same(philox([ones, ones, ones, ones], [ones, ones]), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd])
  t.same(
    philox([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]),
    [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
  )
})

t.test('numbers are spread evenly over [0, 1), for positions and for seeds', async (t) => {
  const chiSquare = (numbers: readonly number[]) => {
    const counts = new Array<number>(16).fill(0)
    for (const number of numbers) counts[Math.floor(number * 16)]!++
    const expected = numbers.length / 16
    return counts.reduce((sum, count) => sum + (count - expected) ** 2 / expected, 0)
  }
  const count = 4000
  // 15 degrees of freedom: 37.7 is passed once in a thousand times by chance, and these draws are always the same.
  t.ok(chiSquare(Array.from({ length: count }, (_, position) => uniform(42, position))) < 37.7)
  t.ok(chiSquare(Array.from({ length: count }, (_, seed) => uniform(seed, 0))) < 37.7)
})

t.test('every bit of the seed counts, also beyond 32 and below zero', async (t) => {
  const seeds = [0, 1, -1, 2 ** 32, 2 ** 32 + 1, Number.MAX_SAFE_INTEGER, Number.MIN_SAFE_INTEGER]
  t.equal(new Set(seeds.map((seed) => uniform(seed, 0))).size, seeds.length)
  t.equal(uniform(7, 3), uniform(7, 3))
})
