import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { capture, type EngineName } from './engine.js'
import { freePort } from './free-port.js'

/** What an image says of itself, as Docker's image format has it. */
export interface ImageConfig {
  readonly User: string
  readonly Env: readonly string[]
  readonly Entrypoint: readonly string[]
  readonly Cmd: readonly string[]
  readonly WorkingDir: string
  readonly Labels: Readonly<Record<string, string>>
  readonly ExposedPorts: Readonly<Record<string, unknown>>
  readonly Volumes: Readonly<Record<string, unknown>>
  readonly Healthcheck?: { readonly Test: readonly string[] }
}

/** How a command ended, and what it printed. */
export interface Outcome {
  readonly status: number | null
  readonly output: string
}

/** A container that runs with a read-only root, as the image's user, with `/models` as its only writable folder. */
export interface Container {
  readonly url: string
  /** Runs a command within. */
  exec(...words: string[]): Outcome
  /** Sends SIGTERM to its first process. @returns its exit code. */
  terminate(): Promise<number>
  remove(): void
}

export interface Engine {
  config(image: string): ImageConfig
  /** Bytes that the files of an image take on the disk, volumes left out. */
  sizeBytes(image: string): number
  start(image: string, config: ImageConfig): Promise<Container>
}

export function openEngine(name: EngineName): Engine {
  return name === 'docker' ? docker : buildah
}

const USED_BYTES = ['-s', '-x', '-B1', '/']

const docker: Engine = {
  config: (image) => JSON.parse(capture('docker', ['image', 'inspect', '--format', '{{json .Config}}', image])),

  sizeBytes: (image) =>
    Number.parseInt(capture('docker', ['run', '--rm', '--user=0', '--entrypoint=du', image, ...USED_BYTES]), 10),

  async start(image) {
    const guards = ['--read-only', '--cap-drop=ALL', '--security-opt=no-new-privileges']
    const id = capture('docker', ['run', '--detach', ...guards, '--publish=127.0.0.1::5000', image])
    return {
      url: `http://${capture('docker', ['port', id, '5000/tcp']).split('\n')[0]}`,
      exec: (...words) => outcome(spawnSync('docker', ['exec', id, ...words], { encoding: 'utf8' })),
      async terminate() {
        capture('docker', ['kill', '--signal=TERM', id])
        const waiting = spawn('docker', ['wait', id], { stdio: ['ignore', 'pipe', 'inherit'] })
        const [code] = (await once(waiting.stdout, 'data')) as [Buffer]
        return Number(code.toString())
      },
      remove: () => void capture('docker', ['rm', '--force', '--volumes', id]),
    }
  },
}

/**
 * buildah builds where no daemon runs, but it runs containers without PID 1 and read-only root. So its container is only the
 * folder, and the rest is done with namespaces, as an engine does it. Linux, as root.
 */
const buildah: Engine = {
  config: (image) => JSON.parse(capture('buildah', ['inspect', '--type=image', image])).Docker.config,

  sizeBytes: (image) =>
    inFolder(image, (folder) => Number.parseInt(capture('du', [...USED_BYTES.slice(0, -1), folder]), 10)),

  async start(image, config) {
    const port = await freePort()
    const { id, folder } = mountImage(image)
    const [user = '0', group = '0'] = config.User.split(':')
    const overrides = ['HOST=127.0.0.1', `PORT=${port}`]
    const within = ['/usr/bin/env', '-i', `--chdir=${config.WorkingDir}`, ...config.Env, ...overrides]
    const script = `set -e
      mount --bind "$0" "$0" && mount -o remount,bind,ro "$0"
      mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev"
      mount -t tmpfs -o uid=${user},gid=${group} tmpfs "$0/models"
      exec chroot --userspec=${user}:${group} "$0" "$@"`
    const isolated = ['--mount', '--pid', '--fork', '--kill-child', 'sh', '-c', script]
    const child = spawn('unshare', [...isolated, folder, ...within, ...config.Entrypoint, ...config.Cmd], {
      stdio: ['ignore', 'ignore', 'inherit'],
    })
    const exited = once(child, 'exit') as Promise<[number | null]>
    const enter = (...words: string[]) => {
      const namespaces = [`--target=${firstProcess(child)}`, '--mount', '--pid', '--root', `--setuid=${user}`]
      const all = [...namespaces, `--setgid=${group}`, '--', ...within, ...words]
      return outcome(spawnSync('nsenter', all, { encoding: 'utf8' }))
    }
    return {
      url: `http://127.0.0.1:${port}`,
      exec: enter,
      async terminate() {
        process.kill(firstProcess(child), 'SIGTERM')
        const [code] = await exited
        return code ?? 1
      },
      remove() {
        child.kill('SIGKILL')
        capture('buildah', ['rm', id])
      },
    }
  },
}

/** unshare's child is the first process of the new namespace, under its number outside of it. */
function firstProcess({ pid }: ChildProcess): number {
  return Number.parseInt(readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8'), 10)
}

function mountImage(image: string): { id: string; folder: string } {
  const id = capture('buildah', ['from', '--pull=never', image])
  return { id, folder: capture('buildah', ['mount', id]) }
}

function inFolder<Result>(image: string, use: (folder: string) => Result): Result {
  const { id, folder } = mountImage(image)
  try {
    return use(folder)
  } finally {
    capture('buildah', ['rm', id])
  }
}

function outcome(ended: { status: number | null; stdout: string; stderr: string }): Outcome {
  return { status: ended.status, output: `${ended.stdout}${ended.stderr}`.trim() }
}
