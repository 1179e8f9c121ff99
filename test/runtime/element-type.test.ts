import fc from 'fast-check'
import t from 'tap'
import {
  elementCode,
  elementSize,
  elementTypeOfCode,
  fromBf16,
  fromF16,
  tensorBytes,
  toBf16,
  toF16,
} from '../../model/runtime/element-type.js'
import type { TensorType } from '../../model/runtime/types.js'

const ALL = 65_536
const TYPES: readonly TensorType[] = ['f32', 'f16', 'bf16', 'i64', 'i32', 'u8', 'i8', 'bool']

/** The value of 16 bits as IEEE 754 gives it, computed another way: by their fields as integers. */
function byFields(bits: number, exponentBits: number): number {
  const fractionBits = 15 - exponentBits
  const bias = 2 ** (exponentBits - 1) - 1
  const sign = bits >> 15 ? -1 : 1
  const exponent = (bits >> fractionBits) & (2 ** exponentBits - 1)
  const fraction = bits & (2 ** fractionBits - 1)
  if (exponent === 2 ** exponentBits - 1) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY
  const significand = exponent === 0 ? fraction : fraction + 2 ** fractionBits
  return sign * significand * 2 ** (Math.max(exponent, 1) - bias - fractionBits)
}

const HALVES = [
  { name: 'f16', from: fromF16, to: toF16, exponentBits: 5, nan: 0x7e00 },
  { name: 'bf16', from: fromBf16, to: toBf16, exponentBits: 8, nan: 0x7fc0 },
] as const

for (const { name, from, to, exponentBits, nan } of HALVES) {
  t.test(`all 65,536 values of ${name} read as IEEE 754 says, and go back to their own bits`, async (t) => {
    const wrong: number[] = []
    for (let bits = 0; bits < ALL; bits++) {
      const value = from(bits)
      const back = Number.isNaN(value) ? nan : bits
      if (!Object.is(value, byFields(bits, exponentBits)) || to(value) !== back) wrong.push(bits)
    }
    t.same(wrong, [])
  })

  t.test(`every f32 rounds to the nearest ${name}, and halfway to the even one`, async (t) => {
    const finite = Array.from({ length: 0x8000 }, (_, bits) => from(bits)).filter(Number.isFinite)
    const wrong: string[] = []
    for (let bits = 0; bits + 1 < finite.length; bits++) {
      const [low, high] = [finite[bits]!, finite[bits + 1]!]
      const middle = (low + high) / 2
      const even = bits % 2 === 0 ? bits : bits + 1
      if (to(middle) !== even) wrong.push(`${middle} is halfway`)
      if (to(-middle) !== (even | 0x8000)) wrong.push(`${-middle} is halfway`)
      if (to(Math.fround(low + (high - low) / 4)) !== bits) wrong.push(`${low} and a quarter`)
      if (to(Math.fround(low + ((high - low) * 3) / 4)) !== bits + 1) wrong.push(`${low} and three quarters`)
    }
    t.same(wrong, [])
  })
}

t.test('what is beyond the largest half float is infinite', async (t) => {
  t.equal(toF16(65519.99), 0x7bff)
  t.equal(toF16(65520), 0x7c00)
  t.equal(toF16(-1e30), 0xfc00)
  t.equal(toBf16(3.4e38), 0x7f80)
  t.equal(toBf16(Number.NEGATIVE_INFINITY), 0xff80)
})

t.test('element types and the C numbers of them are one to one', async (t) => {
  for (const type of TYPES) t.equal(elementTypeOfCode(elementCode(type)), type)
  t.equal(elementTypeOfCode(8), undefined, 'strings')
  t.equal(elementTypeOfCode(11), undefined, 'f64')
})

t.test('a tensor has as many bytes as its dimensions say', async (t) => {
  t.equal(tensorBytes('i64', []), 8)
  t.equal(tensorBytes('f16', [2, 0, 5]), 0)
  fc.assert(
    fc.property(
      fc.constantFrom(...TYPES),
      fc.array(fc.integer({ min: 1, max: 9 }), { maxLength: 5 }),
      (type, shape) => tensorBytes(type, shape) === elementSize(type) * shape.reduce((all, one) => all * one, 1),
    ),
  )
})

t.test('a shape that is none is refused', async (t) => {
  for (const shape of [[-1], [1.5], [Number.NaN], [2 ** 30, 2 ** 30]]) {
    t.throws(() => tensorBytes('f32', shape), { name: 'RangeError' }, `[${shape}]`)
  }
  t.throws(() => tensorBytes('f64' as TensorType, [1]), { name: 'TypeError', message: /f64.*f32/ })
  t.throws(() => tensorBytes('toString' as TensorType, [1]), { name: 'TypeError' })
})
