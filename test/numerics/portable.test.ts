import path from 'node:path'
import t from 'tap'
import { exportModel } from '../../model/export/export.js'
import { openModelFolder } from '../../model/folder.js'
import { openRuntime } from '../../model/runtime/runtime.js'
import { argmax, largestDifference, NaiveModel } from './naive-model.js'
import { copyCheckpoint, randomFixtures, readReference } from './reference.js'

/**
 * Both graphs make the same products over the same bytes, but the portable one's last product may have another number of rows,
 * for which ONNX Runtime may take another kernel. No difference at all was seen.
 */
const TOLERANCE = 1e-4

const runtime = await openRuntime({ device: 'cpu', threads: 1 })
t.teardown(() => runtime[Symbol.asyncDispose]())

for (const name of await randomFixtures()) {
  for (const dtype of ['f32', 'q4', 'q8'] as const) {
    t.test(`${name}, ${dtype}: the graph for other programs says what the engine's says`, async (t) => {
      const { prompt, greedy } = await readReference(name)
      const checkpoint = t.testdir()
      await copyCheckpoint(name, checkpoint)
      const out = path.join(checkpoint, 'export')
      await exportModel({ checkpoint, out, target: 'cpu', dtype, blockSize: 32 })
      const folder = await openModelFolder(out)
      await using engine = await NaiveModel.open(runtime, folder)
      await using portable = await NaiveModel.open(runtime, folder, 'portable')

      let wanted = (await engine.append(prompt)).at(-1)!
      let found = (await portable.append(prompt))[0]!
      let difference = largestDifference(found, wanted)
      for (let step = 1; step < greedy.length; step++) {
        const id = argmax(wanted)
        wanted = (await engine.append([id]))[0]!
        found = (await portable.append([id]))[0]!
        difference = Math.max(difference, largestDifference(found, wanted))
      }
      t.ok(difference <= TOLERANCE, `max |Δ| of the logits over ${greedy.length} steps is ${difference}`)
    })
  }
}
