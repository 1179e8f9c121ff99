import fc from 'fast-check'
import t from 'tap'
import { type BlockFormat, dequantizeBlocks, quantizeBlocks, type ScaleChoice } from '../../model/export/quantize.js'
import { f32FromF16 } from '../../model/half.js'

function quantize(values: Float32Array, format: BlockFormat, choice?: ScaleChoice) {
  const packed = new Uint8Array((values.length * format.bits) / 8)
  const blocks = values.length / format.blockSize
  const scales = format.scaleType === 'f16' ? new Uint16Array(blocks) : new Float32Array(blocks)
  const bad = quantizeBlocks(values, format, packed, scales, choice)
  return { packed, scales, bad }
}

function squaredError(values: Float32Array, { packed, scales }: ReturnType<typeof quantize>, f: BlockFormat): number {
  return dequantizeBlocks(packed, scales, f).reduce((sum, back, i) => sum + (back - values[i]!) ** 2, 0)
}

const format = fc.record({
  bits: fc.constantFrom(4 as const, 8 as const),
  blockSize: fc.constantFrom(32, 64, 128),
  scaleType: fc.constantFrom('f32' as const, 'f16' as const),
})

/** Ordinary weights: small enough for an f16 scale, large enough that it is a normal number. */
const weights = (count: number) =>
  fc.array(fc.float({ noNaN: true, min: Math.fround(-100), max: Math.fround(100) }), {
    minLength: count,
    maxLength: count,
  })

t.test('with the plain scale the largest weight of a block of 4 bits becomes −8 of its steps, exactly', async (t) => {
  const values = new Float32Array(32)
  values.set([-4, 2, 0.26, 0.24, 4])
  const { packed, scales, bad } = quantize(values, { bits: 4, blockSize: 32, scaleType: 'f32' }, 'plain')
  t.equal(bad, -1)
  t.same([...scales], [0.5])
  // −4 → −8, 2 → 4, 0.26 → 1, 0.24 → 0, 4 → 8, which is cut to 7; even weights in the low nibbles, all plus 8.
  t.same([...packed.subarray(0, 3)], [0xc0, 0x89, 0x8f])
})

t.test('a lone large weight is cut where that leaves less error in the others', async (t) => {
  // In steps of 0.3 all but the first are exact, and it comes back as −2.4; the plain steps of 0.3375 leave 0.04 in each other.
  const values = new Float32Array(32).fill(0.3)
  values[0] = -2.7
  const f = { bits: 4, blockSize: 32, scaleType: 'f32' } as const
  const best = quantize(values, f)
  const plain = quantize(values, f, 'plain')
  t.ok(squaredError(values, best, f) < squaredError(values, plain, f) * 0.9)
  t.ok(dequantizeBlocks(best.packed, best.scales, f)[0]! > -2.7)
})

t.test('the best scale never leaves more squared error than the plain one', async () => {
  const cases = format.chain((f) => fc.tuple(fc.constant(f), weights(f.blockSize * 2)))
  fc.assert(
    fc.property(cases, ([f, list]) => {
      const values = Float32Array.from(list)
      const best = squaredError(values, quantize(values, f), f)
      const plain = squaredError(values, quantize(values, f, 'plain'), f)
      // Both round their scale to the stored type, each in its own direction: up to 8 steps of it for each weight.
      const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0)
      const rounding = f.scaleType === 'f16' ? largest * 2 ** -10 + 8 * 2 ** -24 : largest * 2 ** -22
      return Math.sqrt(best) <= Math.sqrt(plain) + Math.sqrt(values.length) * rounding
    }),
    { numRuns: 500 },
  )
})

t.test('8 bits take the largest weight as ±127 steps', async (t) => {
  const values = new Float32Array(32)
  values.set([12.7, -12.7, 0.04, 0.06])
  const { packed, scales } = quantize(values, { bits: 8, blockSize: 32, scaleType: 'f32' })
  t.same([...packed.subarray(0, 5)], [255, 1, 128, 129, 128])
  t.ok(Math.abs(scales[0]! - 0.1) < 1e-7)
})

t.test(
  'every weight comes back within half a scale, but for those of 4 bits that lie beyond the last step',
  async () => {
    const cases = format.chain((f) => fc.tuple(fc.constant(f), weights(f.blockSize * 2)))
    fc.assert(
      fc.property(cases, ([f, list]) => {
        const values = Float32Array.from(list)
        const { packed, scales } = quantize(values, f)
        const back = dequantizeBlocks(packed, scales, f)
        return values.every((value, i) => {
          const stored = scales[Math.floor(i / f.blockSize)]!
          const scale = Math.abs(f.scaleType === 'f16' ? f32FromF16(stored) : stored)
          const isLast = f.bits === 4 && Math.abs(back[i]!) >= 6.99 * scale
          const isBeyond = isLast && Math.abs(value) > Math.abs(back[i]!) && Math.sign(value) === Math.sign(back[i]!)
          // Beyond the half: what f16 rounds off the scale (2^-11 of it, or 2^-25 near zero) counts once for each step.
          const steps = f.bits === 4 ? 8 : 127
          const rounding = f.scaleType === 'f16' ? steps * (scale * 2 ** -11 + 2 ** -25) : steps * scale * 2 ** -23
          return isBeyond || Math.abs(value - back[i]!) <= scale * 0.5 + rounding + 1e-44
        })
      }),
      { numRuns: 500 },
    )
  },
)

t.test('blocks do not see each other', async () => {
  const cases = format.chain((f) => fc.tuple(fc.constant(f), weights(f.blockSize * 3)))
  fc.assert(
    fc.property(cases, ([f, list]) => {
      const values = Float32Array.from(list)
      const whole = quantize(values, f)
      return [0, 1, 2].every((block) => {
        const alone = quantize(values.subarray(block * f.blockSize, (block + 1) * f.blockSize), f)
        const bytes = (f.blockSize * f.bits) / 8
        return (
          Buffer.compare(alone.packed, whole.packed.subarray(block * bytes, (block + 1) * bytes)) === 0 &&
          Object.is(alone.scales[0], whole.scales[block])
        )
      })
    }),
    { numRuns: 200 },
  )
})

t.test('a block of zeros, and one too small for its scale, come back as zeros', async (t) => {
  for (const bits of [4, 8] as const) {
    for (const [scaleType, value] of [
      ['f32', 0],
      ['f16', 0],
      ['f16', 1e-9],
    ] as const) {
      const f = { bits, blockSize: 32, scaleType }
      const { packed, scales, bad } = quantize(new Float32Array(32).fill(value), f)
      t.equal(bad, -1)
      t.ok(dequantizeBlocks(packed, scales, f).every((back) => back === 0))
    }
  }
})

t.test('a scale that f16 holds badly never spills one weight into its neighbour', async (t) => {
  for (const bits of [4, 8] as const) {
    // A scale of 1.45 units of the last place of f16 is stored as 1 unit, so that the weights are 1.45 times as many steps.
    const magnitude = 1.45 * (bits === 4 ? 8 : 127) * 2 ** -24
    const values = new Float32Array(32).fill(magnitude)
    values[1] = -magnitude
    const f = { bits, blockSize: 32, scaleType: 'f16' } as const
    const { packed, scales } = quantize(values, f, 'plain')
    const back = dequantizeBlocks(packed, scales, f)
    const isCut = (value: number, i: number) =>
      Math.sign(value) === Math.sign(values[i]!) && Math.abs(value) > magnitude / 2 && Math.abs(value) < magnitude
    t.ok(back.every(isCut))
  }
})

t.test('the first block that holds no finite numbers is named', async (t) => {
  for (const value of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
    for (const bits of [4, 8] as const) {
      const values = new Float32Array(128).fill(1)
      values[70] = value
      t.equal(quantize(values, { bits, blockSize: 32, scaleType: 'f32' }).bad, 2)
    }
  }
  const large = new Float32Array(64).fill(1)
  large[40] = 3e38
  t.equal(quantize(large, { bits: 4, blockSize: 32, scaleType: 'f32' }).bad, -1)
  t.equal(quantize(large, { bits: 4, blockSize: 32, scaleType: 'f16' }).bad, 1, 'its scale is too large for f16')
})
