/**
 * What it costs that the Predictor runs in a process of its own: the same service over the same predictor, in this process
 * and across the border, without HTTP.
 *
 *   npm run bench:border -- [predictions]
 *
 * A request is a prediction of one chunk; a chunk is a hundredth of the difference to one of a hundred and one.
 */
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { pino } from 'pino'
import { PredictorHost } from '../server/host.js'
import type { SetupRequest, ToWorker, Worker, WorkerEvent } from '../server/messages.js'
import { type Schedule, Service } from '../server/service.js'
import { WorkerProcess } from '../server/worker.js'
import { Predictor } from '../test/predictors/echo-stream.js'
import { median, table } from './report.js'

const predictions = Number(process.argv[2] ?? 2000)
const CHUNKS = 100
const ROUNDS = 5

/** The predictor takes no files, and makes none. */
const NO_FILES = { fileBytes: 0, totalBytes: 0, timeoutMs: 0, allowPrivate: false }

/** The host without a border: messages are handed over as they are. */
class DirectWorker implements Worker {
  #host: PredictorHost | undefined

  start(setup: SetupRequest, listener: (event: WorkerEvent) => void): void {
    listener({ type: 'starting' })
    this.#host = new PredictorHost({
      predictor: Predictor,
      concurrency: setup.concurrency,
      files: setup.files,
      folder: join(tmpdir(), `bezel-border-${process.pid}`),
      post: (message) => {
        listener(message)
        return undefined
      },
    })
    void this.#host.setup()
  }

  post(message: ToWorker): void {
    if (message.type !== 'setup' && message.type !== 'shutdown') this.#host?.receive(message)
  }

  async stop(): Promise<void> {
    await this.#host?.stop()
  }
}

const schedule: Schedule = (ms, action) => {
  const timer = setTimeout(action, ms)
  return { cancel: () => clearTimeout(timer), refresh: () => void timer.refresh() }
}

function serve(worker: Worker): Service {
  const file = fileURLToPath(new URL('../test/predictors/echo-stream.ts', import.meta.url))
  return new Service({
    worker,
    predictor: { file, name: 'Predictor', concurrency: 16, files: NO_FILES },
    dollarsPerSecond: 0,
    log: pino({ level: 'silent' }),
    schedule,
    now: () => performance.now(),
  })
}

/** Microseconds a prediction, `atOnce` of them at a time. */
async function measure(service: Service, { atOnce, chunks }: { atOnce: number; chunks: number }): Promise<number> {
  let left = chunks === 1 ? predictions : predictions / 10
  const count = left
  const begin = performance.now()
  const client = async () => {
    while (left-- > 0) {
      const prediction = await service.create({
        id: undefined,
        input: { prompt: 'a b c', n: chunks },
        context: {},
      })
      await prediction.ended
      if (prediction.status !== 'succeeded') throw new Error(`a prediction ${prediction.status}`)
    }
  }
  await Promise.all(Array.from({ length: atOnce }, client))
  return ((performance.now() - begin) * 1000) / count
}

const workers = [
  { name: 'in this process', worker: new DirectWorker() },
  { name: 'across the border', worker: new WorkerProcess({ env: process.env }) },
].map((one) => ({ ...one, service: serve(one.worker) }))
const rows: string[][] = [['µs', 'at once', 'a request', 'a chunk']]
const figures: object[] = []
for (const { service } of workers) await service.firstSetup
for (const atOnce of [1, 16]) {
  const taken = workers.map(() => ({ request: [] as number[], chunk: [] as number[] }))
  // In turn, so that what else the machine does meets both. The first round warms up.
  for (let round = 0; round <= ROUNDS; round++) {
    for (const [i, { service }] of workers.entries()) {
      const one = await measure(service, { atOnce, chunks: 1 })
      const many = await measure(service, { atOnce, chunks: CHUNKS })
      if (round === 0) continue
      taken[i]!.request.push(one)
      taken[i]!.chunk.push((many - one) / (CHUNKS - 1))
    }
  }
  for (const [i, { name }] of workers.entries()) {
    const [request, chunk] = [median(taken[i]!.request), median(taken[i]!.chunk)]
    figures.push({ name, atOnce, request, chunk })
    rows.push([name, String(atOnce), request.toFixed(1), chunk.toFixed(2)])
  }
}
for (const { worker } of workers) await worker.stop(1000)
console.log(JSON.stringify({ date: new Date().toISOString(), predictions, figures }))
console.log(table(rows))
process.exit(0)
