import { type SpawnOptions, spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'

/**
 * Runs a TypeScript file of `children/` in a process of its own, under this process's loader.
 *
 * @param options.fileLimitBytes  what the largest file may have that it writes; beyond it, a write fails as on a full disk.
 * @returns the message that it sent, and how it ended: a crash is a `signal`.
 */
export async function runChild(name: string, args: readonly string[] = [], options: { fileLimitBytes?: number } = {}) {
  const file = fileURLToPath(new URL(`./children/${name}.ts`, import.meta.url))
  const command = [process.execPath, ...process.execArgv, file, ...args]
  const stdio = { stdio: ['ignore', 'pipe', 'pipe', 'ipc'] } as const satisfies SpawnOptions
  const child =
    options.fileLimitBytes === undefined
      ? spawn(command[0]!, command.slice(1), stdio)
      : // In blocks of 512 bytes.
        spawn('sh', ['-c', `ulimit -f ${options.fileLimitBytes / 512}; exec "$@"`, 'sh', ...command], stdio)
  const messages: unknown[] = []
  let stderr = ''
  child.on('message', (message) => messages.push(message))
  child.stderr!.setEncoding('utf8').on('data', (text: string) => {
    stderr += text
  })
  const [code, signal] = await once(child, 'close')
  return { message: messages[0], code: code as number | null, signal: signal as string | null, stderr }
}
