#!/usr/bin/env node
import { parseArguments } from './cli/arguments.js'
import { type Command, UsageError } from './cli/command.js'

// Read by ONNX Runtime when its library is loaded, in this process or in one that inherits from it.
process.env.ORT_DISABLE_TELEMETRY = '1'

const commands: Readonly<Record<string, () => Promise<Command>>> = {
  serve: async () => (await import('./cli/serve.js')).serveCommand(process.env),
  predict: async () => (await import('./cli/predict.js')).predictCommand(process.env),
  export: async () => (await import('./cli/export.js')).exportCommand,
  pull: async () => (await import('./cli/pull.js')).pullCommand(process.env),
}

async function main(words: readonly string[]): Promise<number> {
  const [first = 'serve', ...rest] = words
  if (first === '--help' || first === '-h' || first === 'help') {
    const { overview } = await import('./cli/help.js')
    process.stdout.write(overview(await Promise.all(Object.values(commands).map((load) => load()))))
    return 0
  }
  const load = Object.hasOwn(commands, first) ? commands[first] : undefined
  if (!load) throw new UsageError(await unknownCommand(first))
  const command = await load()
  if (rest.includes('--help') || rest.includes('-h')) {
    const { explain } = await import('./cli/help.js')
    process.stdout.write(explain(command))
    return 0
  }
  const settings = rest.length > 0 ? (await import('./cli/settings.js')).settingNames : []
  return command.run(parseArguments(command, rest, settings))
}

async function unknownCommand(word: string): Promise<string> {
  const { nearest } = await import('./cli/arguments.js')
  const names = Object.keys(commands)
  const near = nearest(word, names)
  return `"${word}" is not a command. ${near ? `Do you mean bezel ${near}?` : `There are ${names.join(', ')}: see bezel --help.`}`
}

try {
  process.exitCode = await main(process.argv.slice(2))
} catch (error) {
  const message = error instanceof Error ? error.message : String(error)
  process.stderr.write(`${message}\n`)
  // What the user typed or set is wrong: 2, as shells have it. All else: 1.
  const isUsage = error instanceof Error && ['UsageError', 'SettingError', 'SettingsError'].includes(error.name)
  process.exitCode = isUsage ? 2 : 1
}
