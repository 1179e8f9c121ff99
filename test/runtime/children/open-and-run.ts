/** Opens a runtime and runs one sum on it: for the ways in which this code is started. */
import { openRuntime } from '../../../model/runtime/runtime.js'

const runtime = await openRuntime({ device: 'cpu', threads: 1 })
process.stdout.write(`ONNX Runtime ${runtime.version}\n`)
// Not disposed: an idle runtime does not keep the process alive.
