import { parseArgs } from 'node:util'
import { type Arguments, type Command, type Flag, UsageError } from './command.js'

/**
 * Reads what stands behind the command's name.
 *
 * @param words  e.g. `['gemma', 'out', '--dtype', 'q4']`.
 * @param settings  the names of the environment's settings: who types one as a flag is told so.
 * @throws {UsageError} an unknown or repeated flag, a value that is missing, not wanted or not among the choices, too few or
 *   too many words.
 */
export function parseArguments(command: Command, words: readonly string[], settings: readonly string[]): Arguments {
  const flags = new Map<string, string | true>()
  const positionals: string[] = []
  const { tokens } = parseArgs({
    args: [...words],
    options: Object.fromEntries(
      command.flags.map((flag) => [
        flag.name,
        { type: flag.value === undefined || flag.alone !== undefined ? 'boolean' : 'string' } as const,
      ]),
    ),
    strict: false,
    allowPositionals: true,
    tokens: true,
  })
  for (const [index, token] of tokens.entries()) {
    if (token.kind === 'positional') positionals.push(token.value)
    if (token.kind !== 'option') continue
    const flag = command.flags.find(({ name }) => name === token.name)
    if (!flag) {
      const next = tokens[index + 1]
      const value = token.value ?? (next?.kind === 'positional' ? next.value : undefined)
      throw new UsageError(unknownFlag(command, token.rawName, value, settings))
    }
    if (flags.has(flag.name)) throw new UsageError(`${token.rawName} is given twice.`)
    flags.set(flag.name, flagValue(flag, token.value))
  }
  const missing = command.positionals[positionals.length]
  if (missing) throw new UsageError(`${usage(command)}: <${missing.name}> is missing (${missing.meaning}).`)
  const surplus = positionals[command.positionals.length]
  if (surplus !== undefined) {
    throw new UsageError(`${usage(command)}: "${surplus}" is one word too many. Quote a text that has spaces.`)
  }
  return { positionals, flags }
}

/** `bezel export <checkpoint> <folder> [flags]` */
export function usage(command: Command): string {
  const words = command.positionals.map(({ name }) => ` <${name}>`).join('')
  return `bezel ${command.name}${words}${command.flags.length > 0 ? ' [flags]' : ''}`
}

function flagValue(flag: Flag, given: string | undefined): string | true {
  const value = given ?? flag.alone
  if (flag.value === undefined) {
    if (value !== undefined) throw new UsageError(`--${flag.name} takes no value, but got "${value}".`)
    return true
  }
  const wanted = flag.choices ? `one of ${flag.choices.join(', ')}` : `a ${flag.value}`
  if (value === undefined) throw new UsageError(`--${flag.name} needs a value: ${wanted}.`)
  if (flag.choices && !flag.choices.includes(value)) {
    throw new UsageError(`--${flag.name} is "${value}", but must be ${wanted}.`)
  }
  return value
}

function unknownFlag(command: Command, word: string, value: string | undefined, settings: readonly string[]): string {
  const said = `${word} is not a flag of bezel ${command.name}.`
  const setting = word.replace(/^-+/, '').replaceAll('-', '_').toUpperCase()
  if (settings.includes(setting)) {
    return `${said} Settings come from the environment: ${setting}=${value ?? '…'} bezel ${command.name}`
  }
  const near = nearest(
    word.replace(/^-+/, ''),
    command.flags.map(({ name }) => name),
  )
  const hint = near === undefined ? `See bezel ${command.name} --help.` : `Do you mean --${near}?`
  return `${said} ${hint}`
}

/**
 * The name that a typing error most likely stands for.
 *
 * @returns undefined where none is within a third of the word's length of it.
 */
export function nearest(word: string, names: readonly string[]): string | undefined {
  const bound = Math.ceil(word.length / 3)
  return names
    .map((name) => ({ name, distance: editDistance(word, name) }))
    .filter(({ distance }) => distance <= bound)
    .sort((a, b) => a.distance - b.distance)[0]?.name
}

/** Levenshtein's distance: letters to add, drop or change. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, column) => column)
  for (const [i, letter] of [...a].entries()) {
    const next = [i + 1]
    for (const [j, other] of [...b].entries()) {
      next.push(Math.min(row[j]! + (letter === other ? 0 : 1), row[j + 1]! + 1, next[j]! + 1))
    }
    row = next
  }
  return row[b.length]!
}
