import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'

/**
 * Runs a TypeScript file of `children/` in a process of its own.
 *
 * @returns the message that it sent, and how it ended: a crash is a `signal`.
 */
export async function runChild(name: string, args: readonly string[] = []) {
  const child = fork(fileURLToPath(new URL(`./children/${name}.ts`, import.meta.url)), args, { stdio: 'pipe' })
  const messages: unknown[] = []
  let stderr = ''
  child.on('message', (message) => messages.push(message))
  child.stderr!.setEncoding('utf8').on('data', (text: string) => {
    stderr += text
  })
  const [code, signal] = await once(child, 'close')
  return { message: messages[0], code: code as number | null, signal: signal as string | null, stderr }
}
