import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { freePort } from '../../../deploy/free-port.js'
import { spawnSource, writeCogYaml } from '../../server/spawn.js'
import { healthOf, until } from './send.js'

/** The release that the contract is recorded from. */
const COG_VERSION = '0.23.1'

const contract = fileURLToPath(new URL('../', import.meta.url))

export interface RunningServer {
  readonly url: string
  readonly stop: () => Promise<void>
  /** Ends it at once, for when this process ends early. */
  readonly kill: () => void
}

/** So that every write of the model to its output calls a webhook: Cog drops those that come soon after another call. */
const ENVIRONMENT = { COG_THROTTLE_RESPONSE_INTERVAL: '0', NODE_ENV: 'production' }

const START_MS = 60_000
const STOP_MS = 5000

/** What to do where Cog is not there. */
export class NoCogError extends Error {
  constructor(python: string, found: string) {
    super(
      `${python} does not have cog and coglet ${COG_VERSION} (${found}). Make an environment that has:\n` +
        `  python3 -m venv cog-venv\n` +
        `  cog-venv/bin/pip install cog==${COG_VERSION} coglet==${COG_VERSION}\n` +
        `and name it: npm run cog:diff -- --python cog-venv/bin/python (or PYTHON=cog-venv/bin/python)`,
    )
    this.name = 'NoCogError'
  }
}

/**
 * @returns the interpreter's own path.
 * @throws {NoCogError} it lacks the packages, has others, or is none.
 */
export function assertCog(python: string): string {
  const program =
    'import sys; from importlib.metadata import version; print(sys.executable, version("cog"), version("coglet"), sep="\\n")'
  let lines: string[]
  try {
    lines = execFileSync(python, ['-c', program], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] }).split('\n')
  } catch (error) {
    const reason = String((error as { stderr?: string }).stderr || error)
    throw new NoCogError(python, reason.trim().split('\n').at(-1)!)
  }
  const [executable, ...versions] = lines
  if (versions[0] !== COG_VERSION || versions[1] !== COG_VERSION) {
    throw new NoCogError(python, `it has ${versions[0]} and ${versions[1]}`)
  }
  return executable!
}

/**
 * Cog's own server with the echo model, and the document that Cog's own generator made of it.
 *
 * @param python as {@link assertCog} gives it.
 */
export async function startCog(python: string): Promise<RunningServer> {
  const folder = mkdtempSync(join(tmpdir(), 'cog-diff-'))
  mkdirSync(join(folder, '.cog'))
  cpSync(join(contract, 'echo-stream.openapi.json'), join(folder, '.cog/openapi_schema.json'))
  cpSync(join(contract, 'echo_stream.py'), join(folder, 'echo_stream.py'))
  const port = await freePort()
  const logFile = join(folder, 'server.log')
  const log = openSync(logFile, 'w')
  const child = spawn(python, ['-m', 'cog.server.http', '--host', '127.0.0.1'], {
    cwd: folder,
    env: {
      ...process.env,
      ...ENVIRONMENT,
      // It starts its worker as plain `python`.
      PATH: `${dirname(python)}${delimiter}${process.env.PATH}`,
      PORT: String(port),
      COG_PREDICT_TYPE_STUB: 'echo_stream.py:Runner',
      LOG_FORMAT: 'console',
    },
    stdio: ['ignore', log, log],
  })
  const url = `http://127.0.0.1:${port}`
  return await ready({ child, url, log: () => readFileSync(logFile, 'utf8').slice(-2000), folder })
}

/** Ours with the same model, and with what Cog does without asking: webhooks to this machine. */
export async function startOurs(): Promise<RunningServer> {
  const folder = mkdtempSync(join(tmpdir(), 'cog-diff-'))
  const child = spawnSource('test/server/serve.ts', {
    args: [writeCogYaml(folder, { file: 'echo-stream.ts' })],
    env: { ...ENVIRONMENT, PORT: '0', HOST: '127.0.0.1', WEBHOOK_REACH: 'any' },
  })
  let log = ''
  child.stderr!.on('data', (text) => {
    log = (log + text).slice(-2000)
  })
  const url = await new Promise<string>((resolve, reject) => {
    child.once('exit', (code) => reject(new Error(`our server ended with code ${code}: ${log}`)))
    createInterface({ input: child.stdout! }).on('line', (line) => {
      log = `${log}${line}\n`.slice(-2000)
      const entry = JSON.parse(line)
      if (entry.url) resolve(entry.url)
    })
  })
  return await ready({ child, url, log: () => log, folder })
}

interface Started {
  readonly child: ChildProcess
  readonly url: string
  readonly log: () => string
  readonly folder: string
}

async function ready({ child, url, log, folder }: Started): Promise<RunningServer> {
  const isAlive = () => child.exitCode === null && child.signalCode === null
  const kill = () => {
    child.kill('SIGKILL')
    rmSync(folder, { recursive: true, force: true })
  }
  const stop = async () => {
    child.kill('SIGTERM')
    await until(() => !isAlive(), STOP_MS)
    kill()
  }
  const isReady = await until(async () => !isAlive() || (await healthOf(url)) === 'READY', START_MS)
  if (isReady && isAlive()) return { url, stop, kill }
  const end = log()
  await stop()
  throw new Error(`the server did not become READY: ${end}`)
}
