/**
 * Streams whose readers leave after the first token: does anything stay behind?
 *
 *   npm run bench:aborts -- [streams]
 *
 * Prints the memory of both processes before and after, and whether all slots are free again.
 */
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { table } from './report.js'
import { startService } from './service.js'

const streams = Number(process.argv[2] ?? 200)
const AT_ONCE = 4

/** Bytes that no file backs, of any process of ours (Linux). */
function anonymous(pid: number): number {
  return Number(/^RssAnon:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) * 1024
}

const service = await startService()
// Whatever fails here, the service must not stay behind.
process.on('exit', () => service.kill())
const workerPid = Number(readFileSync(`/proc/${service.pid}/task/${service.pid}/children`, 'utf8').trim())

async function abortOne(): Promise<void> {
  for (;;) {
    const reader = new AbortController()
    const response = await fetch(`${service.url}/predictions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', accept: 'text/event-stream' },
      body: JSON.stringify({ input: { prompt: 'What can you do?', min_new_tokens: 200, max_new_tokens: 200 } }),
      signal: reader.signal,
    })
    // The slot of a stream that was just dropped is free when its step is through.
    if (response.status === 409) {
      await response.arrayBuffer()
      await sleep(5)
      continue
    }
    try {
      for await (const bytes of response.body!) {
        if (Buffer.from(bytes).includes('event: output')) reader.abort()
      }
    } catch (error) {
      if (!reader.signal.aborted) throw error
    }
    return
  }
}

async function abortMany(count: number): Promise<void> {
  let left = count
  const reader = async () => {
    while (left-- > 0) await abortOne()
  }
  await Promise.all(Array.from({ length: AT_ONCE }, reader))
}

const measure = () => ({ server: anonymous(service.pid), worker: anonymous(workerPid) })
// What both take once: compiled code, pools, buffers of the largest step.
await abortMany(streams)
const before = measure()
await abortMany(streams)
const after = measure()
await sleep(1000)
const health = (await (await fetch(`${service.url}/health-check`)).json()) as { status: string }
const slots = await Promise.all(
  Array.from({ length: AT_ONCE }, () =>
    fetch(`${service.url}/predictions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ input: { prompt: 'Hi' } }),
    }).then((response) => response.status),
  ),
)
await service.stop()

const megabytes = (bytes: number) => (bytes / 1e6).toFixed(1)
console.log(JSON.stringify({ date: new Date().toISOString(), streams, before, after, health: health.status, slots }))
console.log(
  table([
    ['private MB', `after ${streams}`, `after ${2 * streams}`],
    ['HTTP process', megabytes(before.server), megabytes(after.server)],
    ['worker', megabytes(before.worker), megabytes(after.worker)],
  ]),
)
console.log(`health ${health.status}; ${AT_ONCE} predictions at once then: ${slots.join(' ')}`)
process.exit(slots.every((status) => status === 200) ? 0 : 1)
