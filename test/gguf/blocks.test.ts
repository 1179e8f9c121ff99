import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import t from 'tap'
import { dequantizeBlocks } from '../../model/export/quantize.js'
import { dequantize, READABLE_TYPES, REPACKABLE, repack } from '../../model/gguf/blocks.js'
import { TENSOR_TYPES } from '../../model/gguf/tensor-types.js'

interface Fixture {
  types: Record<string, { blocks: string; values: string }>
}

const fixture = JSON.parse(readFileSync(new URL('fixtures/blocks.json', import.meta.url), 'utf8')) as Fixture
const typeNamed = (name: string) => [...TENSOR_TYPES.values()].find((type) => type.name === name)!
const bytesOf = (base64: string) => new Uint8Array(Buffer.from(base64, 'base64'))

t.test("blocks of every readable type have the reference's values, bit for bit", async (t) => {
  t.same(['F32', ...Object.keys(fixture.types)].sort(), [...READABLE_TYPES].sort())
  for (const [name, { blocks, values }] of Object.entries(fixture.types)) {
    const wanted = new Float32Array(bytesOf(values).buffer)
    const found = new Float32Array(wanted.length)
    dequantize(typeNamed(name), bytesOf(blocks), found)
    t.same([...new Uint32Array(found.buffer)], [...new Uint32Array(wanted.buffer)], name)
  }
})

t.test('F32 is taken as it is', async (t) => {
  const values = Float32Array.of(1, -0, 3.4e38, 1e-45)
  const found = new Float32Array(4)
  dequantize(typeNamed('F32'), new Uint8Array(values.buffer), found)
  t.same([...found], [...values])
})

for (const [name, { bits, blockSize }] of Object.entries(REPACKABLE)) {
  t.test(`${name} is repacked without changing a number, with scales in f32 and in f16`, async (t) => {
    const type = typeNamed(name)
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 3 * type.bytes, maxLength: 3 * type.bytes }), (blocks) => {
        // An exponent of all ones would be no number.
        for (let block = 0; block < 3; block++) blocks[block * type.bytes + 1]! &= 0xbf
        const wanted = new Float32Array(3 * blockSize)
        dequantize(type, blocks, wanted)
        for (const scales of [new Float32Array(3), new Uint16Array(3)]) {
          const packed = new Uint8Array((3 * blockSize * bits) / 8)
          const scaleType = scales instanceof Uint16Array ? 'f16' : 'f32'
          if (repack(type, blocks, packed, scales) !== -1) return false
          const found = dequantizeBlocks(packed, scales, { bits, blockSize, scaleType })
          if (!found.every((value, i) => value === wanted[i])) return false
        }
        return true
      }),
    )
    t.pass()
  })

  t.test(`${name}: a scale that is no number is found, and where`, async (t) => {
    const type = typeNamed(name)
    for (const [low, high] of [
      [0, 0x7c],
      [0, 0xfc],
      [1, 0x7e],
    ] as const) {
      const blocks = new Uint8Array(3 * type.bytes)
      blocks.set([low, high], 2 * type.bytes)
      t.equal(repack(type, blocks, new Uint8Array((96 * bits) / 8), new Float32Array(3)), 2)
    }
  })
}
