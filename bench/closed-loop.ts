/**
 * A client in a process of its own: so many connections, each sending the next request when its answer is whole. It counts
 * what comes back, server-sent events one by one.
 */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { Agent, type IncomingMessage, request } from 'node:http'
import { fileURLToPath } from 'node:url'
import { quantile } from './report.js'

export interface Load {
  readonly url: string
  readonly connections: number
  readonly seconds: number
  readonly input: Readonly<Record<string, unknown>>
  /** Ask for server-sent events. */
  readonly stream: boolean
}

export interface LoadResult {
  /** Answers of 200 a second, and all others. */
  readonly okPerSecond: number
  readonly refused: number
  readonly p99Ms: number
  /** Server-sent events a second; 0 without `stream`. */
  readonly eventsPerSecond: number
  /** The same if the time were left out in which every open stream stood still for its client's delayed acknowledgement. */
  readonly eventsPerSecondUnstalled: number
}

/** Linux delays an acknowledgement by 40 ms: a pause this long behind the head of a stream that does not sleep is one. */
const STALL_MS = 30

/** Runs a load from a process of its own. */
export async function closedLoop(load: Load): Promise<LoadResult> {
  const child = fork(fileURLToPath(import.meta.url), [JSON.stringify(load)])
  const [result] = (await once(child, 'message')) as [LoadResult]
  return result
}

async function run(load: Load): Promise<LoadResult> {
  const agent = new Agent({ keepAlive: true, maxSockets: load.connections })
  const body = JSON.stringify({ input: load.input })
  const headers = { 'content-type': 'application/json', ...(load.stream && { accept: 'text/event-stream' }) }
  const begin = performance.now()
  const until = begin + load.seconds * 1000
  const taken: number[] = []
  let refused = 0
  let events = 0
  let stalledMs = 0
  const send = () =>
    new Promise<void>((resolve, reject) => {
      const from = performance.now()
      const onAnswer = (response: IncomingMessage) => {
        let last = performance.now()
        response.on('data', (bytes: Buffer) => {
          const now = performance.now()
          if (response.statusCode === 200 && load.stream) events += eventsIn(bytes)
          if (now - last > STALL_MS) stalledMs += now - last
          last = now
        })
        response.on('end', () => {
          if (response.statusCode === 200) taken.push(performance.now() - from)
          else refused++
          resolve()
        })
        response.on('error', reject)
      }
      const sent = request(`${load.url}/predictions`, { method: 'POST', headers, agent }, onAnswer)
      sent.on('error', reject)
      sent.end(body)
    })
  const client = async () => {
    while (performance.now() < until) await send()
  }
  await Promise.all(Array.from({ length: load.connections }, client))
  const seconds = (performance.now() - begin) / 1000
  agent.destroy()
  return {
    okPerSecond: taken.length / seconds,
    refused,
    p99Ms: quantile(taken, 0.99),
    eventsPerSecond: events / seconds,
    eventsPerSecondUnstalled: events / (seconds - stalledMs / 1000 / load.connections),
  }
}

/** Every event ends with an empty line. (One that a chunk's end parts is missed: rare, since servers write whole events.) */
function eventsIn(bytes: Buffer): number {
  let count = 0
  for (let at = bytes.indexOf('\n\n'); at >= 0; at = bytes.indexOf('\n\n', at + 2)) count++
  return count
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const result = await run(JSON.parse(process.argv[2]!))
  process.send!(result, () => process.exit(0))
}
