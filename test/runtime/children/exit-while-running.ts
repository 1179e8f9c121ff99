/** Exits in the middle of a run that would take minutes. */
import { openRuntime } from '../../../model/runtime/runtime.js'
import { slowGraph } from '../graphs.js'

const n = 512
const runtime = await openRuntime({ device: 'cpu', threads: 1 })
const session = await runtime.openSession({ model: slowGraph(20, n) })
const binding = await runtime.createBinding(session)
const tensor = await runtime.createTensor({ type: 'f32', shape: [n, n], place: 'host' })
binding.bindInput('x', tensor)
binding.bindOutput('y', tensor)
await runtime.run([binding])
void runtime.run(new Array(20_000).fill(binding))
setImmediate(() => process.exit(7))
