/** Opens a model from its packed copy, as a server does at its start, and reports its inputs and what was logged. */
import { openRuntime } from '../../../model/runtime/runtime.js'

// Node ignores the signal that a write beyond `ulimit -f` sends; the test runner's loader ends the process on it, unless
// somebody else listens.
process.on('SIGXFSZ', () => {})

const warnings: string[] = []
const infos: string[] = []
const log = { info: (message: string) => infos.push(message), warn: (message: string) => warnings.push(message) }
const runtime = await openRuntime({ device: 'cpu', threads: 1, log })
const session = await runtime.openSession({ model: process.argv[2]!, load: 'packed' })
process.send!({ inputs: session.inputs.map(({ name }) => name), infos, warnings })
await runtime[Symbol.asyncDispose]()
process.disconnect()
