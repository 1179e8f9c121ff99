import t from 'tap'
import { Sampler, type SamplingRow } from '../../model/engine/sampler.js'
import { buildSamplingGraph } from '../../model/engine/sampling-graph.js'
import { openRuntime } from '../../model/runtime/runtime.js'
import type { TensorType } from '../../model/runtime/types.js'
import { candidatesOf, logitsOf, samplingFixture } from './rows.js'

const { vocabSize: V, endTokenIds, cases } = samplingFixture
const runtime = await openRuntime({ device: 'cpu', threads: 2 })
t.teardown(() => runtime[Symbol.asyncDispose]())
const session = await runtime.openSession({ model: buildSamplingGraph('f32') })
const masked = await runtime.openSession({ model: buildSamplingGraph('f32', { masked: true }) })

type Data = Float32Array | Int32Array | BigInt64Array | Uint8Array

/** Runs the graph on rows of one vocabulary size. */
async function run(rows: readonly { logits: Float32Array; row: SamplingRow }[], K: number) {
  const isMasked = rows.some(({ row }) => row.allowed !== undefined)
  const [R, vocabSize] = [rows.length, rows[0]!.logits.length]
  const P = Math.max(1, ...rows.map(({ row }) => row.edits.size))
  const padded = rows.map(({ row }) => [...row.edits, ...new Array(P).fill([...row.edits][0] ?? [0, 0])].slice(0, P))
  const binding = await runtime.createBinding(isMasked ? masked : session)
  const tensor = async (type: TensorType, shape: number[], data?: Data) => {
    const tensor = await runtime.createTensor({ type, shape, place: 'host' })
    if (data) tensor.bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength))
    return tensor
  }
  const flat = (values: readonly (readonly number[])[]) => values.flat()
  const inputs = {
    logits: await tensor('f32', [R, vocabSize], Float32Array.from(rows.flatMap(({ logits }) => [...logits]))),
    edit_ids: await tensor('i32', [R, P], Int32Array.from(flat(padded.map((edits) => edits.map(([id]) => id))))),
    edit_add: await tensor('f32', [R, P], Float32Array.from(flat(padded.map((edits) => edits.map(([, add]) => add))))),
    penalty: await tensor(
      'f32',
      [R, 1],
      Float32Array.from(rows, ({ row }) => row.penalty),
    ),
    temperature: await tensor(
      'f32',
      [R, 1],
      Float32Array.from(rows, ({ row }) => row.temperature),
    ),
    k: await tensor('i64', [1], BigInt64Array.of(BigInt(K))),
    ...(isMasked && {
      allowed: await tensor(
        'bool',
        [R, vocabSize],
        Uint8Array.from(rows.flatMap(({ row }) => [...(row.allowed ?? new Uint8Array(vocabSize).fill(1))])),
      ),
    }),
  }
  const outputs = {
    values: await tensor('f32', [R, K]),
    ids: await tensor('i64', [R, K]),
    mass: await tensor('f32', [R, 1]),
  }
  for (const [name, tensor] of Object.entries(inputs)) binding.bindInput(name, tensor)
  for (const [name, tensor] of Object.entries(outputs)) binding.bindOutput(name, tensor)
  await runtime.run([binding])
  const bytes = (tensor: { bytes: Uint8Array }) => tensor.bytes.slice().buffer
  const values = new Float32Array(bytes(outputs.values))
  const ids = new BigInt64Array(bytes(outputs.ids))
  const mass = new Float32Array(bytes(outputs.mass))
  await binding[Symbol.asyncDispose]()
  for (const tensor of Object.values({ ...inputs, ...outputs })) await tensor[Symbol.asyncDispose]()
  return rows.map((_, r) => ({
    values: values.slice(r * K, (r + 1) * K),
    ids: ids.slice(r * K, (r + 1) * K),
    mass: mass[r]!,
    vocabSize,
  }))
}

const rows = cases.map(({ prompt, generated, parameters, logits }) => {
  const sampler = new Sampler({ ...parameters, seed: 1 }, { endTokenIds, vocabSize: V }, prompt)
  for (const id of generated) sampler.accept(id)
  return { logits: logitsOf(logits), row: sampler.row() }
})

t.test(
  'all rows of a step in one run, each with its own parameters, give the candidates of plain arithmetic',
  async (t) => {
    for (const K of [1, 40, V]) {
      for (const [index, found] of (await run(rows, K)).entries()) {
        const { logits, row } = rows[index]!
        const wanted = candidatesOf(logits, row, K)
        t.same(found.values, wanted.values, `values of case ${index}, K ${K}`)
        t.same(found.ids, wanted.ids, `ids of case ${index}, K ${K}: ties by id`)
        t.ok(Math.abs(found.mass / wanted.mass - 1) < 1e-5, `mass of case ${index}: ${found.mass}, ${wanted.mass}`)
      }
    }
  },
)

t.test('a row is the same to the last bit whatever other rows are run with it', async (t) => {
  const large = [3, 4, 5, 6, 7].map((seed) => ({
    logits: logitsOf({ seed, levels: 2 ** 20 }, 50_000),
    row: { temperature: 0.7, penalty: 1.2, edits: new Map([[seed, 0]]), candidates: 64 },
  }))
  const together = await run(large, 64)
  for (const [index, row] of large.entries()) t.same((await run([row], 64))[0], together[index], `row ${index}`)
})

t.test('what is not allowed scores nothing, wherever it ranks, and changes no row beside it', async (t) => {
  const allowed = Uint8Array.from({ length: V }, (_, id) => (id % 7 === 3 ? 1 : 0))
  const mixed = rows.map(({ logits, row }, index) => ({ logits, row: index % 2 === 0 ? row : { ...row, allowed } }))
  const plain = await run(rows, V)
  for (const [index, found] of (await run(mixed, V)).entries()) {
    const { logits, row } = rows[index]!
    if (index % 2 === 0) t.same(found, plain[index], `row ${index} is as without masks beside it`)
    else {
      const score = (id: number) => plain[index]!.values[plain[index]!.ids.indexOf(BigInt(id))]!
      const left = [...logits.keys()]
        .filter((id) => allowed[id] === 1)
        .map((id) => ({ id, score: score(id) }))
        .filter(({ score }) => score > Number.NEGATIVE_INFINITY)
        .sort((a, b) => b.score - a.score || a.id - b.id)
      t.same(
        [...found.ids].slice(0, left.length).map(Number),
        left.map(({ id }) => id),
      )
      t.same(
        [...found.values].slice(0, left.length),
        left.map(({ score }) => score),
      )
      t.same(new Set(found.values.slice(left.length)), new Set([Number.NEGATIVE_INFINITY]))
      const mass = left.reduce((sum, { score }) => sum + Math.exp(score - left[0]!.score), 0)
      t.ok(Math.abs(found.mass / mass - 1) < 1e-5, `mass of row ${index}; edits ${row.edits.size}`)
    }
  }
})

t.test('the graph takes the logits of both devices', async (t) => {
  for (const type of ['f16', 'bf16'] as const) {
    const session = await runtime.openSession({ model: buildSamplingGraph(type) })
    t.equal(session.inputs[0]?.type, type)
    t.same(
      session.outputs.map(({ name, type }) => [name, type]),
      [
        ['values', 'f32'],
        ['ids', 'i64'],
        ['mass', 'f32'],
      ],
    )
    await session[Symbol.asyncDispose]()
  }
})
