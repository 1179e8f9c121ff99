import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { freePort } from '../deploy/free-port.js'

export interface Service {
  readonly url: string
  /** Of the HTTP side; its one child hosts the model. */
  readonly pid: number
  /** From the start of the process to READY. */
  readonly readyMs: number
  stop(): Promise<void>
  /** At once, if it still runs. */
  kill(): void
}

export interface ServiceCommand {
  /** What is typed; by default what `npm start` runs, without npm. */
  readonly command?: readonly string[]
  /** Beside this process's own variables. */
  readonly env?: Readonly<Record<string, string>>
  /** Default: this repository. */
  readonly cwd?: string
}

/** Starts a server as a user does, on a free port and with this process's settings, and waits until it is READY. */
export async function startService({
  command = ['node', 'from-source.mjs', 'serve'],
  env = {},
  cwd = fileURLToPath(new URL('..', import.meta.url)),
}: ServiceCommand = {}): Promise<Service> {
  const port = await freePort()
  const url = `http://127.0.0.1:${port}`
  const start = performance.now()
  const [program, ...words] = command as [string, ...string[]]
  const child = spawn(program, words, {
    cwd,
    env: { LOG_LEVEL: 'silent', ...process.env, ...env, PORT: String(port) },
    stdio: 'ignore',
    // A group of its own, so that npm's children end with it.
    detached: true,
  })
  const ended = once(child, 'exit')
  const deadline = start + 60_000
  for (let status = ''; status !== 'READY'; await sleep(3)) {
    if (!isAlive(child) || status === 'SETUP_FAILED' || performance.now() > deadline) {
      if (isAlive(child)) process.kill(-child.pid!, 'SIGKILL')
      throw new Error(`It did not start: start it by hand to see why: ${command.join(' ')}`)
    }
    status = await healthOf(url)
  }
  return {
    url,
    pid: child.pid!,
    readyMs: performance.now() - start,
    async stop() {
      if (isAlive(child)) process.kill(-child.pid!, 'SIGTERM')
      await ended
    },
    kill() {
      if (isAlive(child)) process.kill(-child.pid!, 'SIGKILL')
    },
  }
}

function isAlive(child: ChildProcess): boolean {
  return child.exitCode === null && child.signalCode === null
}

async function healthOf(url: string): Promise<string> {
  try {
    return ((await (await fetch(`${url}/health-check`)).json()) as { status: string }).status
  } catch {
    return 'not listening'
  }
}
