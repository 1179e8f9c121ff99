import { type SpawnSyncOptionsWithStringEncoding, spawnSync } from 'node:child_process'

export const ENGINES = ['docker', 'buildah'] as const

/** A program that builds images. */
export type EngineName = (typeof ENGINES)[number]

/** The command line is wrong, or what it needs is not here. */
export class UsageError extends Error {
  override readonly name = 'UsageError'
}

/** @throws {UsageError} neither engine works here. A docker command without its daemon counts as none. */
export function findEngine(): EngineName {
  const found = ENGINES.find((engine) => spawnSync(engine, ['version']).status === 0)
  if (found === undefined) throw new UsageError('Neither docker nor buildah works here. Install or start one of them.')
  return found
}

/** @throws {UsageError} `value` is none of the legal ones. */
export function oneOf<Value extends string>(flag: string, value: string, legal: readonly Value[]): Value {
  const found = legal.find((candidate) => candidate === value)
  if (found === undefined) throw new UsageError(`--${flag} is "${value}", but must be one of ${legal.join(', ')}.`)
  return found
}

/**
 * Runs a command to its end.
 *
 * @returns what it printed on stdout, trimmed.
 * @throws {Error} it failed; the message has its last words.
 */
export function capture(command: string, words: readonly string[]): string {
  const options: SpawnSyncOptionsWithStringEncoding = { encoding: 'utf8', maxBuffer: 64 * 1024 * 1024 }
  const { status, stdout, stderr, error } = spawnSync(command, words, options)
  if (error) throw error
  if (status !== 0) throw new Error(`${command} ${words.join(' ')}: exit code ${status}. ${stderr.trim().slice(-1000)}`)
  return stdout.trim()
}

/** Runs `main` as a program: prints what it throws, and sets the exit code, 2 for a wrong command line. */
export async function exitWith(usage: string, main: () => Promise<number>): Promise<void> {
  try {
    process.exitCode = await main()
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    const isUsage = error instanceof UsageError || code?.startsWith('ERR_PARSE_ARGS') === true
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n${isUsage ? `\n${usage}` : ''}`)
    process.exitCode = isUsage ? 2 : 1
  }
}
