import { usage } from './arguments.js'
import type { Command } from './command.js'

const WIDTH = 26

/** The text of `bezel --help`. */
export function overview(commands: readonly Command[]): string {
  return [
    'Bezel serves Gemma-2B-it over HTTP, as Cog and Replicate do, on your own machine.',
    '',
    ...commands.map((command) => row(`bezel ${command.name}`, command.summary)),
    '',
    'bezel <command> --help explains one. Settings come from the environment: see docs/configuration.md.',
    '',
  ].join('\n')
}

/** The text of `bezel <command> --help`. */
export function explain(command: Command): string {
  return [
    `${usage(command)}`,
    '',
    command.summary,
    '',
    ...command.positionals.map(({ name, meaning }) => row(`<${name}>`, meaning)),
    ...command.flags.map(({ name, value, choices, meaning }) =>
      row(`--${name}${value === undefined ? '' : ` ${choices ? choices.join('|') : `<${value}>`}`}`, meaning),
    ),
    row('--help', 'This text.'),
    '',
    'Example:',
    `  ${command.example}`,
    '',
  ].join('\n')
}

function row(left: string, right: string): string {
  return left.length < WIDTH ? `  ${left.padEnd(WIDTH)}${right}` : `  ${left}\n  ${' '.repeat(WIDTH)}${right}`
}
