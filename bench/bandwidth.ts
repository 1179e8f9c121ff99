import { availableParallelism } from 'node:os'
import { Worker } from 'node:worker_threads'

/** Far beyond the last-level cache of any processor, in bytes for each thread. */
const BYTES = 512 * 1024 * 1024

/**
 * Compares two equal halves of a buffer: memcmp reads both to their end and writes nothing, as a decode step does with its
 * weights. Plain JavaScript in a worker, since the function must be one text.
 */
const reader = `
  const { parentPort, workerData } = require('node:worker_threads')
  const halves = [Buffer.alloc(workerData / 2, 1), Buffer.alloc(workerData / 2, 1)]
  parentPort.on('message', () => {
    if (halves[0].compare(halves[1]) !== 0) throw new Error('the halves differ')
    parentPort.postMessage(null)
  })
`

/**
 * How fast this machine reads memory with all its processors together.
 *
 * @param rounds  the best of this many counts: every disturbance only makes a round slower.
 * @returns bytes a second.
 */
export async function readBandwidth(rounds = 5): Promise<number> {
  const threads = availableParallelism()
  const workers = Array.from({ length: threads }, () => new Worker(reader, { eval: true, workerData: BYTES }))
  const round = () =>
    Promise.all(
      workers.map(
        (worker) =>
          new Promise((resolve, reject) => {
            worker.once('message', resolve)
            worker.once('error', reject)
            worker.postMessage(null)
          }),
      ),
    )
  await round()
  let best = 0
  for (let i = 0; i < rounds; i++) {
    const start = performance.now()
    await round()
    best = Math.max(best, (BYTES * threads) / ((performance.now() - start) / 1000))
  }
  await Promise.all(workers.map((worker) => worker.terminate()))
  return best
}
