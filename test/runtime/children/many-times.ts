/** Creates and disposes each kind of object 1,000 times, with a run, and reports private memory (bytes) on the way. */
import { readFileSync } from 'node:fs'
import { openRuntime } from '../../../model/runtime/runtime.js'
import { addGraph } from '../graphs.js'

const model = addGraph()
const tensorBytes = 4 * 1024 * 1024

/** Anonymous pages of this process, as /proc/self/status says. */
function privateBytes(): number {
  return Number(/RssAnon:\s+(\d+) kB/.exec(readFileSync('/proc/self/status', 'utf8'))![1]) * 1024
}

const runtime = await openRuntime({ device: 'cpu', threads: 1 })
const samples: number[] = []
for (let round = 1; round <= 1000; round++) {
  const session = await runtime.openSession({ model })
  const tensor = await runtime.createTensor({ type: 'f32', shape: [tensorBytes / 16, 4], place: 'host' })
  const view = await tensor.view([1, 4], 0)
  const binding = await runtime.createBinding(session)
  tensor.bytes.fill(1)
  binding.bindInput('x', view)
  binding.bindInput('y', view)
  binding.bindOutput('z', view)
  await runtime.run([binding])
  const objects = [session, tensor, view, binding]
  // Another order each time.
  for (let index = 0; index < objects.length; index++) await objects[(index + round) % 4]![Symbol.asyncDispose]()
  if (round % 200 === 0) samples.push(privateBytes())
}
await runtime[Symbol.asyncDispose]()
process.send!(samples)
