import { spawnSync } from 'node:child_process'
import * as fs from 'node:fs/promises'
import { hostname } from 'node:os'
import path from 'node:path'
import t, { type Test } from 'tap'
import { DiskFullError, ExportError } from '../../model/errors.js'
import { type ExportOptions, exportModel } from '../../model/export/export.js'
import type { ExportDisk } from '../../model/export/export-folder.js'
import { defaultExport } from '../../model/export/format.js'
import { openModelFolder } from '../../model/folder.js'
import { ModelProto } from '../../model/onnx/proto.js'
import { type RandomCheckpointOptions, TINY, writeRandomCheckpoint } from './random-checkpoint.js'

const Q4 = { target: 'cpu', dtype: 'q4', blockSize: 32 } as const

async function scene(t: Test, options: RandomCheckpointOptions = {}) {
  const root = t.testdir()
  const checkpoint = path.join(root, 'checkpoint')
  const out = path.join(root, 'out')
  await writeRandomCheckpoint(checkpoint, options)
  const run = (more: Partial<ExportOptions> = {}) => exportModel({ checkpoint, out, ...Q4, ...more })
  return { root, checkpoint, out, run }
}

async function readGraph(file: string) {
  return ModelProto.toObject(ModelProto.decode(await fs.readFile(file)), { longs: Number }).graph
}

t.test('an export is a whole folder with a manifest of what it is and what it was made of', async (t) => {
  const { out, run } = await scene(t, { shardBytes: 200_000 })
  const manifest = await run()
  t.same(manifest, JSON.parse(await fs.readFile(path.join(out, 'manifest.json'), 'utf8')))
  t.match(manifest, {
    format: 1,
    target: 'cpu',
    dtype: 'q4',
    blockSize: 32,
    activationType: 'f32',
    endTokenIds: [1, 5],
  })
  const names = [
    'config.json',
    'engine.onnx',
    'genai_config.json',
    'generation_config.json',
    'manifest.json',
    'model.onnx',
    'model.onnx_data',
    'tokenizer.json',
    'tokenizer_config.json',
  ]
  t.same((await fs.readdir(out)).sort(), names)
  t.same(
    manifest.files.map(({ name }) => name).sort(),
    names.filter((name) => name !== 'manifest.json'),
  )
  const folder = await openModelFolder(out)
  t.equal(folder.weightBytes, (await fs.stat(path.join(out, 'model.onnx_data'))).size)
})

t.test('the manifest holds the SHA-256 of every source file', async (t) => {
  const { checkpoint, run } = await scene(t, { shardBytes: 200_000 })
  const { source } = await run()
  t.same(source.map(({ name }) => name).sort(), (await fs.readdir(checkpoint)).sort())
  for (const { name, bytes, sha256 } of source) {
    const content = await fs.readFile(path.join(checkpoint, name))
    t.equal(bytes, content.length)
    const digest = await crypto.subtle.digest('SHA-256', content)
    t.equal(sha256, Buffer.from(digest).toString('hex'), name)
  }
})

t.test('shards make no difference to the export', async (t) => {
  const single = await scene(t)
  await single.run()
  const root = path.join(single.root, 'sharded')
  await writeRandomCheckpoint(root, { shardBytes: 100_000 })
  const out = path.join(single.root, 'out-sharded')
  const { source } = await exportModel({ checkpoint: root, out, ...Q4 })
  t.ok(source.filter(({ name }) => name.endsWith('.safetensors')).length > 3)
  for (const name of ['model.onnx_data', 'engine.onnx', 'model.onnx']) {
    t.ok((await fs.readFile(path.join(out, name))).equals(await fs.readFile(path.join(single.out, name))), name)
  }
})

t.test('both graphs read one data file, and the embedding lies in it once', async (t) => {
  for (const format of [Q4, { ...Q4, dtype: 'f32' } as const]) {
    const { out, run } = await scene(t)
    await fs.rm(out, { recursive: true, force: true })
    await run(format)
    const size = (await fs.stat(path.join(out, 'model.onnx_data'))).size
    const places = new Map<string, number[]>()
    for (const file of ['engine.onnx', 'model.onnx']) {
      for (const { name, external_data } of (await readGraph(path.join(out, file))).initializer) {
        if (!external_data) continue
        const entries = new Map<string, string>(
          external_data.map((e: { key: string; value: string }) => [e.key, e.value]),
        )
        t.equal(entries.get('location'), 'model.onnx_data')
        const place = [Number(entries.get('offset')), Number(entries.get('length'))]
        t.equal(place[0]! % 4096, 0, `${name} can be mapped`)
        t.ok(place[0]! + place[1]! <= size)
        t.same(places.get(name) ?? place, place, `${name} lies in the same place in both`)
        places.set(name, place)
      }
    }
    if (format.dtype === 'q4') {
      t.same(places.get('embedding.by_row'), places.get('output_matrix.weight'))
      t.same(places.get('embedding.by_row.scales'), places.get('output_matrix.scales'))
    }
    const ranges = [...new Set([...places.values()].map((place) => place.join()))].map((place) =>
      place.split(',').map(Number),
    )
    ranges.sort((a, b) => a[0]! - b[0]!)
    t.ok(ranges.every(([start], i) => i === 0 || ranges[i - 1]![0]! + ranges[i - 1]![1]! <= start!))
    const stored = ranges.reduce((sum, [, length]) => sum + length!, 0)
    t.ok(size - stored < ranges.length * 4096, 'and besides what the graphs read there is nothing but padding')
  }
})

t.test('the portable graph has the signature of onnxruntime-genai and transformers.js', async (t) => {
  const { out, run } = await scene(t)
  await run()
  const graph = await readGraph(path.join(out, 'model.onnx'))
  const signature = (values: { name: string; type: { tensor_type: { elem_type: number; shape: object } } }[]) =>
    values.map(({ name, type }) => {
      const { elem_type, shape } = type.tensor_type as { elem_type: number; shape: { dim: Record<string, unknown>[] } }
      return `${name} ${elem_type} [${shape.dim.map((d) => d.dim_value ?? d.dim_param).join(', ')}]`
    })
  t.same(signature(graph.input), [
    'input_ids 7 [batch_size, sequence_length]',
    'attention_mask 7 [batch_size, total_sequence_length]',
    'past_key_values.0.key 1 [batch_size, 1, past_sequence_length, 32]',
    'past_key_values.0.value 1 [batch_size, 1, past_sequence_length, 32]',
    'past_key_values.1.key 1 [batch_size, 1, past_sequence_length, 32]',
    'past_key_values.1.value 1 [batch_size, 1, past_sequence_length, 32]',
  ])
  t.same(signature(graph.output), [
    'logits 1 [batch_size, 1, 512]',
    'present.0.key 1 [batch_size, 1, total_sequence_length, 32]',
    'present.0.value 1 [batch_size, 1, total_sequence_length, 32]',
    'present.1.key 1 [batch_size, 1, total_sequence_length, 32]',
    'present.1.value 1 [batch_size, 1, total_sequence_length, 32]',
  ])
  const config = JSON.parse(await fs.readFile(path.join(out, 'config.json'), 'utf8'))
  t.same(config['transformers.js_config'], { dtype: 'fp32', use_external_data_format: 1 })
  const genai = JSON.parse(await fs.readFile(path.join(out, 'genai_config.json'), 'utf8'))
  t.match(genai.model, { type: 'gemma', eos_token_id: [1, 5], decoder: { filename: 'model.onnx', head_size: 32 } })
})

t.test('on CUDA, activations and scales have 16 bits and no operator is asked for int8', async (t) => {
  for (const [dtype, activationType, elementType] of [
    ['q4', 'f16', 10],
    ['q8', 'f16', 10],
    ['f16', 'f16', 10],
    ['bf16', 'bf16', 16],
  ] as const) {
    const { out, run } = await scene(t)
    await fs.rm(out, { recursive: true, force: true })
    const manifest = await run({ target: 'cuda', dtype })
    t.equal(manifest.activationType, activationType)
    const graph = await readGraph(path.join(out, 'engine.onnx'))
    const types = new Set(graph.initializer.map((tensor: { data_type: number }) => tensor.data_type))
    t.same(
      [...types].sort(),
      dtype.startsWith('q') ? [10, 2, 7] : [elementType, 7].sort(),
      'weights, scales and tables, beside packed bytes and shapes',
    )
    const cache = graph.input.find(({ name }: { name: string }) => name === 'past_key_values.0.key')
    t.equal(cache.type.tensor_type.elem_type, elementType)
    const levels = graph.node.flatMap((node: { attribute?: { name: string; i?: number }[] }) =>
      (node.attribute ?? []).filter(({ name }) => name === 'accuracy_level').map(({ i }) => i ?? 0),
    )
    t.ok(levels.every((level: number) => level === 0))
  }
})

t.test('the defaults are those that run best on each target', async (t) => {
  t.same(defaultExport('cpu'), { target: 'cpu', dtype: 'q4', blockSize: 128 })
  t.same(defaultExport('cuda'), { target: 'cuda', dtype: 'q4', blockSize: 32 })
})

t.test('what a target cannot run is refused with what to ask for instead', async (t) => {
  const { root, run } = await scene(t)
  const before = await fs.readdir(root)
  await t.rejects(run({ dtype: 'bf16' }), { message: /bf16 is not for target cpu: .* Ask for f32 \(exact\), q8 or q4/ })
  await t.rejects(run({ dtype: 'f16' }), { message: /f16 is not for target cpu: .* Ask for f32 \(exact\), q8 or q4/ })
  await t.rejects(run({ dtype: 'f32', target: 'cuda' }), { message: /f32 is not for target cuda: .* Ask for bf16/ })
  await t.rejects(run({ blockSize: 128 }), {
    message: 'hidden_size is 64, no multiple of block size 128. Ask for block size 32 or 64.',
  })
  t.same(await fs.readdir(root), before)
})

t.test('a width that no block fits is sent to f32', async (t) => {
  const { run } = await scene(t, { shape: { ...TINY, intermediateSize: 80 } })
  await t.rejects(run(), { message: 'intermediate_size is 80, no multiple of block size 32. Ask for dtype f32.' })
  t.equal((await run({ dtype: 'f32' })).blockSize, null)
})

t.test('a weight that is not finite, or too large for its type, is named', async (t) => {
  const { checkpoint, root, out, run } = await scene(t)
  const file = path.join(checkpoint, 'model.safetensors')
  const bytes = await fs.readFile(file)
  const write = async (value: number) => {
    bytes.writeFloatLE(value, bytes.length - 4 * 64)
    await fs.writeFile(file, bytes)
  }
  const tensor = 'model.norm.weight'
  for (const [value, format] of [
    [Number.NaN, Q4],
    [Number.POSITIVE_INFINITY, { target: 'cpu', dtype: 'f32' }],
    [1e5, { target: 'cuda', dtype: 'q4' }],
    [3.4e38, { target: 'cuda', dtype: 'bf16' }],
  ] as const) {
    await write(value)
    await t.rejects(run(format), { code: 'BAD_CHECKPOINT', tensor, message: /not finite or too large/ })
    t.same(await fs.readdir(root), ['checkpoint'])
  }
  await write(1e5)
  await run({ target: 'cuda', dtype: 'bf16' })
  t.ok((await fs.readdir(out)).includes('manifest.json'), 'what fits is exported')
})

t.test('an interrupted export leaves nothing behind, whenever the signal comes', async (t) => {
  const { root, run } = await scene(t)
  let reports = 0
  await run({ report: () => reports++ })
  await fs.rm(path.join(root, 'out'), { recursive: true })
  for (let at = 1; at <= reports; at += Math.ceil(reports / 12)) {
    const controller = new AbortController()
    const reason = new Error('enough')
    let seen = 0
    const report = () => {
      if (++seen === at) controller.abort(reason)
    }
    await t.rejects(run({ report, signal: controller.signal }), reason, `after report ${at} of ${reports}`)
    t.same(await fs.readdir(root), ['checkpoint'])
  }
})

t.test('while it runs, nothing looks whole; progress goes from nothing to all', async (t) => {
  const { root, out, run } = await scene(t)
  const seen: { phase: string; done: number; total: number }[] = []
  await run({ report: ({ phase, done, total }) => seen.push({ phase, done, total }) })
  for (const phase of ['Hashing the checkpoint', 'Converting the weights']) {
    const of = seen.filter((progress) => progress.phase === phase)
    t.ok(of.length > 0)
    t.ok(of.every(({ done }, i) => i === 0 || of[i - 1]!.done < done))
    t.ok(of.at(-1)!.total - of.at(-1)!.done < 4096 * 100, 'all but the padding')
  }
  t.same((await fs.readdir(root)).sort(), ['checkpoint', path.basename(out)])
})

t.test('a folder that is taken is left alone; an empty one is filled', async (t) => {
  const { root, out, run } = await scene(t)
  await fs.mkdir(out)
  await run()
  const before = await fs.readFile(path.join(out, 'manifest.json'))
  await t.rejects(run(), {
    message: `${out} exists and is not empty. Remove it, or choose another folder for the export.`,
  })
  t.ok((await fs.readFile(path.join(out, 'manifest.json'))).equals(before))
  const file = path.join(root, 'file')
  await fs.writeFile(file, '')
  await t.rejects(run({ out: file }), ExportError)
})

t.test('of two exports to one folder one wins, and the other says so', async (t) => {
  const { root, out, run } = await scene(t)
  const results = await Promise.allSettled([run(), run()])
  t.same(results.map(({ status }) => status).sort(), ['fulfilled', 'rejected'])
  const rejected = results.find((result) => result.status === 'rejected')
  t.match(rejected?.reason, { code: 'EXPORT_FAILED', message: /came into being while the export ran/ })
  t.same((await fs.readdir(root)).sort(), ['checkpoint', 'out'])
  await openModelFolder(out)
})

t.test('a disk that has too little space is refused before anything is written', async (t) => {
  const { root, run } = await scene(t)
  const statfs: ExportDisk['statfs'] = async (folder) =>
    ({ ...(await fs.statfs(folder)), bavail: 100, bsize: 4096 }) as never
  await t.rejects(run({ disk: { open: fs.open, statfs } }), DiskFullError)
  await t.rejects(run({ disk: { open: fs.open, statfs } }), { message: /\d+ MB are needed, 1 MB are free/ })
  t.same(await fs.readdir(root), ['checkpoint'])
})

t.test('a disk that fills up while it is written to is a DiskFullError, and what was written goes', async (t) => {
  for (const code of ['ENOSPC', 'EDQUOT']) {
    const { root, run } = await scene(t)
    let written = 0
    const open: ExportDisk['open'] = async (...options) => {
      const handle = await fs.open(...options)
      const write = handle.write.bind(handle)
      handle.write = (async (buffer: Uint8Array, ...rest: number[]) => {
        written += buffer.byteLength
        if (written > 60_000) throw Object.assign(new Error(`${code}: full, write`), { code, syscall: 'write' })
        return write(buffer, ...rest)
      }) as typeof handle.write
      return handle
    }
    const error = await run({ disk: { open, statfs: fs.statfs } }).catch((error) => error)
    t.type(error, DiskFullError)
    t.match(error.path, /out\.partial-.*model\.onnx_data$/)
    t.same(await fs.readdir(root), ['checkpoint'])
  }
})

t.test('a folder that cannot be written is an ExportError that names the file and the reason', async (t) => {
  const { root, run } = await scene(t)
  const open: ExportDisk['open'] = async () => {
    throw Object.assign(new Error('EROFS: read-only file system, open'), { code: 'EROFS', syscall: 'open' })
  }
  await t.rejects(run({ disk: { open, statfs: fs.statfs } }), {
    code: 'EXPORT_FAILED',
    message: /model\.onnx_data: cannot be written \(EROFS\)\. Choose another folder/,
  })
  t.same(await fs.readdir(root), ['checkpoint'])
})

t.test('what a killed export left behind goes with the next one; that of a live one stays', async (t) => {
  const { root, run } = await scene(t)
  const { pid: dead } = spawnSync(process.execPath, ['--version'])
  const host = hostname().replace(/[^A-Za-z0-9]/g, '_')
  const folders = {
    [`out.partial-${host}-${dead}-aa`]: 'of a process that is no more',
    [`out.partial-${host}-${process.pid}-bb`]: 'of a process that had our id before us',
    [`out.partial-${host}-${process.ppid}-cc`]: 'of a live process',
    [`out.partial-elsewhere-${dead}-dd`]: 'of another machine',
    [`other.partial-${host}-${dead}-ee`]: 'of an export to another folder',
    'out.partial-mine': 'of somebody else',
  }
  for (const name of Object.keys(folders)) await fs.mkdir(path.join(root, name))
  await run()
  const left = (await fs.readdir(root)).filter((name) => name in folders)
  t.same(left.map((name) => folders[name]).sort(), [
    'of a live process',
    'of an export to another folder',
    'of another machine',
    'of somebody else',
  ])
})
