import { existsSync } from 'node:fs'
import type { AddressInfo } from 'node:net'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Logger } from 'pino'
import type { ServerSettings } from './config.js'
import type { LoggerOptions } from './logger.js'
import type { SetupProgress } from './predictor.js'
import { READINESS_FILE, setReadinessFile } from './readiness-file.js'
import type { Schedule, Service } from './service.js'
import { WorkerProcess } from './worker.js'

export interface StartOptions {
  /** Variables for the settings; the process that hosts the Predictor inherits all of them. */
  readonly env: Readonly<Record<string, string | undefined>>
  /** Default: the cog.yaml of this package. */
  readonly cogFile?: string
  /** What else must hold before anything starts; it runs while the worker's process comes up. To throw refuses the start. */
  readonly check?: () => Promise<void>
  /** Makes the logger. Default: one that writes to stdout. */
  readonly createLog?: (options: Pick<LoggerOptions, 'level' | 'format'>) => Logger | Promise<Logger>
  /** The file that tells Kubernetes of readiness. Default: Cog's. */
  readonly readinessFile?: string
  /** Reports of a long setup. */
  readonly onProgress?: (report: SetupProgress) => void
}

export interface RunningServer {
  /** Where it listens, such as `http://127.0.0.1:5000`. */
  readonly url: string
  /** The process that hosts the Predictor. */
  readonly workerPid: number | undefined
  /** How setup ended; the server stays up after a failed one, as Cog's does. */
  readonly setup: Promise<'succeeded' | 'failed'>
  /**
   * Waits DRAIN_DELAY_SECONDS with readiness off, then stops listening, lets running predictions and their webhooks end within
   * DRAIN_SECONDS, then ends the worker.
   */
  close(): Promise<void>
  /** Resolves when it is closed, because `close` was called or a request asked for it. */
  readonly closed: Promise<void>
  /** SIGTERM is not for ending it: AWAIT_EXPLICIT_SHUTDOWN. */
  readonly awaitsExplicitShutdown: boolean
  /** Ends the worker at once. For a process that is about to exit. */
  kill(): void
}

/** After the drain's limit: how long a Predictor may take to obey the cancel, and then to tear down. */
const GRACE_MS = 2000

/**
 * Starts the server and the process that hosts the Predictor. Resolves when it listens, while setup still runs.
 *
 * @throws {SettingError} a setting or cog.yaml is wrong. Nothing listens, and no process is left.
 * @throws {Error} with code EADDRINUSE or the like when it cannot listen. No process is left.
 */
export async function startServer(options: StartOptions): Promise<RunningServer> {
  // First of all, so that the child starts while this process loads its modules.
  const worker = new WorkerProcess({ env: options.env })
  try {
    return await listen(worker, options)
  } catch (error) {
    worker.kill()
    throw error
  }
}

/** Predictions without HTTP, for whoever runs one from the command line. */
export interface RunningService extends AsyncDisposable {
  readonly service: Service
}

/**
 * Starts the process that hosts the Predictor, and the service over it, but no server. Disposing it ends both.
 *
 * @throws {SettingError} a setting or cog.yaml is wrong. No process is left.
 */
export async function startService(options: StartOptions): Promise<RunningService> {
  const worker = new WorkerProcess({ env: options.env })
  try {
    const { service } = await createService(worker, options)
    return { service, [Symbol.asyncDispose]: () => worker.stop(GRACE_MS) }
  } catch (error) {
    worker.kill()
    throw error
  }
}

interface ServiceParts {
  readonly service: Service
  readonly settings: ServerSettings
  readonly log: Logger
}

async function createService(worker: WorkerProcess, options: StartOptions): Promise<ServiceParts> {
  const [{ fileLimitsOf, logOptionsOf, parseServerSettings, priceOf }, { readCogYaml }, { Service }, { createLogger }] =
    await Promise.all([import('./config.js'), import('./cog-yaml.js'), import('./service.js'), import('./logger.js')])
  const notes: string[] = []
  const settings = parseServerSettings(options.env, (note) => notes.push(note))
  await options.check?.()
  const createLog = options.createLog ?? ((wanted) => createLogger({ ...wanted, stream: process.stdout }))
  const log = await createLog(logOptionsOf(settings))
  for (const note of notes) log.warn(note)
  const { COG_SETUP_TIMEOUT, COG_STREAM_HISTORY_CAPACITY } = settings
  const service = new Service({
    worker,
    predictor: {
      ...readCogYaml(options.cogFile ?? packageCogFile(), settings),
      files: fileLimitsOf(settings),
      outputBytes: settings.OUTPUT_MEGABYTES * 1e6,
      ...(COG_SETUP_TIMEOUT > 0 && { limitMs: COG_SETUP_TIMEOUT * 1000 }),
    },
    dollarsPerSecond: priceOf(settings),
    log,
    schedule,
    now,
    queueLimit: settings.QUEUE,
    queueBytes: settings.QUEUE_MEGABYTES * 1e6,
    keepMs: Math.max(settings.KEEP_SECONDS, settings.RESUME_SECONDS) * 1000,
    ...(COG_STREAM_HISTORY_CAPACITY !== undefined && { historyLimit: COG_STREAM_HISTORY_CAPACITY }),
    ...(options.onProgress && { onProgress: options.onProgress }),
  })
  return { service, settings, log }
}

async function listen(worker: WorkerProcess, options: StartOptions): Promise<RunningServer> {
  const { service, settings, log } = await createService(worker, options)
  // Last, since it is the slowest to load: the child has its work by now.
  const [{ createApp }, { Webhooks }] = await Promise.all([import('./app.js'), import('./webhooks.js')])
  const webhooks = new Webhooks({
    reach: settings.WEBHOOK_REACH,
    intervalMs: settings.COG_THROTTLE_RESPONSE_INTERVAL * 1000,
    ...(settings.WEBHOOK_AUTH_TOKEN !== undefined && { authToken: settings.WEBHOOK_AUTH_TOKEN }),
    ...(settings.WEBHOOK_SECRET !== undefined && { secret: settings.WEBHOOK_SECRET }),
    log,
    schedule,
    now,
  })
  let begin!: () => void
  const begun = new Promise<void>((resolve) => {
    begin = resolve
  })
  const app = createApp({
    service,
    webhooks,
    shutdown: { from: settings.SHUTDOWN_FROM, begin },
    log,
    schedule,
    resumeMs: settings.RESUME_SECONDS * 1000,
    limits: { connections: settings.MAX_CONNECTIONS, requestMs: settings.RECEIVE_SECONDS * 1000 },
  })
  await app.listen({
    host: settings.HOST,
    port: settings.PORT,
    listenTextResolver: (address) => `listening on ${address}`,
  })
  if (settings.KUBERNETES_SERVICE_HOST !== undefined) {
    const file = options.readinessFile ?? READINESS_FILE
    service.onReadiness((ready) => setReadinessFile(file, ready, log))
  }
  const { address, port, family } = app.server.address() as AddressInfo
  const url = `http://${family === 'IPv6' ? `[${address}]` : address}:${port}`

  const close = async () => {
    log.info({ delaySeconds: settings.DRAIN_DELAY_SECONDS }, 'draining')
    service.leave()
    if (settings.DRAIN_DELAY_SECONDS > 0) {
      await new Promise<void>((resolve) => schedule(settings.DRAIN_DELAY_SECONDS * 1000, resolve))
    }
    const limitAt = now() + settings.DRAIN_SECONDS * 1000
    const drained = service.drain({ limitMs: settings.DRAIN_SECONDS * 1000, graceMs: GRACE_MS })
    const closed = app.close()
    await drained
    // Connections that fell idle since the listener closed: their clients would keep them, and us, for long.
    app.server.closeIdleConnections()
    // What is still open has been answered; a reader that does not take its answer must not hold the process.
    const patience = schedule(GRACE_MS, () => app.server.closeAllConnections())
    await closed
    patience.cancel()
    // Of predictions that were canceled at the limit, too, the final webhooks go out.
    await Promise.all([worker.stop(GRACE_MS), webhooks.drain(Math.max(limitAt - now(), GRACE_MS))])
    log.info('stopped')
  }
  const closed = begun.then(close)
  return {
    url,
    get workerPid() {
      return worker.pid
    },
    setup: service.firstSetup,
    close: () => {
      begin()
      return closed
    },
    closed,
    awaitsExplicitShutdown: settings.AWAIT_EXPLICIT_SHUTDOWN === 'true',
    kill: () => worker.kill(),
  }
}

/**
 * Ends the process when the server was told to end, by a signal or a request: with code 0 when it is closed, or at once with
 * 128 + the signal's number when a second signal comes. Where the server awaits an explicit shutdown, SIGTERM is no such signal.
 */
export function exitWhenTold(server: RunningServer): void {
  void server.closed.then(() => process.exit(0))
  let told = false
  for (const [signal, code] of [
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const) {
    process.on(signal, () => {
      if (signal === 'SIGTERM' && server.awaitsExplicitShutdown) return
      if (told) {
        server.kill()
        process.exit(code)
      }
      told = true
      void server.close()
    })
  }
}

/** cog.yaml lies at the package's root: beside server/ in source, one folder above dist/server/ when compiled. */
function packageCogFile(): string {
  const root = dirname(dirname(fileURLToPath(import.meta.url)))
  const beside = join(root, 'cog.yaml')
  return existsSync(beside) ? beside : join(dirname(root), 'cog.yaml')
}

const now = () => performance.now()

const schedule: Schedule = (ms, action) => {
  const timer = setTimeout(action, ms)
  return { cancel: () => clearTimeout(timer), refresh: () => void timer.refresh() }
}

// As a program: `main.ts [cog.yaml]`.
if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const cogFile = process.argv[2]
  try {
    exitWhenTold(await startServer({ env: process.env, ...(cogFile !== undefined && { cogFile }) }))
  } catch (error) {
    const isSetting = error instanceof Error && error.name === 'SettingError'
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`)
    process.exit(isSetting ? 2 : 1)
  }
}
