import { writeFile } from 'node:fs/promises'
import path from 'node:path'
import fc from 'fast-check'
import t, { type Test } from 'tap'
import { CheckpointError } from '../../model/errors.js'
import { parseHeader, SafetensorsFile } from '../../model/export/safetensors.js'
import { safetensorsHeader } from './random-checkpoint.js'

/** A file with the given header (JSON, or any text) and as many bytes of data as said. */
function fileOf(header: unknown, dataBytes: number): Buffer {
  const text = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(text.length))
  return Buffer.concat([length, text, Buffer.alloc(dataBytes)])
}

async function openBytes(t: Test, bytes: Uint8Array): Promise<Map<string, unknown>> {
  const file = path.join(t.testdir(), 'model.safetensors')
  await writeFile(file, bytes)
  await using opened = await SafetensorsFile.open(file)
  return new Map(opened.tensors)
}

const f32 = (shape: number[], begin: number, end: number) => ({ dtype: 'F32', shape, data_offsets: [begin, end] })

t.test('a file reads back as it was written', async (t) => {
  const file = path.join(t.testdir(), 'model.safetensors')
  const tensors = fc.uniqueArray(
    fc.record({
      // A tensor called like the metadata would be metadata.
      name: fc.string({ unit: 'binary' }).filter((name) => name !== '__metadata__' && name !== '__proto__'),
      shape: fc.array(fc.integer({ min: 0, max: 4 }), { maxLength: 3 }),
    }),
    { selector: ({ name }) => name, maxLength: 6 },
  )
  await fc.assert(
    fc.asyncProperty(tensors, fc.constantFrom('F32', 'F16', 'BF16'), async (list, dtype) => {
      const sizes = list.map(({ shape }) => shape.reduce((n, d) => n * d, dtype === 'F32' ? 4 : 2))
      const data = sizes.map((size, i) => Buffer.alloc(size, i + 1))
      await writeFile(file, Buffer.concat([safetensorsHeader(list, dtype as 'F32'), ...data]))
      await using opened = await SafetensorsFile.open(file)
      if (opened.tensors.size !== list.length) return false
      for (const [i, { name, shape }] of list.entries()) {
        const entry = opened.tensors.get(name)
        if (!entry || entry.dtype !== dtype || entry.shape.join() !== shape.join()) return false
        const bytes = new Uint8Array(entry.byteLength)
        await opened.read(entry, 0, bytes)
        if (Buffer.compare(bytes, data[i]!) !== 0) return false
      }
      return true
    }),
    { numRuns: 25 },
  )
})

t.test('random bytes give a CheckpointError, whatever they are', async (t) => {
  const file = path.join(t.testdir(), 'model.safetensors')
  const anything = fc.uint8Array({ maxLength: 64 })
  // Random bytes almost never get past the length; these have a true one.
  const honestLength = fc.string().map((text) => fileOf(text, 0))
  const almost = fc.json().map((json) => fileOf(`{"a":${json}}`, 8))
  await fc.assert(
    fc.asyncProperty(fc.oneof(anything, honestLength, almost), async (bytes) => {
      await writeFile(file, bytes)
      try {
        const opened = await SafetensorsFile.open(file)
        await opened[Symbol.asyncDispose]()
        // Such bytes may be a good file, if they hold no tensor.
        return opened.tensors.size === 0
      } catch (error) {
        return error instanceof CheckpointError && error.file === file
      }
    }),
    { numRuns: 200 },
  )
})

t.test('one changed byte in a header never does worse than a CheckpointError', async () => {
  const header = safetensorsHeader(
    [
      { name: 'model.norm.weight', shape: [4] },
      { name: 'b', shape: [2, 3] },
    ],
    'F32',
  )
  const text = header.subarray(8)
  fc.assert(
    fc.property(fc.nat(text.length - 1), fc.nat(255), (at, value) => {
      const changed = Uint8Array.from(text)
      changed[at] = value
      try {
        const tensors = parseHeader(changed, 'f', 8 + text.length, 8 + text.length + 40)
        return [...tensors.values()].every((tensor) => tensor.offset + tensor.byteLength <= 8 + text.length + 40)
      } catch (error) {
        return error instanceof CheckpointError
      }
    }),
    { numRuns: 2000 },
  )
})

const FAULTS: { name: string; bytes: () => Uint8Array; message: RegExp; tensor?: string }[] = [
  { name: 'an empty file', bytes: () => Buffer.alloc(0), message: /has 0 bytes, but a header's length alone takes 8/ },
  {
    name: 'a header longer than the file',
    bytes: () => {
      const bytes = fileOf({}, 100)
      bytes.writeBigUInt64LE(2n ** 40n)
      return bytes
    },
    message: /says its header has 1099511627776 bytes, but only 102 follow/,
  },
  {
    name: 'a header whose length has the highest bit set',
    bytes: () => Buffer.alloc(16, 0xff),
    message: /says its header has 18446744073709551615 bytes, but only 8 follow/,
  },
  { name: 'a header that is no JSON', bytes: () => fileOf('{"a":', 0), message: /its header is not JSON/ },
  { name: 'a header that is a list', bytes: () => fileOf([], 0), message: /its header is no JSON object/ },
  {
    name: 'a cut file',
    bytes: () => fileOf({ a: f32([4], 0, 16) }, 10),
    message: /is cut: 6 bytes of a are missing/,
    tensor: 'a',
  },
  {
    name: 'bytes behind the last tensor',
    bytes: () => fileOf({ a: f32([4], 0, 16) }, 20),
    message: /has 83 bytes, but its tensors end at 79/,
  },
  {
    name: 'tensors that overlap',
    bytes: () => fileOf({ a: f32([4], 0, 16), b: f32([2], 12, 20) }, 20),
    message: /tensor b begins at byte \d+ and overlaps a, which ends at \d+/,
    tensor: 'b',
  },
  {
    name: 'a gap between tensors',
    bytes: () => fileOf({ a: f32([1], 0, 4), b: f32([1], 8, 12) }, 12),
    message: /tensor b begins at byte \d+ and leaves a gap after a/,
    tensor: 'b',
  },
  {
    name: 'offsets that do not fit the shape',
    bytes: () => fileOf({ a: f32([3], 0, 16) }, 16),
    message: /tensor "a": F32\[3\] needs 12 bytes, but data_offsets give it 16/,
    tensor: 'a',
  },
  {
    name: 'offsets in reverse',
    bytes: () => fileOf({ a: f32([1], 4, 0) }, 4),
    message: /tensor "a": has data_offsets \[4,0\], but \[begin, end\] is wanted/,
    tensor: 'a',
  },
  {
    name: 'a negative size',
    bytes: () => fileOf({ a: f32([-1], 0, 4) }, 4),
    message: /tensor "a": has shape \[-1\], but a list of sizes is wanted/,
    tensor: 'a',
  },
  {
    name: 'an unknown type',
    bytes: () => fileOf({ a: { dtype: 'F24', shape: [1], data_offsets: [0, 3] } }, 3),
    message: /tensor "a": has dtype "F24", which safetensors does not have/,
    tensor: 'a',
  },
]

for (const { name, bytes, message, tensor } of FAULTS) {
  t.test(`${name} is refused, and the error says where and why`, async (t) => {
    const error = await openBytes(t, bytes()).catch((error) => error)
    t.type(error, CheckpointError)
    t.match(error.message, message)
    t.match(error.message, /model\.safetensors: /)
    t.equal(error.tensor, tensor)
  })
}

t.test('a missing file is a CheckpointError that names it', async (t) => {
  const file = path.join(t.testdir(), 'none.safetensors')
  await t.rejects(SafetensorsFile.open(file), { code: 'BAD_CHECKPOINT', file })
})
