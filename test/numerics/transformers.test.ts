import path from 'node:path'
import t from 'tap'
import { exportModel } from '../../model/export/export.js'
import { openModelFolder } from '../../model/folder.js'
import { openRuntime } from '../../model/runtime/runtime.js'
import { argmax, largestDifference, NaiveModel } from './naive-model.js'
import { allFixtures, copyCheckpoint, readReference } from './reference.js'

/** Both sides compute in f32 and differ in the order of their sums only: 7e-5 was seen, on logits of up to 10. */
const TOLERANCE = 1e-3

const runtime = await openRuntime({ device: 'cpu', threads: 1 })
t.teardown(() => runtime[Symbol.asyncDispose]())

for (const name of await allFixtures()) {
  t.test(`${name}: an f32 export says what transformers says`, async (t) => {
    const { prompt, logits, greedy, lastLogits } = await readReference(name)
    const checkpoint = t.testdir()
    await copyCheckpoint(name, checkpoint)
    const out = path.join(checkpoint, 'export')
    await exportModel({ checkpoint, out, target: 'cpu', dtype: 'f32', blockSize: 32 })
    await using model = await NaiveModel.open(runtime, await openModelFolder(out))

    for (const chunk of [prompt.length, 7, 1]) {
      await t.test(`with the prompt in chunks of ${chunk}`, async (t) => {
        model.reset()
        const rows: Float32Array[] = []
        for (let at = 0; at < prompt.length; at += chunk) {
          rows.push(...(await model.append(prompt.slice(at, at + chunk))))
        }
        const differences = rows.map((row, position) => largestDifference(row, logits[position]!))
        t.ok(Math.max(...differences) <= TOLERANCE, `max |Δ| of the logits is ${Math.max(...differences)}`)

        let last = rows.at(-1)!
        const ids: number[] = []
        while (ids.length < greedy.length) {
          ids.push(argmax(last))
          if (ids.length < greedy.length) last = (await model.append(ids.slice(-1)))[0]!
        }
        t.same(ids, greedy, 'the greedy ids are the same')
        const difference = largestDifference(last, lastLogits)
        t.ok(difference <= TOLERANCE, `max |Δ| of the last step's logits is ${difference}`)
      })
    }
  })
}
