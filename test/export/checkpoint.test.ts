import { mkdir, readdir, readFile, rm, symlink, truncate, writeFile } from 'node:fs/promises'
import path from 'node:path'
import t, { type Test } from 'tap'
import { CheckpointError } from '../../model/errors.js'
import { Checkpoint } from '../../model/export/checkpoint.js'
import { exportModel } from '../../model/export/export.js'
import { gemmaTensors, safetensorsHeader, TINY, writeRandomCheckpoint } from './random-checkpoint.js'

const INDEX = 'model.safetensors.index.json'

async function editJson(file: string, edit: (json: Record<string, unknown>) => void): Promise<void> {
  const json = JSON.parse(await readFile(file, 'utf8'))
  edit(json)
  await writeFile(file, JSON.stringify(json))
}

/** Writes model.safetensors anew, with zeros, after a change to the list of its tensors. */
async function rewriteTensors(folder: string, edit: (tensors: { name: string; shape: readonly number[] }[]) => void) {
  const tensors = gemmaTensors(TINY)
  edit(tensors)
  const elements = tensors.reduce((sum, { shape }) => sum + shape.reduce((n, d) => n * d, 1), 0)
  const bytes = Buffer.concat([safetensorsHeader(tensors, 'F32'), Buffer.alloc(elements * 4)])
  await writeFile(path.join(folder, 'model.safetensors'), bytes)
}

/** Every one of these is found before the export writes anything. */
const FAULTS: {
  name: string
  sharded?: boolean
  spoil: (folder: string) => Promise<unknown>
  file: string
  tensor?: string
  message: RegExp
}[] = [
  {
    name: 'a missing tensor',
    spoil: (folder) => rewriteTensors(folder, (list) => list.splice(3, 1)),
    file: 'model.safetensors',
    tensor: 'model.layers.0.mlp.gate_proj.weight',
    message: /tensor model\.layers\.0\.mlp\.gate_proj\.weight \[128, 64\] is missing/,
  },
  {
    name: 'a tensor of another shape',
    spoil: (folder) => rewriteTensors(folder, (list) => list.splice(-1, 1, { name: 'model.norm.weight', shape: [65] })),
    file: 'model.safetensors',
    tensor: 'model.norm.weight',
    message: /tensor model\.norm\.weight has shape \[65\], but config\.json makes it \[64\]/,
  },
  {
    name: 'a tensor that Gemma does not have',
    spoil: (folder) => rewriteTensors(folder, (list) => list.push({ name: 'model.layers.0.mlp.bias', shape: [64] })),
    file: 'model.safetensors',
    tensor: 'model.layers.0.mlp.bias',
    message: /tensor model\.layers\.0\.mlp\.bias is unknown/,
  },
  {
    name: 'an output matrix that is not the embedding',
    spoil: async (folder) => {
      await rewriteTensors(folder, (list) => list.push({ name: 'lm_head.weight', shape: [512, 64] }))
      const file = path.join(folder, 'model.safetensors')
      const bytes = await readFile(file)
      bytes[bytes.length - 1] = 1
      await writeFile(file, bytes)
    },
    file: 'model.safetensors',
    tensor: 'lm_head.weight',
    message: /tensor lm_head\.weight differs from model\.embed_tokens\.weight/,
  },
  {
    name: 'a tensor of a type that cannot be read',
    spoil: async (folder) => {
      const file = path.join(folder, 'model.safetensors')
      const bytes = await readFile(file)
      // The same length, so that nothing else is wrong.
      bytes.write(bytes.toString('latin1', 0, 4000).replace('"F32"', '"I32"'), 0, 'latin1')
      await writeFile(file, bytes)
    },
    file: 'model.safetensors',
    tensor: 'model.embed_tokens.weight',
    message: /tensor model\.embed_tokens\.weight has type I32, but F32, F16, BF16 can be read/,
  },
  {
    name: 'a truncated file',
    spoil: (folder) => truncate(path.join(folder, 'model.safetensors'), 100_000),
    file: 'model.safetensors',
    tensor: 'model.embed_tokens.weight',
    message: /is cut: \d+ bytes of model\.embed_tokens\.weight are missing/,
  },
  {
    name: 'no weights',
    spoil: (folder) => rm(path.join(folder, 'model.safetensors')),
    file: 'model.safetensors',
    message: /cannot be opened\. Is the checkpoint complete/,
  },
  {
    name: 'an absent shard',
    sharded: true,
    spoil: (folder) => rm(path.join(folder, 'model-00002-of-00003.safetensors')),
    file: 'model-00002-of-00003.safetensors',
    message: /cannot be opened/,
  },
  {
    name: 'a truncated shard',
    sharded: true,
    spoil: (folder) => truncate(path.join(folder, 'model-00003-of-00003.safetensors'), 1000),
    file: 'model-00003-of-00003.safetensors',
    tensor: 'model.layers.1.mlp.up_proj.weight',
    message: /is cut: \d+ bytes of model\.layers\.1\.mlp\.up_proj\.weight are missing/,
  },
  {
    name: 'an index that puts a tensor into a shard without it',
    sharded: true,
    spoil: (folder) =>
      editJson(path.join(folder, INDEX), (json) => {
        ;(json.weight_map as Record<string, string>)['model.norm.weight'] = 'model-00001-of-00003.safetensors'
      }),
    file: INDEX,
    tensor: 'model.norm.weight',
    message: /puts model\.norm\.weight into model-00001-of-00003\.safetensors, which does not hold it/,
  },
  ...['../outside.safetensors', '/etc/model.safetensors', 'sub/model.safetensors', '..', 'a\\b.safetensors'].map(
    (shard) => ({
      name: `an index that leads to ${shard}`,
      sharded: true,
      spoil: (folder: string) =>
        editJson(path.join(folder, INDEX), (json) => {
          ;(json.weight_map as Record<string, string>)['model.norm.weight'] = shard
        }),
      file: INDEX,
      tensor: 'model.norm.weight',
      message: /but a \.safetensors file of this folder is wanted/,
    }),
  ),
  {
    name: 'an index without a map',
    sharded: true,
    spoil: (folder) => writeFile(path.join(folder, INDEX), '{"metadata":{}}'),
    file: INDEX,
    message: /has no weight_map/,
  },
  {
    name: 'the same tensor in two shards',
    sharded: true,
    spoil: async (folder) => {
      const tensors = [{ name: 'model.norm.weight', shape: [64] }]
      const extra = Buffer.concat([safetensorsHeader(tensors, 'F32'), Buffer.alloc(256)])
      await writeFile(path.join(folder, 'extra.safetensors'), extra)
      await editJson(path.join(folder, INDEX), (json) => {
        // An index names a tensor once, but a shard may hold more than the index says.
        ;(json.weight_map as Record<string, string>)['model.norm.weight'] = 'extra.safetensors'
      })
    },
    file: 'model-00003-of-00003.safetensors',
    tensor: 'model.norm.weight',
    message: /is also in .*extra\.safetensors/,
  },
  {
    name: 'another architecture',
    spoil: (folder) =>
      editJson(path.join(folder, 'config.json'), (json) => {
        json.architectures = ['LlamaForCausalLM']
      }),
    file: 'config.json',
    message: /architectures is \["LlamaForCausalLM"\]/,
  },
  {
    name: 'another activation',
    spoil: (folder) =>
      editJson(path.join(folder, 'config.json'), (json) => {
        json.hidden_act = 'silu'
      }),
    file: 'config.json',
    message: /hidden_act is "silu"/,
  },
  {
    name: 'a config that is no JSON',
    spoil: (folder) => writeFile(path.join(folder, 'config.json'), '{'),
    file: 'config.json',
    message: /is not a JSON object/,
  },
  {
    name: 'no tokenizer',
    spoil: (folder) => rm(path.join(folder, 'tokenizer.json')),
    file: 'tokenizer.json',
    message: /is missing or cannot be read/,
  },
  {
    name: 'no tokenizer config',
    spoil: (folder) => rm(path.join(folder, 'tokenizer_config.json')),
    file: 'tokenizer_config.json',
    message: /is missing or cannot be read/,
  },
  {
    name: 'an end token outside the vocabulary',
    spoil: (folder) => writeFile(path.join(folder, 'generation_config.json'), '{"eos_token_id":[1,512]}'),
    file: 'tokenizer.json',
    message: /end token 512 lies outside the vocabulary of 512/,
  },
]

for (const { name, sharded, spoil, file, tensor, message } of FAULTS) {
  t.test(`${name}: the error names file, tensor, wanted and found, and nothing is written`, async (t) => {
    const { checkpoint, root } = await makeCheckpoint(t, sharded ? { shardBytes: 200_000 } : {})
    await spoil(checkpoint)
    const before = await listing(root)
    const format = { target: 'cpu', dtype: 'q4', blockSize: 32 } as const
    const error = await exportModel({ checkpoint, out: path.join(root, 'out'), ...format }).catch((error) => error)
    t.type(error, CheckpointError)
    t.match(error.message, message)
    t.equal(path.relative(checkpoint, error.file), file)
    t.equal(error.tensor, tensor)
    t.same(await listing(root), before)
  })
}

t.test('a folder that is not there is named', async (t) => {
  const folder = path.join(t.testdir(), 'none')
  await t.rejects(Checkpoint.open(folder), { code: 'BAD_CHECKPOINT', file: path.join(folder, 'config.json') })
})

t.test('tables of rotary frequencies and a second copy of the embedding are no fault', async (t) => {
  const { checkpoint } = await makeCheckpoint(t, {})
  await rewriteTensors(checkpoint, (list) =>
    list.push(
      { name: 'model.layers.0.self_attn.rotary_emb.inv_freq', shape: [16] },
      { name: 'lm_head.weight', shape: [512, 64] },
    ),
  )
  await using opened = await Checkpoint.open(checkpoint)
  t.equal(opened.config.vocabSize, 512)
})

t.test('files may be links to elsewhere, as in the cache of the Hub', async (t) => {
  const { checkpoint, root } = await makeCheckpoint(t, {})
  const snapshot = path.join(root, 'snapshot')
  await mkdir(snapshot)
  for (const name of await readdir(checkpoint)) await symlink(path.join(checkpoint, name), path.join(snapshot, name))
  await using opened = await Checkpoint.open(snapshot)
  t.equal(opened.config.layers, 2)
})

t.test('end tokens come from both configs and from the tokenizer', async (t) => {
  const { checkpoint } = await makeCheckpoint(t, {})
  await writeFile(path.join(checkpoint, 'generation_config.json'), '{"eos_token_id":[1,7]}')
  await using opened = await Checkpoint.open(checkpoint)
  t.same(opened.endTokenIds, [1, 5, 7])
})

t.test('rows are read as f32 from every type that a checkpoint may have', async (t) => {
  for (const [dtype, digits] of [
    ['F32', 24],
    ['F16', 11],
    ['BF16', 8],
  ] as const) {
    const { checkpoint } = await makeCheckpoint(t, { dtype, seed: 5 })
    await using opened = await Checkpoint.open(checkpoint)
    const name = 'model.layers.1.self_attn.k_proj.weight'
    t.same(opened.shape(name), { rows: 32, columns: 64 })
    const rows = new Float32Array(3 * 64)
    await opened.readRows(name, 10, 3, rows, new Uint8Array(rows.byteLength))
    const spread = Math.sqrt(rows.reduce((sum, value) => sum + value * value, 0) / rows.length)
    t.ok(spread > 0.2 && spread < 0.4, `the deviation is ${spread}`)
    const fits = (value: number) => {
      const step = 2 ** (Math.floor(Math.log2(Math.abs(value))) - digits + 1)
      return value === 0 || Number.isInteger(value / step)
    }
    t.ok(rows.every(fits), `no value has more than ${digits} binary digits`)
  }
})

async function makeCheckpoint(t: Test, options: Parameters<typeof writeRandomCheckpoint>[1]) {
  const root = t.testdir()
  const checkpoint = path.join(root, 'checkpoint')
  await writeRandomCheckpoint(checkpoint, options)
  return { root, checkpoint }
}

async function listing(root: string): Promise<string[]> {
  return (await readdir(root, { recursive: true })).sort()
}
