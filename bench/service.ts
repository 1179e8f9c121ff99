import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { type AddressInfo, createServer } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

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

/**
 * Starts the service as a user does, on a free port and with this process's settings, and waits until it is READY.
 *
 * @param command  what is typed; by default what `npm start` runs, without npm.
 */
export async function startService(
  command: readonly string[] = ['node', 'from-source.mjs', 'serve'],
): Promise<Service> {
  const port = await freePort()
  const url = `http://127.0.0.1:${port}`
  const start = performance.now()
  const [program, ...words] = command as [string, ...string[]]
  const child = spawn(program, words, {
    cwd: fileURLToPath(new URL('..', import.meta.url)),
    env: { ...process.env, PORT: String(port), LOG_LEVEL: 'silent' },
    stdio: 'ignore',
    // A group of its own, so that npm's children end with it.
    detached: true,
  })
  const ended = once(child, 'exit')
  const deadline = start + 60_000
  for (let status = ''; status !== 'READY'; await sleep(5)) {
    if (child.exitCode !== null || status === 'SETUP_FAILED' || performance.now() > deadline) {
      if (child.exitCode === null) process.kill(-child.pid!, 'SIGKILL')
      throw new Error('It did not start: start it by hand to see why.')
    }
    status = await healthOf(url)
  }
  return {
    url,
    pid: child.pid!,
    readyMs: performance.now() - start,
    async stop() {
      process.kill(-child.pid!, 'SIGTERM')
      await ended
    },
    kill() {
      if (child.exitCode === null) process.kill(-child.pid!, 'SIGKILL')
    },
  }
}

async function healthOf(url: string): Promise<string> {
  try {
    return ((await (await fetch(`${url}/health-check`)).json()) as { status: string }).status
  } catch {
    return 'not listening'
  }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}
