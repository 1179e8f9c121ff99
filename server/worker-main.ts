import { rmSync } from 'node:fs'
import { PredictorHost } from './host.js'
import { loadPredictor } from './load-predictor.js'
import type { FromWorker, SetupMessage, ToWorker } from './messages.js'
import type { Predictor } from './predictor.js'
import { captureStream } from './run-output.js'

/** The process that hosts the Predictor. Started by worker.ts, which owns its life. */
let host: PredictorHost | undefined
let folder: string | undefined
let stopping = false

// What a Predictor prints becomes the logs of the prediction that printed it.
captureStream(process.stdout, 'stdout')
captureStream(process.stderr, 'stderr')

process.on('message', (message: ToWorker) => {
  if (message.type === 'setup') void setup(message)
  else if (message.type === 'shutdown') void stop()
  else host?.receive(message)
})
// A terminal sends its signals to the whole group; when and how to end is the server's decision.
process.on('SIGINT', () => {})
process.on('SIGTERM', () => {})
// The server is gone: nobody would ever read an answer.
process.on('disconnect', () => {
  if (folder !== undefined) rmSync(folder, { recursive: true, force: true })
  process.exit(1)
})

async function setup(message: SetupMessage): Promise<void> {
  const { concurrency, environment = {}, files, outputBytes } = message
  folder = message.folder
  for (const [name, value] of Object.entries(environment)) process.env[name] ??= value
  let predictor: Predictor
  try {
    predictor = await loadPredictor(message)
  } catch (error) {
    post({ type: 'setup-failed', reason: error instanceof Error ? `${error.name}: ${error.message}` : String(error) })
    return
  }
  host = new PredictorHost({ predictor, concurrency, folder, files, outputBytes, post })
  await host.setup()
}

async function stop(): Promise<void> {
  // A server that ends may have said so before, to a Predictor that had given up.
  if (stopping) return
  stopping = true
  await host?.stop()
  process.exit(0)
}

function post(message: FromWorker): Promise<void> | undefined {
  let sent: () => void
  const drained = new Promise<void>((resolve) => {
    sent = resolve
  })
  // An error here means a closed channel; `disconnect` follows.
  return process.send!(message, undefined, undefined, () => sent()) ? undefined : drained
}
