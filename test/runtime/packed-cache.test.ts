import { existsSync, mkdirSync, readdirSync, readFileSync, truncateSync, utimesSync, writeFileSync } from 'node:fs'
import { rename } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import t, { type Test } from 'tap'
import { cpuIdentity, parseCpuFeatures } from '../../model/runtime/cpu.js'
import type { SaveOptions } from '../../model/runtime/native-session.js'
import {
  discardPacked,
  externalFiles,
  findOrMakePacked,
  type PackedOptions,
  packedOffsets,
} from '../../model/runtime/packed-cache.js'
import { openRuntime } from '../../model/runtime/runtime.js'
import type { Runtime, Session } from '../../model/runtime/types.js'
import { runChild } from './fork.js'
import { writeQuantizedModel } from './graphs.js'

/** Large enough to be packed, with weights large enough to be mapped. */
const PACKABLE = { layers: 8, size: 2048 }

/** What ONNX Runtime writes into a graph about one packed weight, as a StringStringEntryProto (onnx.proto3). */
const packedEntry = (index: number, offset: number) =>
  `\x0a\x0bprepacked_${index}\x12\x20MatMulNBits+1234|${offset};100;0`

/** A model folder, and a cache whose packing is a matter of two small files. */
function fake(t: Test) {
  const model = writeQuantizedModel(t.testdir(), { layers: 1, size: 256 })
  // A hole, which takes no room: the size is all that is looked at.
  truncateSync(join(dirname(model), 'weights.bin'), 32e6)
  const cache = join(dirname(model), '.packed')
  const warnings: string[] = []
  const packed: SaveOptions[] = []
  const options: PackedOptions = {
    model,
    library: '1.30.0, git-commit-id=1',
    cpu: 'x64 avx2',
    config: {},
    pack: async (save) => {
      packed.push(save)
      writeFileSync(save.graphFile, packedEntry(0, 4096))
      writeFileSync(join(dirname(save.graphFile), save.dataFileName), 'weights')
    },
    log: { info: () => {}, warn: (message) => warnings.push(message) },
  }
  const find = (changes: Partial<PackedOptions> = {}) => findOrMakePacked({ ...options, ...changes })
  return { model, cache, warnings, packed, options, find, kept: () => readdirSync(cache).sort() }
}

t.test('a model is packed once, and found from then on', async (t) => {
  const { find, packed, kept, model, warnings } = fake(t)
  const first = await find()
  t.equal(await find(), first)
  t.equal(packed.length, 1)
  t.match(kept(), [/^engine\.onnx-[0-9a-f]{16}$/])
  t.equal(dirname(dirname(dirname(first!))), dirname(model), 'beside the model')
  t.same(warnings, [])
})

t.test('another model in the same folder has a packed copy of its own', async (t) => {
  const { find, packed, kept, model } = fake(t)
  const other = join(dirname(model), 'model.onnx')
  writeFileSync(other, readFileSync(model))
  await find()
  await find({ model: other })
  await find()
  t.equal(packed.length, 2)
  t.match(kept(), [/^engine\.onnx-/, /^model\.onnx-/])
})

for (const [what, change] of [
  ['the graph is another', (model: string) => writeQuantizedModel(dirname(model), PACKABLE)],
  ['its weights are newer', (model: string) => utimesSync(join(dirname(model), 'weights.bin'), 1e9, 1e9)],
  ['its weights have another size', (model: string) => truncateSync(join(dirname(model), 'weights.bin'), 40e6)],
  ['the manifest is another', (model: string) => writeFileSync(join(dirname(model), 'manifest.json'), '{"source":1}')],
] as const) {
  t.test(`when ${what}, it is packed again, and the old copy is removed`, async (t) => {
    const { find, packed, kept, model } = fake(t)
    const first = await find()
    change(model)
    const second = await find()
    t.not(second, first)
    t.equal(packed.length, 2)
    t.equal(kept().length, 1)
    t.ok(existsSync(second!))
  })
}

t.test('another ONNX Runtime packs again, and removes what nobody will read any more', async (t) => {
  const { find, packed, kept } = fake(t)
  await find()
  await find({ library: '1.30.0, git-commit-id=2' })
  t.equal(packed.length, 2)
  t.equal(kept().length, 1)
})

t.test("another kind of CPU packs again, and leaves alone what this one's machine reads", async (t) => {
  const { find, packed, kept } = fake(t)
  const first = await find()
  const second = await find({ cpu: 'x64 avx2 avx512f' })
  t.not(second, first)
  t.equal(kept().length, 2)
  t.equal(await find(), first)
  t.equal(packed.length, 2)
})

t.test('other session options have a copy of their own', async (t) => {
  const { find, packed } = fake(t)
  t.not(await find({ config: { 'mlas.use_lut_gemm': '1' } }), await find())
  t.equal(
    await find({ config: { 'session.intra_op.allow_spinning': '1' } }),
    await find(),
    'threads may wait as they like',
  )
  t.equal(packed.length, 2)
})

for (const [what, damage] of [
  ['was cut short', (folder: string) => truncateSync(join(folder, 'packed.onnx_data'), 3)],
  ['does not say what it is', (folder: string) => writeFileSync(join(folder, 'packed.json'), '{')],
  ['says that it is another', (folder: string) => writeFileSync(join(folder, 'packed.json'), '{"files":{}}')],
] as const) {
  t.test(`a copy that ${what} is noticed and made again`, async (t) => {
    const { find, packed, kept } = fake(t)
    const path = await find()
    damage(dirname(path!))
    t.equal(await find(), path)
    t.equal(packed.length, 2)
    t.equal(kept().length, 1)
    t.equal(readFileSync(join(dirname(path!), 'packed.onnx_data'), 'utf8'), 'weights')
  })
}

t.test('two that pack at once both end with the same whole copy', async (t) => {
  const { find, packed, kept, options, warnings } = fake(t)
  const both = resolvers()
  const pack = async (save: SaveOptions) => {
    await options.pack(save)
    if (packed.length === 2) both.resolve()
    await both.promise
  }
  const [one, other] = await Promise.all([find({ pack }), find({ pack })])
  t.equal(one, other)
  t.equal(packed.length, 2)
  t.equal(kept().length, 1, 'nothing is left of the slower one')
  t.same(warnings, [])
})

function resolvers() {
  let resolve = () => {}
  const promise = new Promise<void>((done) => {
    resolve = done
  })
  return { promise, resolve }
}

t.test('where nothing can be written, the model is loaded as it is, and one line says why', async (t) => {
  const { find, packed, cache, warnings } = fake(t)
  // A file in its place: no folder can be made there, not even by root.
  writeFileSync(cache, '')
  t.equal(await find(), undefined)
  t.equal(packed.length, 0, 'it was not packed in vain')
  t.match(warnings, [/engine\.onnx cannot be kept packed.*slower.*(EEXIST|ENOTDIR)/])
})

t.test('a disk without room for the copy is left alone', async (t) => {
  const { find, packed, cache, warnings } = fake(t)
  t.equal(await find({ freeBytes: async () => 1000 }), undefined)
  t.equal(packed.length, 0)
  t.match(warnings, [/it takes up to 80 MB on the disk, which has 1 MB free/])
  t.notOk(existsSync(cache))
})

t.test('a copy that could not be written whole is removed', async (t) => {
  const { find, options, cache, warnings } = fake(t)
  const pack = async (save: SaveOptions) => {
    await options.pack(save)
    throw new Error('ENOSPC: no space left on device')
  }
  t.equal(await find({ pack }), undefined)
  t.match(warnings, [/no space left/])
  t.notOk(existsSync(cache))
  t.ok(await find(), 'the next start tries again')
})

t.test('what dead processes left is removed once it is an hour old', async (t) => {
  const { find, cache, kept } = fake(t)
  const [old, young] = [join(cache, '.incomplete-engine.onnx-1-a'), join(cache, '.incomplete-engine.onnx-2-b')]
  for (const folder of [old, young]) {
    mkdirSync(folder, { recursive: true })
    writeFileSync(join(folder, 'packed.onnx_data'), 'half')
  }
  const hours = Date.now() / 1000 - 2 * 60 * 60
  utimesSync(old, hours, hours)
  await find()
  t.match(kept(), ['.incomplete-engine.onnx-2-b', /^engine\.onnx-/])
})

t.test('a weights file that is missing is left for the load itself to report', async (t) => {
  const { find, model, warnings } = fake(t)
  const weights = join(dirname(model), 'weights.bin')
  await rename(weights, `${weights}.gone`)
  t.equal(await find(), undefined)
  t.match(warnings, [/weights\.bin/])
})

t.test('the files of weights are found in the bytes of a graph', async (t) => {
  t.same(externalFiles(readFileSync(writeQuantizedModel(t.testdir(), { layers: 2, size: 64 }))), ['weights.bin'])
  t.same(externalFiles(Buffer.from('no graph, though it has a location')), [])
  t.same(externalFiles(Buffer.from('\x0a\x08location\x12')), [''], 'cut short')
})

t.test('the CPU is known by the instructions that kernels are chosen by', async (t) => {
  const x86 =
    'processor\t: 0\nflags\t\t: fpu avx2 fma lm avx512_vnni md_clear\n\nprocessor\t: 1\nflags\t\t: fma avx2 fpu\n'
  t.same(parseCpuFeatures(x86), ['avx2', 'fma'], 'those of all cores, sorted')
  t.same(parseCpuFeatures('Features\t: fp asimd i8mm\n'), ['asimd', 'fp', 'i8mm'])
  t.same(parseCpuFeatures('model name: odd'), [])
  t.equal(await cpuIdentity(), await cpuIdentity())
  t.match(await cpuIdentity(), new RegExp(`^${process.arch} `))
})

t.test('a small model is loaded as it is, without a word', async (t) => {
  const { find, packed, cache, warnings, model } = fake(t)
  truncateSync(join(dirname(model), 'weights.bin'), 1e6)
  t.equal(await find(), undefined)
  t.equal(packed.length, 0)
  t.notOk(existsSync(cache))
  t.same(warnings, [])
})

for (const [what, graph] of [
  ['would be mapped crookedly', packedEntry(0, 4096) + packedEntry(1, 8193)],
  ['have no packed form', 'graph'],
] as const) {
  t.test(`a model whose weights ${what} is packed once, never used so, and not packed again`, async (t) => {
    const { find, packed, kept, options, cache, warnings } = fake(t)
    const pack = async (save: SaveOptions) => {
      await options.pack(save)
      writeFileSync(save.graphFile, graph)
    }
    t.equal(await find({ pack }), undefined)
    t.equal(await find({ pack }), undefined)
    t.equal(packed.length, 1)
    t.same(readdirSync(join(cache, kept()[0]!)), ['packed.json'], 'its files are gone')
    t.same(warnings, [])
  })
}

t.test('the places of packed weights are read from the bytes of a saved graph', async (t) => {
  t.same(packedOffsets(Buffer.from(packedEntry(0, 0) + packedEntry(11, 289546240), 'latin1')), [0, 289546240])
  const twoBuffers = '\x0a\x0bprepacked_0\x12\x90\x01MatMul+1|64;100;0|192;7;0'
  t.same(packedOffsets(Buffer.from(twoBuffers, 'latin1')), [64, 192])
  t.same(packedOffsets(Buffer.from('nothing of the kind')), [])
})

/** y of one run on x = 0.01 · index. */
async function product(runtime: Runtime, session: Session): Promise<number[]> {
  const size = PACKABLE.size
  const make = () => runtime.createTensor({ type: 'f32', shape: [1, size], place: 'host' })
  const [x, y] = [await make(), await make()]
  const numbers = ({ bytes }: { bytes: Uint8Array }) => new Float32Array(bytes.buffer, bytes.byteOffset, size)
  numbers(x).set(Array.from({ length: size }, (_, index) => index * 0.01))
  const binding = await runtime.createBinding(session)
  binding.bindInput('x', x)
  binding.bindOutput('y', y)
  await runtime.run([binding])
  return [...numbers(y)]
}

t.test('a model that ONNX Runtime has packed gives the same numbers, and is mended when it is damaged', async (t) => {
  const model = writeQuantizedModel(t.testdir(), PACKABLE)
  const cache = join(dirname(model), '.packed')
  const lines: string[] = []
  const log = { info: (line: string) => lines.push(line), warn: (line: string) => lines.push(line) }
  const runtime = await openRuntime({ device: 'cpu', threads: 2, log })
  t.teardown(() => runtime[Symbol.asyncDispose]())
  const expected = await product(runtime, await runtime.openSession({ model }))
  t.notOk(existsSync(cache), 'a plain load writes nothing')

  t.same(await product(runtime, await runtime.openSession({ model, load: 'packed' })), expected)
  t.match(lines.splice(0), [/^Packing /, /^Packed .* in .* s\.$/])
  const [name] = readdirSync(cache)
  t.match(readdirSync(join(cache, name!)), ['packed.json', 'packed.onnx', 'packed.onnx_data'])
  t.same(await product(runtime, await runtime.openSession({ model, load: 'packed' })), expected)
  t.same(lines, [], 'the second load says nothing')

  const graph = join(cache, name!, 'packed.onnx')
  writeFileSync(graph, new Uint8Array(readFileSync(graph).byteLength))
  t.same(await product(runtime, await runtime.openSession({ model, load: 'packed' })), expected)
  t.match(lines.splice(0), [/packed copy .* is broken and was removed/])
  t.same(await product(runtime, await runtime.openSession({ model, load: 'packed' })), expected)
  t.match(lines, [/^Packing /, /^Packed /])

  await discardPacked(graph)
  t.same(readdirSync(cache), [])
})

t.test('a model of small weights gives the same numbers, since its packed copy is not used', async (t) => {
  const shape = { layers: 512, size: 256 }
  const model = writeQuantizedModel(t.testdir(), shape)
  const { code, message } = await runChild('load-packed', [model])
  t.equal(code, 0)
  t.match((message as { infos: string[] }).infos, [/^Packing/, /loaded as it is: .* of its 512 packed weights/])
})

t.test('two processes that start at once both serve, from one packed copy', async (t) => {
  const model = writeQuantizedModel(t.testdir(), PACKABLE)
  const results = await Promise.all([runChild('load-packed', [model]), runChild('load-packed', [model])])
  for (const { code, signal, message } of results) {
    t.same({ code, signal }, { code: 0, signal: null })
    t.equal((message as { inputs: string[] }).inputs.join(), 'x')
  }
  t.equal(readdirSync(join(dirname(model), '.packed')).length, 1)
})

const limit = process.platform === 'win32' ? { skip: 'no ulimit' } : {}
t.test(
  'a disk that fills up while ONNX Runtime writes leaves nothing behind, and the model serves',
  limit,
  async (t) => {
    // The copy takes more than twice the 17 MB of the weights.
    const model = writeQuantizedModel(t.testdir(), PACKABLE)
    const { code, signal, message } = await runChild('load-packed', [model], { fileLimitBytes: 20 * 1024 * 1024 })
    t.same({ code, signal }, { code: 0, signal: null })
    const { inputs, warnings } = message as { inputs: string[]; warnings: string[] }
    t.same(inputs, ['x'])
    t.match(warnings, [/cannot be kept packed.*write/])
    t.notOk(existsSync(join(dirname(model), '.packed')))
  },
)
