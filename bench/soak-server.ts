import { readFileSync } from 'node:fs'
import { pino } from 'pino'
import { startServer } from '../server/main.js'

/** The server that `bench/soak.ts` loads: tells what it holds whenever it is asked. Started with `--expose-gc`. */
export interface Sample {
  /** Private bytes of both processes, which no file backs. */
  readonly server: number
  readonly worker: number
  readonly heap: number
  readonly sockets: number
  readonly timers: number
}

const server = await startServer({
  env: { ...process.env, PORT: '0', HOST: '127.0.0.1' },
  cogFile: process.argv[2]!,
  createLog: () => pino({ level: 'silent' }),
})
await server.setup

process.on('message', () => {
  globalThis.gc?.()
  const resources = process.getActiveResourcesInfo()
  const count = (name: string) => resources.filter((resource) => resource === name).length
  const sample: Sample = {
    server: privateBytes(process.pid),
    worker: privateBytes(server.workerPid!),
    heap: process.memoryUsage().heapUsed,
    sockets: count('TCPSocketWrap'),
    timers: count('Timeout'),
  }
  process.send!(sample)
})
process.on('disconnect', () => server.close().then(() => process.exit(0)))
process.send!({ url: server.url })

function privateBytes(pid: number): number {
  return Number(/^RssAnon:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) * 1024
}
