import { truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import fc from 'fast-check'
import t, { type Test } from 'tap'
import { GgufError } from '../../model/errors.js'
import { GgufFile } from '../../model/gguf/file.js'
import { MORE, parseHeader } from '../../model/gguf/header.js'
import {
  Bytes,
  bool,
  f32,
  type GgufContent,
  ggufHeader,
  numbers,
  string,
  strings,
  TENSOR_TYPE,
  VALUE_TYPE,
  writeGguf,
} from './gguf-writer.js'

const CONTENT: GgufContent = {
  metadata: {
    'general.architecture': string('gemma'),
    'a.float': f32(0.5),
    'a.flag': bool(true),
    'a.large': { type: 'u64', value: 2 ** 60 },
    'a.negative': { type: 'i64', value: -3 },
    'kept.strings': strings(['▁a', '', '\u{1f600}']),
    'kept.numbers': numbers('f32', [1, -2.5]),
    'other.strings': strings(['x', 'y']),
    'other.numbers': numbers('u16', [1, 2, 3]),
  },
  tensors: [
    { name: 'norm', type: 'F32', shape: [3], data: () => [new Uint8Array(12).fill(1)] },
    { name: 'matrix', type: 'Q4_0', shape: [2, 64], data: () => [new Uint8Array(72).fill(2)] },
    { name: 'half', type: 'F16', shape: [1, 2], data: () => [new Uint8Array(4).fill(3)] },
  ],
}
const KEPT = ['kept.strings', 'kept.numbers']

async function written(t: Test, content = CONTENT): Promise<string> {
  const file = join(t.testdir(), 'model.gguf')
  await writeGguf(file, content)
  return file
}

t.test('metadata, tensors and their bytes are read back', async (t) => {
  const path = await written(t)
  await using file = await GgufFile.open(path, KEPT)
  t.strictSame(Object.fromEntries(file.metadata), {
    'general.architecture': 'gemma',
    'a.float': 0.5,
    'a.flag': true,
    'a.large': 2n ** 60n,
    'a.negative': -3,
    'kept.strings': ['▁a', '', '\u{1f600}'],
    'kept.numbers': Float64Array.of(1, -2.5),
  })
  t.same(
    [...file.tensors.values()].map(({ name, type, shape, byteLength }) => [name, type.name, shape, byteLength]),
    [
      ['norm', 'F32', [3], 12],
      ['matrix', 'Q4_0', [2, 64], 72],
      ['half', 'F16', [1, 2], 4],
    ],
  )
  for (const [index, tensor] of [...file.tensors.values()].entries()) {
    const bytes = new Uint8Array(tensor.byteLength)
    await file.read(tensor, 0, bytes)
    t.ok(bytes.every((byte) => byte === index + 1))
  }
})

t.test('another alignment is obeyed', async (t) => {
  const path = await written(t, { ...CONTENT, alignment: 256 })
  await using file = await GgufFile.open(path, KEPT)
  t.ok([...file.tensors.values()].every(({ offset }) => offset % 256 === 0))
})

t.test('a header that is longer than what was read of the file asks for more', async (t) => {
  const header = ggufHeader(CONTENT)
  const read = (length: number) =>
    parseHeader({ bytes: header.subarray(0, length), file: 'f', fileBytes: header.length + 200, arrays: new Set(KEPT) })
  for (let length = 0; length < header.length - 64; length++) t.equal(read(length), MORE)
  t.not(read(header.length), MORE)
})

/** A header with nothing in it but what is given. */
const bare = (tensors: bigint, keys: bigint, write: (bytes: Bytes) => void) => {
  const bytes = new Bytes().text('GGUF').number('u32', 3).u64(tensors).u64(keys)
  write(bytes)
  return bytes.zeros(64).done()
}
const key = (name: string, type: number, write: (bytes: Bytes) => void) =>
  bare(0n, 1n, (bytes) => write(bytes.string(name).number('u32', type)))
const tensor = (dimensions: readonly bigint[], type: number, offset: bigint) =>
  bare(1n, 0n, (bytes) => {
    bytes.string('w').number('u32', dimensions.length)
    for (const size of dimensions) bytes.u64(size)
    bytes.number('u32', type).u64(offset)
  })
const two = (second: number) =>
  bare(2n, 0n, (bytes) => {
    for (const [name, offset] of [
      ['v', 0],
      ['w', second],
    ] as const) {
      bytes.string(name).number('u32', 1).u64(16n).number('u32', 0).number('u64', offset)
    }
    bytes.zeros(128)
  })

const HUGE = 2n ** 63n
const HOSTILE: readonly [about: string, bytes: Uint8Array, field: RegExp, value: RegExp | string][] = [
  ['an empty file', new Uint8Array(), /^magic$/, 'cut at byte 0'],
  ['another format', new TextEncoder().encode('PK\u0003\u0004 and more'), /^magic$/, /PK/],
  ['no version', new TextEncoder().encode('GGUF'), /^version$/, 'cut at byte 4'],
  ['version 1', new Bytes().text('GGUF').number('u32', 1).zeros(64).done(), /^version$/, '1'],
  ['version 4', new Bytes().text('GGUF').number('u32', 4).zeros(64).done(), /^version$/, '4'],
  ['big-endian', new Bytes().text('GGUF').number('u32', 0x03000000).zeros(64).done(), /^byte order$/, 'big-endian'],
  ['2⁶³ tensors', bare(HUGE, 0n, () => {}), /^tensor_count$/, String(HUGE)],
  ['2⁶³ keys', bare(0n, HUGE, () => {}), /^metadata_kv_count$/, String(HUGE)],
  ['more keys than bytes', bare(0n, 9999n, () => {}), /name of metadata key \d/, '""'],
  [
    'a key of gigabytes',
    bare(0n, 1n, (b) => b.u64(2n ** 33n)),
    /length of the name of metadata key 0/,
    String(2 ** 33),
  ],
  [
    'a key twice',
    bare(0n, 2n, (b) => b.string('a').number('u32', 4).number('u32', 1).string('a')),
    /metadata key 1/,
    '"a"',
  ],
  ['an unknown type of value', key('a', 13, () => {}), /type of "a"/, '13'],
  ['a string of gigabytes', key('a', VALUE_TYPE.string, (b) => b.u64(2n ** 34n)), /length of "a"/, String(2 ** 34)],
  ['a string beyond the end', key('a', VALUE_TYPE.string, (b) => b.u64(5000n)), /^"a"$/, /cut at byte \d+/],
  ['an array of arrays', key('a', VALUE_TYPE.array, (b) => b.number('u32', 9)), /type of the array "a"/, 'arrays'],
  ['an array of an unknown type', key('a', VALUE_TYPE.array, (b) => b.number('u32', 77)), /array "a"/, 'type 77'],
  [
    'an array of 2⁶³',
    key('a', VALUE_TYPE.array, (b) => b.number('u32', 0).u64(HUGE)),
    /length of the array "a"/,
    String(HUGE),
  ],
  [
    'an array beyond the end',
    key('a', VALUE_TYPE.array, (b) => b.number('u32', 12).u64(30n)),
    /length of the array/,
    '30',
  ],
  [
    'strings beyond the end',
    key('a', VALUE_TYPE.array, (b) => b.number('u32', 8).u64(8n).u64(3000n)),
    /array "a"/,
    /cut at/,
  ],
  [
    'an alignment of 3',
    key('general.alignment', VALUE_TYPE.u32, (b) => b.number('u32', 3)),
    /^general.alignment$/,
    '3',
  ],
  [
    'an alignment of 0',
    key('general.alignment', VALUE_TYPE.u32, (b) => b.number('u32', 0)),
    /^general.alignment$/,
    '0',
  ],
  [
    'an alignment that is a text',
    key('general.alignment', VALUE_TYPE.string, (b) => b.string('32')),
    /alignment/,
    '"32"',
  ],
  ['no dimensions', tensor([], 0, 0n), /dimensions of tensor "w"/, '0'],
  ['five dimensions', tensor([1n, 1n, 1n, 1n, 1n], 0, 0n), /dimensions of tensor "w"/, '5'],
  ['a dimension of 0', tensor([0n, 4n], 0, 0n), /shape of tensor "w"/, '[0, 4]'],
  ['a product beyond 64 bits', tensor([HUGE, HUGE, 2n], 0, 0n), /shape of tensor "w"/, `[${HUGE}, ${HUGE}, 2]`],
  ['a product beyond the file', tensor([1n << 20n, 1n << 20n], 0, 0n), /shape of tensor "w"/, '[1048576, 1048576]'],
  ['a row of half a block', tensor([48n, 1n], 2, 0n), /shape of tensor "w"/, '[48, 1]'],
  ['an unknown tensor type', tensor([4n], 99, 0n), /type of tensor "w"/, '99'],
  ['a withdrawn tensor type', tensor([4n], 4, 0n), /type of tensor "w"/, '4'],
  ['an offset of 2⁶³', tensor([4n], 0, HUGE), /offset of tensor "w"/, String(HUGE)],
  ['an offset out of step', tensor([4n], 0, 8n), /offset of tensor "w"/, '8'],
  ['a tensor that begins beyond the end', tensor([4n], 0, 96n), /offset of tensor "w"/, '96'],
  ['tensors that overlap', two(32), /offset of tensor "w"/, '32'],
  ['tensors in one place', two(0), /offset of tensor "w"/, '0'],
  [
    'a tensor twice',
    bare(2n, 0n, (b) => {
      for (const offset of [0, 64]) b.string('w').number('u32', 1).u64(4n).number('u32', 0).number('u64', offset)
    }),
    /name of tensor 1/,
    '"w"',
  ],
]

t.test('a hostile header is refused by file, field and value:', async (t) => {
  const folder = t.testdir()
  for (const [index, [about, bytes, field, value]] of HOSTILE.entries()) {
    const file = join(folder, `${index}.gguf`)
    await writeFile(file, bytes)
    const error = await GgufFile.open(file, []).then(
      () => undefined,
      (reason: unknown) => reason,
    )
    t.type(error, GgufError, about)
    if (!(error instanceof GgufError)) continue
    t.match(error.field, field, about)
    t.match(error.value, value, about)
    t.equal(error.file, file)
    t.ok(error.message.startsWith(`${file}: `) && error.message.length < 600, error.message)
  }
})

t.test('a sparse file of a terabyte costs no memory, whatever its header claims', async (t) => {
  const file = join(t.testdir(), 'sparse.gguf')
  const claims: [bytes: Uint8Array, field: RegExp][] = [
    [key('a', VALUE_TYPE.array, (b) => b.number('u32', 0).u64(2n ** 39n)), /array "a"/],
    [key('a', VALUE_TYPE.array, (b) => b.number('u32', 8).u64(2n ** 36n)), /array "a"/],
    [key('kept', VALUE_TYPE.array, (b) => b.number('u32', 12).u64(2n ** 36n)), /length of the array "kept"/],
    [bare(100_000n, 0n, () => {}), /dimensions of tensor ""/],
  ]
  for (const [bytes, field] of claims) {
    await writeFile(file, bytes)
    await truncate(file, 2 ** 40)
    await t.rejects(GgufFile.open(file, ['kept']), { name: 'GgufError', field })
  }
})

t.test('a cut file is refused wherever it is cut', async (t) => {
  const path = await written(t)
  const end = await (async () => {
    await using file = await GgufFile.open(path, KEPT)
    return Math.max(...[...file.tensors.values()].map(({ offset, byteLength }) => offset + byteLength))
  })()
  for (let length = end - 1; length >= 0; length -= 7) {
    await truncate(path, length)
    await t.rejects(GgufFile.open(path, KEPT), { name: 'GgufError' }, `${length} bytes`)
  }
})

t.test('any bytes, and any file with some bytes changed, are read or refused with a typed error', async (t) => {
  const header = ggufHeader(CONTENT)
  const whole = new Uint8Array(header.length + 200)
  whole.set(header)
  const isHandled = (bytes: Uint8Array): boolean => {
    try {
      return parseHeader({ bytes, file: 'f', fileBytes: bytes.length, arrays: new Set(KEPT) }) !== MORE
    } catch (error) {
      return error instanceof GgufError
    }
  }
  fc.assert(fc.property(fc.uint8Array({ maxLength: 300 }), isHandled))
  const start = new TextEncoder().encode('GGUF\u0003\0\0\0')
  fc.assert(fc.property(fc.uint8Array({ maxLength: 300 }), (rest) => isHandled(Uint8Array.of(...start, ...rest))))
  const changes = fc.array(
    fc.tuple(fc.nat(header.length - 1), fc.oneof(fc.nat(255), fc.constantFrom(0, 127, 128, 255))),
    {
      minLength: 1,
      maxLength: 8,
    },
  )
  fc.assert(
    fc.property(changes, (list) => {
      const changed = whole.slice()
      for (const [at, byte] of list) changed[at] = byte
      return isHandled(changed)
    }),
    { numRuns: 3000 },
  )
  t.pass()
})

t.test('every tensor type that tests write has the size that the reader gives it', async (t) => {
  const { TENSOR_TYPES } = await import('../../model/gguf/tensor-types.js')
  for (const [name, { id, weights, bytes }] of Object.entries(TENSOR_TYPE)) {
    t.same(TENSOR_TYPES.get(id), { name, weights, bytes })
  }
})

t.test('what is no file, or not there, says so', async (t) => {
  const folder = t.testdir()
  await t.rejects(GgufFile.open(join(folder, 'absent.gguf'), []), {
    name: 'CheckpointError',
    message: /cannot be opened/,
  })
  await t.rejects(GgufFile.open(folder, []), { name: 'GgufError', value: 'no file' })
})
