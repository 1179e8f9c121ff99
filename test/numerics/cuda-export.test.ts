import { readFile } from 'node:fs/promises'
import path from 'node:path'
import t from 'tap'
import { exportModel } from '../../model/export/export.js'
import { openModelFolder } from '../../model/folder.js'
import { bf16FromF32, f16FromF32 } from '../../model/half.js'
import { ModelProto } from '../../model/onnx/proto.js'
import { openRuntime } from '../../model/runtime/runtime.js'
import { largestDifference, NaiveModel } from './naive-model.js'
import { copyCheckpoint, randomFixtures, readReference } from './reference.js'

/**
 * Logits of up to 10 in f16 have steps of 2^-7 (0.008), and every value on the way is rounded to 11 bits; large random weights
 * amplify that. 0.02 to 0.10 was seen. A wrong table, norm or scale moves logits by several units.
 */
const F16_TOLERANCE = 0.25

const runtime = await openRuntime({ device: 'cpu', threads: 1 })
t.teardown(() => runtime[Symbol.asyncDispose]())

for (const name of await randomFixtures()) {
  t.test(`${name}: an f16 export for CUDA, run on the CPU, says what transformers says in f32`, async (t) => {
    const { prompt, logits } = await readReference(name)
    const checkpoint = t.testdir()
    await copyCheckpoint(name, checkpoint)
    const out = path.join(checkpoint, 'export')
    await exportModel({ checkpoint, out, target: 'cuda', dtype: 'f16', blockSize: 32 })
    await using model = await NaiveModel.open(runtime, await openModelFolder(out))
    const rows = await model.append(prompt)
    const difference = Math.max(...rows.map((row, position) => largestDifference(row, logits[position]!)))
    t.ok(difference <= F16_TOLERANCE, `max |Δ| of the logits is ${difference}`)
  })

  t.test(`${name}: f16 and bf16 exports hold the f32 export's numbers, rounded`, async (t) => {
    const checkpoint = t.testdir()
    await copyCheckpoint(name, checkpoint)
    const weightsOf = async (target: 'cpu' | 'cuda', dtype: 'f32' | 'f16' | 'bf16') => {
      const out = path.join(checkpoint, dtype)
      await exportModel({ checkpoint, out, target, dtype, blockSize: 32 })
      return readWeights(out)
    }
    const exact = await weightsOf('cpu', 'f32')
    for (const [dtype, encode] of [
      ['f16', f16FromF32],
      ['bf16', bf16FromF32],
    ] as const) {
      const rounded = await weightsOf('cuda', dtype)
      t.same([...rounded.keys()], [...exact.keys()])
      for (const [weight, bytes] of exact) {
        const wanted = Uint16Array.from(new Float32Array(bytes), encode)
        t.equal(Buffer.compare(Buffer.from(rounded.get(weight)!), Buffer.from(wanted.buffer)), 0, `${dtype} ${weight}`)
      }
    }
  })
}

/** The bytes of every weight in the data file, by name. */
async function readWeights(folder: string): Promise<Map<string, ArrayBuffer>> {
  const { graph } = ModelProto.toObject(ModelProto.decode(await readFile(path.join(folder, 'engine.onnx'))))
  const data = await readFile(path.join(folder, 'model.onnx_data'))
  const weights = new Map<string, ArrayBuffer>()
  for (const { name, external_data } of graph.initializer) {
    if (!external_data) continue
    const entry = (key: string) => Number(external_data.find((e: { key: string }) => e.key === key).value)
    const bytes = Uint8Array.prototype.slice.call(data, entry('offset'), entry('offset') + entry('length'))
    weights.set(name, bytes.buffer as ArrayBuffer)
  }
  return weights
}
