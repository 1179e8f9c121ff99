import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as wait } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'

const root = fileURLToPath(new URL('../../', import.meta.url))

export interface SpawnedServer {
  readonly process: ChildProcess
  readonly url: string
  /** The process that hosts the Predictor, at first. */
  readonly workerPid: number
  /** The log so far. */
  log(): string
  readonly exit: Promise<[code: number | null, signal: string | null]>
}

export interface ServedPredictor {
  /** File in test/predictors, and the name of the export. */
  readonly file: string
  readonly name?: string
  readonly concurrency?: number
  readonly env?: Readonly<Record<string, string>>
}

/** Writes a cog.yaml for a test predictor into a folder. */
export function writeCogYaml(folder: string, { file, name = 'Predictor', concurrency = 1 }: ServedPredictor): string {
  const path = join(folder, 'cog.yaml')
  const reference = `${relative(folder, join(root, 'test/predictors', file))}:${name}`
  writeFileSync(path, `predict: "${reference}"\nconcurrency:\n  max: ${concurrency}\n`)
  return path
}

/** Runs a file of this repository as `npm start` does, under tsx, which starts faster than tap's own loader. */
export function spawnSource(
  file: string,
  { args = [], env = {} }: { args?: string[]; env?: Readonly<Record<string, string>> },
): ChildProcess {
  return spawn(process.execPath, ['--import', 'tsx', join(root, file), ...args], {
    cwd: root,
    // Without what tap hands down to its processes.
    env: { ...process.env, NODE_OPTIONS: '', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
}

/** Starts a server in a process of its own; resolves when it listens. It is killed at the end of the test. */
export async function spawnServer(t: Test, folder: string, served: ServedPredictor): Promise<SpawnedServer> {
  return await spawnCogFile(t, writeCogYaml(folder, served), served.env)
}

/** The same for a cog.yaml that is there. */
export async function spawnCogFile(
  t: Test,
  cogFile: string,
  variables: Readonly<Record<string, string>> = {},
): Promise<SpawnedServer> {
  const child = spawnSource('test/server/serve.ts', {
    args: [cogFile],
    env: { PORT: '0', HOST: '127.0.0.1', ...variables },
  })
  t.teardown(() => child.kill('SIGKILL'))
  child.stderr!.pipe(process.stderr)
  let log = ''
  const lines = createInterface({ input: child.stdout! })
  const listening = new Promise<{ url: string; workerPid: number }>((resolve) => {
    lines.on('line', (line) => {
      log += `${line}\n`
      const entry = JSON.parse(line)
      if (entry.url) resolve(entry)
    })
  })
  const exit = once(child, 'exit') as SpawnedServer['exit']
  const failed = exit.then(([code]) => Promise.reject(new Error(`the server ended with code ${code}: ${log}`)))
  const { url, workerPid } = await Promise.race([listening, failed])
  failed.catch(() => {})
  return { process: child, url, workerPid, log: () => log, exit }
}

/** Asks a condition again and again, gently: the other processes need the time. */
export async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await condition())) await wait(10)
}

/** Waits until /health-check says this status. */
export async function untilHealth(url: string, status: string): Promise<void> {
  await until(async () => ((await (await fetch(`${url}/health-check`)).json()) as { status: string }).status === status)
}

/** Sends a prediction. */
export async function post(
  url: string,
  input: object,
  headers: Readonly<Record<string, string>> = {},
): Promise<Response> {
  return await fetch(`${url}/predictions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: JSON.stringify({ id: 'p', input }),
  })
}

export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}
