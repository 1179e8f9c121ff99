import { type ChildProcess, fork } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { extname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { FromWorker, RunEvent, SetupRequest, ToWorker, Worker, WorkerEvent } from './messages.js'

export interface WorkerProcessOptions {
  /** The child's environment. */
  readonly env: Readonly<Record<string, string | undefined>>
  /** Starts the child with this environment; replaced in tests. */
  readonly fork?: (env: WorkerProcessOptions['env']) => ChildProcess
  /** Runs `action` after `ms`; replaced in tests. */
  readonly after?: (ms: number, action: () => void) => { cancel(): void }
}

const FIRST_RESTART_MS = 100
const LONGEST_RESTART_MS = 10_000
/** How long a Predictor that has given up may take to end what it has. */
const DEFUNCT_MS = 1000

/**
 * A child process that hosts the Predictor, started again whenever it dies after it was once ready.
 *
 * The child is forked by the constructor, before anyone knows what it will host, so that its start overlaps with ours.
 * Waits before restarts double from 100 ms to 10 s, and begin anew when a prediction has succeeded: one that sets up well and
 * then fails again and again shall not be started ten times a second. A child that dies in the very first setup, or
 * takes too long for it, is not started again: that setup would fail again.
 */
export class WorkerProcess implements Worker {
  readonly #options: Required<WorkerProcessOptions>
  #child: ChildProcess
  #setup: SetupRequest | undefined
  /** For the child's temporary files: removed when it has ended, however it ended. */
  readonly #folder = join(tmpdir(), `bezel-${randomUUID()}`)
  #listener: (event: WorkerEvent) => void = () => {}
  #wasReady = false
  /** How the child ended, if it did before anyone listened. */
  #endedEarly: string | undefined
  #restarts = 0
  /** Why the child that lives now, or lived last, has given up. */
  #gaveUp: string | undefined
  #restarting: { cancel(): void } | undefined
  /** Ends a setup that takes too long. */
  #setupLimit: { cancel(): void } | undefined
  #stopping = false

  constructor(options: WorkerProcessOptions) {
    this.#options = { fork: forkHost, after: afterMs, ...options }
    this.#child = this.#fork()
  }

  /** The process id of the child that lives now, or lived last. */
  get pid(): number | undefined {
    return this.#child.pid
  }

  start(setup: SetupRequest, listener: (event: WorkerEvent) => void): void {
    this.#setup = setup
    this.#listener = listener
    this.#begin()
    if (this.#endedEarly !== undefined) this.#died(this.#endedEarly)
  }

  post(message: ToWorker): void {
    // A write to a channel that has just closed is reported to the callback; the exit event tells the rest.
    if (this.#child.connected) this.#child.send(message, () => {})
  }

  async stop(limitMs: number): Promise<void> {
    this.#stop()
    await this.#end(this.#child, limitMs)
  }

  /** Ends the child now, whatever it does. For a process that is about to exit. */
  kill(): void {
    this.#stop()
    this.#child.kill('SIGKILL')
    this.#removeFolder()
  }

  #stop(): void {
    this.#stopping = true
    this.#restarting?.cancel()
    this.#setupLimit?.cancel()
  }

  /** Lets the child tear down, and kills it at the limit. */
  async #end(child: ChildProcess, limitMs: number): Promise<void> {
    if (child.exitCode !== null || child.signalCode !== null) return
    const gone = new Promise<void>((resolve) => child.once('exit', () => resolve()))
    this.post({ type: 'shutdown' })
    const timer = this.#options.after(limitMs, () => child.kill('SIGKILL'))
    await gone
    timer.cancel()
  }

  #fork(): ChildProcess {
    const child = this.#options.fork(this.#options.env)
    child.on('message', (message) => this.#receive(message as FromWorker))
    child.once('exit', (code, signal) => {
      const how = signal === null ? `exit code ${code}` : `signal ${signal}`
      this.#died(
        this.#gaveUp === undefined ? how : `the Predictor's own word that it can go on no more (${this.#gaveUp})`,
      )
    })
    // Only when it could not be forked at all: then there is no exit.
    child.once('error', (error) => {
      if (child.pid === undefined) this.#died(error.message)
    })
    return child
  }

  #begin(): void {
    const { limitMs, ...setup } = this.#setup!
    this.#listener({ type: 'starting' })
    this.post({ ...setup, folder: this.#folder })
    if (limitMs !== undefined) this.#setupLimit = this.#options.after(limitMs, () => this.#giveUpSetup())
  }

  #giveUpSetup(): void {
    this.#listener({ type: 'setup-timed-out' })
    // Not to hear that it was ready after all, now that it is to end.
    this.#child.removeAllListeners('message')
    this.#child.kill('SIGKILL')
  }

  #receive(message: FromWorker): void {
    if (message.type === 'ready') this.#wasReady = true
    if (message.type === 'ready' || message.type === 'setup-failed') this.#setupLimit?.cancel()
    if (this.#restarts > 0 && message.type === 'batch' && message.events.some(hasSucceeded)) this.#restarts = 0
    this.#listener(message)
    if (message.type === 'defunct' && this.#gaveUp === undefined) {
      this.#gaveUp = message.reason
      void this.#end(this.#child, DEFUNCT_MS)
    }
    // What set up once may do so again, when a device or a disk has come back: a fresh process tries.
    if (message.type === 'setup-failed' && this.#wasReady) this.#child.kill('SIGKILL')
  }

  #removeFolder(): void {
    // Best effort: what cannot be removed must not take the server down.
    try {
      rmSync(this.#folder, { recursive: true, force: true })
    } catch {}
  }

  #died(ending: string): void {
    this.#removeFolder()
    this.#setupLimit?.cancel()
    if (this.#stopping) return
    if (!this.#setup) {
      this.#endedEarly = ending
      return
    }
    this.#listener({ type: 'died', ending, restarts: this.#wasReady })
    if (!this.#wasReady) return
    const waitMs = Math.min(FIRST_RESTART_MS * 2 ** this.#restarts++, LONGEST_RESTART_MS)
    this.#restarting = this.#options.after(waitMs, () => {
      this.#restarting = undefined
      this.#gaveUp = undefined
      this.#child = this.#fork()
      this.#begin()
    })
  }
}

function hasSucceeded(event: RunEvent): boolean {
  return event.kind === 'ended' && event.status === 'succeeded'
}

function forkHost(env: WorkerProcessOptions['env']): ChildProcess {
  // From source this file is a .ts and so is the entry; compiled, both are .js.
  const entry = new URL(`./worker-main${extname(import.meta.url)}`, import.meta.url)
  return fork(fileURLToPath(entry), {
    env: { ...env },
    serialization: 'json',
    // What the Predictor's libraries print must not stand between the server's own lines on stdout.
    stdio: ['ignore', process.stderr.fd, process.stderr.fd, 'ipc'],
  })
}

function afterMs(ms: number, action: () => void): { cancel(): void } {
  const timer = setTimeout(action, ms)
  return { cancel: () => clearTimeout(timer) }
}
