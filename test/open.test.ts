import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { type OpenedModel, openModel } from '../model/open.js'
import { parseModelSettings } from '../model/settings.js'
import { TINY, tinyTokenizer, writeRandomCheckpoint } from './export/random-checkpoint.js'
import { gemmaMetadata, randomTensors, type TokenizerJson, tokenTables } from './gguf/gemma-gguf.js'
import { writeGguf } from './gguf/gguf-writer.js'
import { startFakeHub } from './hub/fake-hub.js'

/** Wide enough for what is exported by default: blocks of 128 weights. */
const SHAPE = { ...TINY, hiddenSize: 128 }
const ID = 'google/gemma-tiny-it'

async function open(t: Test, env: Record<string, string>): Promise<OpenedModel & { lines: string[] }> {
  const lines: string[] = []
  const log = {
    info: (line: string) => void lines.push(line),
    warn: (line: string) => void lines.push(`warn: ${line}`),
  }
  const opened = await openModel({ settings: parseModelSettings(env), report: () => {}, log })
  t.teardown(() => opened.runtime[Symbol.asyncDispose]())
  return { ...opened, lines }
}

t.test('a Hugging Face id is pulled and exported once; later starts need no Hub', async (t) => {
  const folder = t.testdir()
  await writeRandomCheckpoint(join(folder, 'checkpoint'), { shape: SHAPE })
  const names = await readdir(join(folder, 'checkpoint'))
  const files = await Promise.all(
    names.map(async (name) => [name, await readFile(join(folder, 'checkpoint', name))] as const),
  )
  const hub = await startFakeHub()
  hub.push(ID, Object.fromEntries(files))
  const env = { MODEL: ID, HF_ENDPOINT: hub.url, MODEL_CACHE: join(folder, 'cache'), DEVICE: 'cpu' }

  const first = await open(t, env)
  t.equal(first.folder.weightDtype, 'q4')
  t.equal(first.folder.config.hiddenSize, SHAPE.hiddenSize)
  t.ok(first.lines.some((line) => line.includes('this is done once')))
  await hub.close()

  const second = await open(t, env)
  t.equal(second.folder.path, first.folder.path)
  t.same(second.lines, [])
})

t.test('of two that open the same checkpoint at once, one exports and both get the export', async (t) => {
  const folder = t.testdir()
  const checkpoint = join(folder, 'checkpoint')
  await writeRandomCheckpoint(checkpoint, { shape: SHAPE })
  const env = { MODEL: checkpoint, MODEL_CACHE: join(folder, 'cache'), DEVICE: 'cpu' }
  const [one, two] = await Promise.all([open(t, env), open(t, env)])
  t.equal(one.folder.path, two.folder.path)
  const exports = [...one.lines, ...two.lines].filter((line) => line.includes('this is done once'))
  t.equal(exports.length, 1)
})

t.test('a changed checkpoint is exported anew', async (t) => {
  const folder = t.testdir()
  const checkpoint = join(folder, 'checkpoint')
  const env = { MODEL: checkpoint, MODEL_CACHE: join(folder, 'cache'), DEVICE: 'cpu' }
  await writeRandomCheckpoint(checkpoint, { shape: SHAPE })
  const before = await open(t, env)
  await writeRandomCheckpoint(checkpoint, { shape: SHAPE, seed: 2 })
  const after = await open(t, env)
  t.not(after.folder.path, before.folder.path)
})

/** A GGUF file of 4 bits, whose embedding has 6. */
async function writeTinyGguf(file: string, seed = 1): Promise<void> {
  const shape = { ...SHAPE, hiddenSize: 256, intermediateSize: 256, headSize: 64 }
  await writeGguf(file, {
    metadata: gemmaMetadata(shape, tokenTables(tinyTokenizer().tokenizer as TokenizerJson)),
    tensors: randomTensors(shape, { type: 'Q4_0', embedding: 'Q6_K', deviation: 0.1, seed }),
  })
}

t.test('a GGUF file is exported once, as its types suggest, and anew when it changes', async (t) => {
  const folder = t.testdir()
  const file = join(folder, 'tiny.Q4_0.gguf')
  const env = { MODEL: file, MODEL_CACHE: join(folder, 'cache'), DEVICE: 'cpu' }
  await writeTinyGguf(file)
  const first = await open(t, env)
  t.match(first.folder.manifest, { dtype: 'q4', blockSize: 32, embedding: { dtype: 'q8' } })
  t.ok(first.lines.some((line) => line.includes('bit for bit: 14 in Q4_0; quantized anew')))
  const second = await open(t, env)
  t.equal(second.folder.path, first.folder.path)
  t.same(second.lines, [])
  await writeTinyGguf(file, 2)
  t.not((await open(t, env)).folder.path, first.folder.path)
})

t.test('a GGUF file on the Hub is pulled alone and exported once; later starts need no Hub', async (t) => {
  const folder = t.testdir()
  await writeTinyGguf(join(folder, 'tiny.gguf'))
  const hub = await startFakeHub()
  hub.push(ID, { 'tiny.gguf': await readFile(join(folder, 'tiny.gguf')), 'other.gguf': 'x', 'README.md': '# x' })
  const env = { MODEL: `${ID}:tiny.gguf`, HF_ENDPOINT: hub.url, MODEL_CACHE: join(folder, 'cache'), DEVICE: 'cpu' }
  const first = await open(t, env)
  t.match(first.folder.manifest, { dtype: 'q4', blockSize: 32, source: [{ name: 'tiny.gguf' }] })
  await t.rejects(open(t, { ...env, MODEL: `${ID}:absent.gguf` }), {
    name: 'HubError',
    message: /has no absent.gguf in its top folder. It has tiny.gguf, other.gguf/,
  })
  await t.rejects(open(t, { ...env, MODEL: ID }), {
    message: /name a GGUF file of it behind a colon: tiny.gguf, other/,
  })
  await hub.close()
  const second = await open(t, env)
  t.equal(second.folder.path, first.folder.path)
  t.same(second.lines, [])
})

t.test('a MODEL that is another kind of file says so', async (t) => {
  const file = join(t.testdir({ 'model.bin': 'not a model' }), 'model.bin')
  await t.rejects(open(t, { MODEL: file, MODEL_CACHE: join(t.testdirName, 'cache'), DEVICE: 'cpu' }), {
    name: 'GgufError',
    message: /model.bin: magic is "not ", but a GGUF file begins with "GGUF"/,
  })
})

t.test('an export runs on the device that it was made for, and DEVICE may not say otherwise', async (t) => {
  const folder = t.testdir()
  const { exportModel } = await import('../model/export/export.js')
  const checkpoint = join(folder, 'checkpoint')
  await writeRandomCheckpoint(checkpoint)
  for (const [target, dtype] of [
    ['cpu', 'f32'],
    ['cuda', 'f16'],
  ] as const) {
    await exportModel({ checkpoint, out: join(folder, target), target, dtype, blockSize: 32 })
  }
  const cpu = await open(t, { MODEL: join(folder, 'cpu') })
  t.equal(cpu.runtime.device.kind, 'cpu')
  t.same(cpu.lines, [], 'no GPU was looked for')
  await t.rejects(open(t, { MODEL: join(folder, 'cpu'), DEVICE: 'cuda' }), {
    name: 'SettingsError',
    message: /exported for the CPU. Export its checkpoint with --target cuda, or set DEVICE=cpu/,
  })
  await t.rejects(open(t, { MODEL: join(folder, 'cuda'), DEVICE: 'cpu' }), { name: 'SettingsError', setting: 'DEVICE' })
})

t.test('a MODEL that is neither a folder nor an id says so', async (t) => {
  await t.rejects(open(t, { MODEL: './nowhere/at/all' }), {
    name: 'SettingsError',
    message: /neither a folder or file that exists nor a Hugging Face id/,
  })
})
