import { usage } from './arguments.js'
import type { Command, Flag } from './command.js'

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
    ...command.flags.map((flag) => row(`--${flag.name}${valueText(flag)}`, flag.meaning)),
    row('--help', 'This text.'),
    '',
    'Example:',
    `  ${command.example}`,
    '',
  ].join('\n')
}

/** ` <folder>`, ` f32|q4`, `[=true|false]`; nothing for a switch. */
function valueText({ value, choices, alone }: Flag): string {
  if (value === undefined) return ''
  const legal = choices ? choices.join('|') : `<${value}>`
  return alone === undefined ? ` ${legal}` : `[=${legal}]`
}

function row(left: string, right: string): string {
  return left.length < WIDTH ? `  ${left.padEnd(WIDTH)}${right}` : `  ${left}\n  ${' '.repeat(WIDTH)}${right}`
}
