import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import fc from 'fast-check'
import t, { type Test } from 'tap'
import { Tokenizer } from '../../model/engine/tokenizer.js'
import { CheckpointError, GgufError } from '../../model/errors.js'
import { type ExportOptions, exportModel } from '../../model/export/export.js'
import { GgufSource } from '../../model/export/gguf-source.js'
import { dequantizeBlocks } from '../../model/export/quantize.js'
import { SafetensorsFile } from '../../model/export/safetensors.js'
import { planWeights, type WeightFormat } from '../../model/export/weights.js'
import { openModelFolder } from '../../model/folder.js'
import { packageRoot } from '../../model/package-root.js'
import { openRuntime } from '../../model/runtime/runtime.js'
import { TINY, tinyTokenizer, writeRandomCheckpoint } from '../export/random-checkpoint.js'
import { largestDifference, NaiveModel } from '../numerics/naive-model.js'
import { checkpointTensors, gemmaMetadata, randomTensors, type TokenizerJson, tokenTables } from './gemma-gguf.js'
import {
  f32,
  type GgufContent,
  type GgufTensor,
  type GgufValue,
  string,
  strings,
  u32,
  writeGguf,
} from './gguf-writer.js'

const FIXTURES = fileURLToPath(new URL('fixtures/', import.meta.url))
const TABLES = tokenTables(tinyTokenizer().tokenizer as TokenizerJson)
const METADATA = gemmaMetadata(TINY, TABLES)
/** A row of Q6_K has 256 weights at least. */
const WIDE = { ...TINY, hiddenSize: 256, intermediateSize: 256, headSize: 64 }

async function write(t: Test, content: Partial<GgufContent>): Promise<string> {
  const file = join(t.testdirName, 'model.gguf')
  const tensors = content.tensors ?? randomTensors(TINY, { type: 'Q4_0', deviation: 0.1 })
  await writeGguf(file, { metadata: METADATA, ...content, tensors })
  return file
}

async function exported(t: Test, file: string, more: Partial<ExportOptions> = {}, name = 'out') {
  const out = join(t.testdirName, name)
  const lines: string[] = []
  const manifest = await exportModel({ checkpoint: file, out, target: 'cpu', log: (line) => lines.push(line), ...more })
  return { out, manifest, lines, data: await readFile(join(out, 'model.onnx_data')) }
}

t.test("a file by llama.cpp's own writer says what transformers says with its dequantized weights", async (t) => {
  t.testdir()
  await using reference = await SafetensorsFile.open(join(FIXTURES, 'tiny.reference.safetensors'))
  const read = async (name: string) => {
    const entry = reference.tensors.get(name)!
    const bytes = new Uint8Array(entry.byteLength)
    await reference.read(entry, 0, bytes)
    return bytes.buffer
  }
  const prompt = [...new BigInt64Array(await read('prompt'))].map(Number)
  const logits = new Float32Array(await read('logits'))

  const { out, lines } = await exported(t, join(FIXTURES, 'tiny.gguf'), { dtype: 'f32' })
  t.match(lines, [/7 in Q4_0 to f32, 7 in Q8_0 to f32/])
  const runtime = await openRuntime({ device: 'cpu', threads: 1 })
  t.teardown(() => runtime[Symbol.asyncDispose]())
  await using model = await NaiveModel.open(runtime, await openModelFolder(out))
  const rows = await model.append(prompt)
  for (const [position, row] of rows.entries()) {
    const wanted = logits.subarray(position * row.length, (position + 1) * row.length)
    // The order of sums only, as in test/numerics/transformers.test.ts.
    t.ok(largestDifference(row, wanted) <= 1e-3, `position ${position}`)
  }
  const tokenizer = await Tokenizer.open(join(out, 'tokenizer.json'))
  t.same(
    (await tokenizer.tokenize(['the\u00e9'])).map((id) => tokenizer.piece(id)),
    ['the', '<0xC3>', '<0xA9>'],
  )
})

for (const type of ['F32', 'F16', 'BF16'] as const) {
  t.test(`a ${type} file exports to the bytes of the checkpoint that it was made of`, async (t) => {
    t.testdir()
    const checkpoint = join(t.testdirName, 'checkpoint')
    await writeRandomCheckpoint(checkpoint, { dtype: type })
    const file = await write(t, { tensors: await checkpointTensors(checkpoint, type) })
    for (const format of [
      { target: 'cpu', dtype: 'f32', blockSize: 32 },
      { target: 'cpu', dtype: 'q4', blockSize: 64 },
      { target: 'cuda', dtype: 'q8', blockSize: 32 },
      { target: 'cuda', dtype: 'bf16' },
    ] as const) {
      const name = `${format.target}-${format.dtype}`
      const mine = await exported(t, file, format, `gguf-${name}`)
      const theirs = await exported(t, checkpoint, format, `checkpoint-${name}`)
      t.same(mine.lines, [], 'nothing was quantized before')
      t.ok(mine.data.equals(theirs.data), `${name}: weights`)
      for (const graph of ['engine.onnx', 'model.onnx']) {
        t.ok(
          (await readFile(join(mine.out, graph))).equals(await readFile(join(theirs.out, graph))),
          `${name}: ${graph}`,
        )
      }
      t.same(mine.manifest.endTokenIds, theirs.manifest.endTokenIds)
      t.same((await openModelFolder(mine.out)).config, {
        ...(await openModelFolder(theirs.out)).config,
        torchDtype: 'float32',
      })
    }
  })
}

/** Every weight of an export in blocks, as its operators see it, beside the GGUF file's. */
async function compareBlocks(t: Test, file: string, data: Buffer, format: WeightFormat): Promise<void> {
  await using source = await GgufSource.open(file)
  for (const weight of planWeights(source.config, format).all) {
    if (weight.kind !== 'quantized') continue
    const region = ({ offset, byteLength }: { offset: number; byteLength: number }) =>
      new Uint8Array(data.subarray(offset, offset + byteLength))
    const isHalf = weight.scales.type === 'f16'
    const scaleBytes = region(weight.scales).buffer
    const scales = isHalf ? new Uint16Array(scaleBytes) : new Float32Array(scaleBytes)
    const found = dequantizeBlocks(region(weight.values), scales, {
      ...weight.blocks,
      scaleType: isHalf ? 'f16' : 'f32',
    })
    let from = 0
    for (const tensor of weight.sources) {
      const { rows, columns } = source.shape(tensor)
      const wanted = new Float32Array(rows * columns)
      await source.readRows(tensor, 0, rows, wanted, new Uint8Array(wanted.byteLength))
      t.ok(
        wanted.every((value, i) => value === found[from + i]),
        tensor,
      )
      from += wanted.length
    }
    t.equal(from, found.length)
  }
}

for (const [type, dtype, bits] of [
  ['Q4_0', 'q4', 4],
  ['Q8_0', 'q8', 8],
] as const) {
  for (const target of ['cpu', 'cuda'] as const) {
    t.test(`every number of a ${type} file is in its ${dtype} export for ${target}, unchanged`, async (t) => {
      t.testdir()
      const file = await write(t, { tensors: randomTensors(TINY, { type, deviation: 0.1 }) })
      const { manifest, data, lines } = await exported(t, file, { target })
      t.match(manifest, { dtype, blockSize: 32, embedding: undefined, source: [{ name: 'model.gguf' }] })
      t.match(lines, [new RegExp(`matrices taken over bit for bit: 15 in ${type}\\.$`)])
      const blocks = { matrices: { bits, blockSize: 32 }, embedding: { bits, blockSize: 32 } } as const
      await compareBlocks(t, file, data, { dtype, activationType: target === 'cpu' ? 'f32' : 'f16', blocks })
    })
  }
}

t.test("llama.cpp's usual Q4_0 file has its blocks taken over, and its Q6_K embedding kept at 8 bits", async (t) => {
  t.testdir()
  const tensors = randomTensors(WIDE, { type: 'Q4_0', embedding: 'Q6_K', deviation: 0.1 })
  const file = await write(t, { metadata: gemmaMetadata(WIDE, TABLES), tensors })
  const { manifest, lines, out } = await exported(t, file)
  t.match(manifest, { dtype: 'q4', blockSize: 32, embedding: { dtype: 'q8', blockSize: 128 } })
  t.match(lines, [/bit for bit: 14 in Q4_0; quantized anew.*: 1 in Q6_K to q8 in blocks of 128 \(the embedding\)\.$/])

  const exact = await exported(t, file, { dtype: 'f32' }, 'exact')
  const small = await exported(t, file, { embedding: 'q4' }, 'small')
  t.equal(small.manifest.embedding, undefined)
  const runtime = await openRuntime({ device: 'cpu', threads: 1 })
  t.teardown(() => runtime[Symbol.asyncDispose]())
  const logitsOf = async (folder: string) => {
    await using model = await NaiveModel.open(runtime, await openModelFolder(folder))
    return (await model.append([2, 300, 17, 99, 5, 301])).at(-1)!
  }
  const wanted = await logitsOf(exact.out)
  const size = Math.max(...wanted.map(Math.abs))
  const [eight, four] = [
    largestDifference(await logitsOf(out), wanted),
    largestDifference(await logitsOf(small.out), wanted),
  ]
  // The CPU's kernels round activations to 8 bits; what a 4-bit embedding adds is several times that.
  t.ok(eight < 0.05 * size, `8 bits: ${eight} of ${size}`)
  t.ok(four > 2 * eight, `4 bits: ${four}`)
})

t.test('what a file is exported to follows its types, and can be asked for otherwise', async (t) => {
  t.testdir()
  const metadata = gemmaMetadata(WIDE, TABLES)
  const file = await write(t, { metadata, tensors: randomTensors(WIDE, { type: 'Q6_K', deviation: 0.1 }) })
  const { manifest, lines } = await exported(t, file)
  t.match(manifest, { dtype: 'q8', blockSize: 128 })
  t.match(lines, [/quantized anew, which costs a little quality: .*14 in Q6_K to q8/])
  const asked = await exported(t, file, { dtype: 'q4', blockSize: 64, embedding: 'q8' }, 'asked')
  t.match(asked.manifest, { dtype: 'q4', blockSize: 64, embedding: { dtype: 'q8', blockSize: 64 } })
  await t.rejects(exported(t, file, { dtype: 'f32', embedding: 'q8' }, 'x'), {
    name: 'ExportError',
    message: /embedding q8/,
  })
})

t.test('the demo model is the same from a GGUF file as from its checkpoint', async (t) => {
  t.testdir()
  const checkpoint = join(packageRoot, 'model', 'demo', 'checkpoint')
  const json = JSON.parse(await readFile(join(checkpoint, 'tokenizer.json'), 'utf8')) as TokenizerJson
  const theirs = await exported(t, checkpoint, {}, 'checkpoint')
  const { config } = await openModelFolder(theirs.out)
  const file = await write(t, {
    metadata: gemmaMetadata(config, tokenTables(json)),
    tensors: await checkpointTensors(checkpoint, 'BF16'),
  })
  const mine = await exported(t, file)
  t.ok(mine.data.equals(theirs.data))
  t.same(mine.manifest.endTokenIds, theirs.manifest.endTokenIds)

  const { conversations, whole } = JSON.parse(
    await readFile(new URL('../demo/fixtures/held-out.json', import.meta.url), 'utf8'),
  ) as { conversations: { user: string }[][]; whole: string[] }
  const texts = [...conversations.flat().map(({ user }) => user), ...whole]
  t.ok(texts.length > 500)
  const ids = async (folder: string) => (await Tokenizer.open(join(folder, 'tokenizer.json'))).tokenize(texts)
  t.same(await ids(mine.out), await ids(theirs.out))
})

t.test('what Gemma 1 does not have is refused by key or tensor, and value:', async (t) => {
  t.testdir()
  const tensors = randomTensors(TINY, { type: 'Q4_0', deviation: 0.1 })
  const metadata = (key: string, value: GgufValue | undefined) => {
    const { [key]: _, ...others } = METADATA
    return { metadata: value === undefined ? others : { ...others, [key]: value }, tensors }
  }
  const tensor = (name: string, change: Partial<GgufTensor>) => ({
    tensors: tensors.map((one) => (one.name === name ? { ...one, ...change } : one)),
  })
  const zeros = (bytes: number) => () => [new Uint8Array(bytes)]
  const wrong: [about: string, content: Partial<GgufContent>, field: RegExp, value: RegExp][] = [
    ['another architecture', metadata('general.architecture', string('gemma3')), /architecture/, /^"gemma3"$/],
    ['no architecture', metadata('general.architecture', undefined), /architecture/, /^missing$/],
    ['an odd architecture', metadata('general.architecture', string('\u001b[2J')), /architecture/, /^"\\u001b\[2J"$/],
    ['a part of a file', metadata('split.count', { type: 'u16', value: 3 }), /split.count/, /^3$/],
    ['no layers', metadata('gemma.block_count', u32(0)), /block_count/, /^0$/],
    ['a billion layers', metadata('gemma.block_count', u32(1e9)), /block_count/, /^1000000000$/],
    ['a missing key', metadata('gemma.embedding_length', undefined), /embedding_length/, /^missing$/],
    ['a size that is a text', metadata('gemma.embedding_length', string('64')), /embedding_length/, /^"64"$/],
    ['a size that is a fraction', metadata('gemma.feed_forward_length', f32(1.5)), /feed_forward/, /^1.5$/],
    ['values of another size', metadata('gemma.attention.value_length', u32(16)), /value_length/, /^16$/],
    ['half-turned heads', metadata('gemma.rope.dimension_count', u32(16)), /dimension_count/, /^16$/],
    ['a scaled rope', metadata('gemma.rope.scaling.type', string('linear')), /scaling.type/, /^"linear"$/],
    ['an eps of nothing', metadata('gemma.attention.layer_norm_rms_epsilon', f32(0)), /rms_epsilon/, /^0$/],
    ['a theta that is no number', metadata('gemma.rope.freq_base', f32(Number.NaN)), /freq_base/, /^NaN$/],
    ['a template that is a list', metadata('tokenizer.chat_template', u32(1)), /chat_template/, /^1$/],
    [
      'a larger vocabulary',
      metadata('tokenizer.ggml.tokens', strings([...TABLES.tokens, '\u4e2d'])),
      /scores/,
      /512 numbers/,
    ],
    ['a missing tensor', { tensors: tensors.slice(0, -1) }, /tensor output_norm.weight/, /^missing$/],
    [
      'a tensor too many',
      { tensors: [...tensors, { ...tensors[1]!, name: 'output.weight' }] },
      /a tensor/,
      /"output.weight"/,
    ],
    ['a tensor turned round', tensor('blk.0.ffn_up.weight', { shape: [64, 128] }), /ffn_up/, /^\[64, 128\]$/],
    [
      'an unreadable type',
      {
        metadata: gemmaMetadata(WIDE, TABLES),
        tensors: randomTensors(WIDE, { type: 'Q4_0', deviation: 1 }).map((one) =>
          one.name === 'blk.1.attn_q.weight' ? { ...one, type: 'Q2_K', data: zeros(256 * 84) } : one,
        ),
      },
      /the type of tensor blk.1.attn_q.weight/,
      /^Q2_K$/,
    ],
  ]
  for (const [about, content, field, value] of wrong) {
    const file = await write(t, content)
    const error = await GgufSource.open(file).then(
      () => undefined,
      (reason: unknown) => reason,
    )
    t.type(error, GgufError, about)
    if (!(error instanceof GgufError)) continue
    t.match(error.field, field, about)
    t.match(error.value, value, about)
    t.equal(error.file, file)
  }
})

t.test('a file with some bytes changed is opened, or refused with a typed error', async (t) => {
  t.testdir()
  const whole = await readFile(join(FIXTURES, 'tiny.gguf'))
  const file = join(t.testdirName, 'changed.gguf')
  const change = fc.tuple(fc.nat(12_000), fc.oneof(fc.nat(255), fc.constantFrom(0, 127, 128, 255)))
  await fc.assert(
    fc.asyncProperty(fc.array(change, { minLength: 1, maxLength: 6 }), async (changes) => {
      const bytes = Buffer.from(whole)
      for (const [at, byte] of changes) bytes[at] = byte
      await writeFile(file, bytes)
      try {
        await using source = await GgufSource.open(file)
        for (const companion of source.companions) await companion.read()
        return true
      } catch (error) {
        return error instanceof CheckpointError
      }
    }),
    { numRuns: 500 },
  )
  t.pass()
})

t.test('what is possible in the format but not in the graph is refused, too', async (t) => {
  t.testdir()
  const odd = await write(t, { metadata: { ...METADATA, 'gemma.attention.head_count_kv': u32(3) } })
  await t.rejects(GgufSource.open(odd), { name: 'CheckpointError', message: /num_key_value_heads is 3/ })
})

t.test('a scale that is no number ends the export, by tensor and row', async (t) => {
  t.testdir()
  const bad = randomTensors(TINY, { type: 'Q4_0', deviation: 0.1 }).map((tensor) => {
    if (tensor.name !== 'blk.1.ffn_down.weight') return tensor
    const [bytes] = [...tensor.data()]
    // Row 3 of 128 weights, its second block: f16 infinity.
    bytes!.set([0x00, 0x7c], (3 * 4 + 1) * 18)
    return { ...tensor, data: () => [bytes!] }
  })
  const file = await write(t, { tensors: bad })
  const message = /model.layers.1.mlp.down_proj.weight holds, from row 3 on, a value that is not finite/
  await t.rejects(exported(t, file), { name: 'CheckpointError', message })
  await t.rejects(exported(t, file, { dtype: 'f32' }), { name: 'CheckpointError', message: /down_proj.weight/ })
})

t.test('a file that is cut while it is exported ends the export', async (t) => {
  t.testdir()
  const file = await write(t, {})
  await using source = await GgufSource.open(file)
  await writeFile(file, (await readFile(file)).subarray(0, 40_000))
  const into = new Float32Array(512 * 64)
  const reading = source.readRows('model.layers.1.mlp.up_proj.weight', 0, 128, into, new Uint8Array(into.byteLength))
  await t.rejects(reading, { name: 'CheckpointError', message: /ended at byte \d+ while \d+ were being read/ })
})
