import { randomUUID } from 'node:crypto'
import { rm } from 'node:fs/promises'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { FastifyInstance } from 'fastify'
import { pino } from 'pino'
import { createApp } from '../../server/app.js'
import { PredictorHost } from '../../server/host.js'
import type { HttpLimits } from '../../server/limits.js'
import type { FromWorker, SetupRequest, ToWorker, Worker, WorkerEvent } from '../../server/messages.js'
import type { Predictor } from '../../server/predictor.js'
import type { FileLimits } from '../../server/run-files.js'
import { type Schedule, Service } from '../../server/service.js'
import type { ShutdownFrom } from '../../server/shutdown.js'
import { type WebhookOptions, Webhooks } from '../../server/webhooks.js'

/** Small, and open to servers of this machine. */
export const TEST_FILES: FileLimits = { fileBytes: 1000, totalBytes: 1500, timeoutMs: 60_000, allowPrivate: true }

/** The same border without a process: every message goes through JSON, as between processes. */
export class InProcessWorker implements Worker {
  readonly #predictor: Predictor
  readonly #folder = join(tmpdir(), `bezel-test-${randomUUID()}`)
  #host: PredictorHost | undefined
  /** What came from the host, in order. */
  readonly received: FromWorker[] = []

  constructor(predictor: Predictor) {
    this.#predictor = predictor
  }

  start(setup: SetupRequest, listener: (event: WorkerEvent) => void): void {
    listener({ type: 'starting' })
    this.#host = new PredictorHost({
      predictor: this.#predictor,
      concurrency: setup.concurrency,
      folder: this.#folder,
      files: setup.files,
      outputBytes: setup.outputBytes,
      post: (message) => {
        const copy: FromWorker = JSON.parse(JSON.stringify(message))
        this.received.push(copy)
        listener(copy)
        return undefined
      },
    })
    void this.#host.setup()
  }

  post(message: ToWorker): void {
    if (message.type !== 'setup' && message.type !== 'shutdown')
      this.#host?.receive(JSON.parse(JSON.stringify(message)))
  }

  async stop(): Promise<void> {
    await this.#host?.stop()
    await rm(this.#folder, { recursive: true, force: true })
  }
}

/** A clock that stands until `advance` moves it, and timers on it. */
export class FakeClock {
  #now = 0
  readonly #timers = new Set<{ at: number; action: () => void }>()

  readonly now = (): number => this.#now

  readonly schedule: Schedule = (ms, action) => {
    const timer = { at: this.#now + ms, action }
    this.#timers.add(timer)
    return {
      cancel: () => this.#timers.delete(timer),
      refresh: () => {
        timer.at = this.#now + ms
        this.#timers.add(timer)
      },
    }
  }

  /** Number of timers that wait. */
  get waiting(): number {
    return this.#timers.size
  }

  advance(ms: number): void {
    this.#now += ms
    for (const timer of [...this.#timers]) {
      if (timer.at > this.#now) continue
      this.#timers.delete(timer)
      timer.action()
    }
  }
}

export interface TestServerOptions {
  readonly predictor: Predictor
  readonly concurrency?: number
  readonly clock?: FakeClock
  readonly bodyLimitBytes?: number
  readonly streamBufferBytes?: number
  readonly limits?: Partial<HttpLimits>
  readonly queueLimit?: number
  readonly queueBytes?: number
  readonly outputBytes?: number
  readonly keepMs?: number
  readonly resumeMs?: number
  readonly files?: FileLimits
  readonly webhooks?: Partial<WebhookOptions>
  readonly shutdownFrom?: ShutdownFrom
  readonly onShutdown?: () => void
  /** Receives each log line. */
  readonly onLog?: (line: string) => void
}

export interface TestServer {
  readonly app: FastifyInstance
  readonly service: Service
  readonly worker: InProcessWorker
  readonly clock: FakeClock
  readonly webhooks: Webhooks
  /** Listens on a free port of 127.0.0.1. */
  listen(): Promise<number>
}

/** An app over an in-process worker, set up and ready. Close `app` when done. */
export async function testServer(options: TestServerOptions): Promise<TestServer> {
  const worker = new InProcessWorker(options.predictor)
  const clock = options.clock ?? new FakeClock()
  const log = options.onLog ? pino({ level: 'debug' }, { write: options.onLog }) : pino({ level: 'silent' })
  const service = new Service({
    worker,
    predictor: {
      file: '',
      name: '',
      concurrency: options.concurrency ?? 1,
      files: options.files ?? TEST_FILES,
      ...(options.outputBytes !== undefined && { outputBytes: options.outputBytes }),
    },
    dollarsPerSecond: 0.5,
    log,
    schedule: clock.schedule,
    now: clock.now,
    ...(options.queueLimit !== undefined && { queueLimit: options.queueLimit }),
    ...(options.queueBytes !== undefined && { queueBytes: options.queueBytes }),
    ...(options.keepMs !== undefined && { keepMs: options.keepMs }),
  })
  const webhooks = new Webhooks({
    reach: 'any',
    intervalMs: 500,
    log,
    schedule: clock.schedule,
    now: clock.now,
    ...options.webhooks,
  })
  const app = createApp({
    service,
    webhooks,
    shutdown: { from: options.shutdownFrom ?? 'loopback', begin: () => options.onShutdown?.() },
    log,
    schedule: clock.schedule,
    ...(options.resumeMs !== undefined && { resumeMs: options.resumeMs }),
    limits: {
      ...options.limits,
      ...(options.bodyLimitBytes !== undefined && { bodyBytes: options.bodyLimitBytes }),
      ...(options.streamBufferBytes !== undefined && { streamBufferBytes: options.streamBufferBytes }),
    },
  })
  await service.firstSetup
  const listen = async () => {
    await app.listen({ host: '127.0.0.1', port: 0 })
    return (app.server.address() as AddressInfo).port
  }
  return { app, service, worker, clock, webhooks, listen }
}

/** A promise, and the function that resolves it. */
export function deferred<Value = void>(): { promise: Promise<Value>; resolve: (value: Value) => void } {
  let resolve!: (value: Value) => void
  const promise = new Promise<Value>((done) => {
    resolve = done
  })
  return { promise, resolve }
}
