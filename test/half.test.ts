import fc from 'fast-check'
import t from 'tap'
import { bf16FromF32, f16FromF32, f16Table, f32FromBf16, f32FromF16 } from '../model/half.js'

const KINDS = [
  { name: 'f16', encode: f16FromF32, decode: f32FromF16, infinity: 0x7c00, largest: 65504 },
  { name: 'bf16', encode: bf16FromF32, decode: f32FromBf16, infinity: 0x7f80, largest: 3.3895313892515355e38 },
]

for (const { name, encode, decode, infinity, largest } of KINDS) {
  t.test(`all 65,536 values of ${name} survive the way to f32 and back`, async (t) => {
    const changed: number[] = []
    for (let half = 0; half < 65_536; half++) {
      const value = decode(half)
      const noNumber = (half & 0x7fff) > infinity
      if (noNumber ? !Number.isNaN(value) || !Number.isNaN(decode(encode(value))) : encode(value) !== half)
        changed.push(half)
      if (!Object.is(Math.fround(value), value)) changed.push(half)
    }
    t.same(changed, [])
    t.equal(decode(infinity), Number.POSITIVE_INFINITY)
    t.equal(decode(infinity - 1), largest)
    t.ok(Object.is(decode(0x8000), -0))
  })

  t.test(`${name} takes the nearest value, and of two equally near ones the even one`, async (t) => {
    const positive = (half: number) => half & 0x7fff
    const finite = fc.float({ noNaN: true, min: Math.fround(-largest), max: Math.fround(largest) })
    fc.assert(
      fc.property(finite, (value) => {
        const half = encode(value)
        const error = Math.abs(decode(half) - value)
        return [half - 1, half + 1].every((neighbour) => {
          if (positive(half) === 0 && neighbour < half) return true
          if (positive(neighbour) >= infinity) return true
          const other = Math.abs(decode(neighbour) - value)
          return error < other || (error === other && half % 2 === 0)
        })
      }),
      { numRuns: 5000 },
    )
    for (let half = 0; half < infinity - 1; half++) {
      const between = (decode(half) + decode(half + 1)) / 2
      if (encode(between) !== half + (half % 2)) t.fail(`${between} lies between ${half} and its successor`)
    }
  })

  t.test(`${name} makes what is too large infinite`, async (t) => {
    const step = decode(infinity - 1) - decode(infinity - 2)
    t.equal(encode(Math.fround(largest + step / 2)), infinity)
    t.equal(encode(Math.fround(-largest - step / 2)), infinity | 0x8000)
    t.equal(encode(Math.fround(largest + step / 4)), infinity - 1)
    t.equal(encode(Number.NEGATIVE_INFINITY), infinity | 0x8000)
  })
}

t.test('the table of f16 holds what decoding one by one gives', async (t) => {
  const table = f16Table()
  t.equal(table.length, 65_536)
  t.ok(table.every((value, half) => Object.is(value, f32FromF16(half))))
})
