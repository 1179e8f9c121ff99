import fc from 'fast-check'
import t from 'tap'
import { elementCode, elementSize, elementTypeOfCode, tensorBytes } from '../../model/runtime/element-type.js'
import type { TensorType } from '../../model/runtime/types.js'

const TYPES: readonly TensorType[] = ['f32', 'f16', 'bf16', 'i64', 'i32', 'u8', 'i8', 'bool']

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
