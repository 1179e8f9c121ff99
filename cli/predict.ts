import { Predictor } from '../predict.js'
import { startService } from '../server/main.js'
import type { JsonSchema } from '../server/messages.js'
import { openApiDocument } from '../server/openapi.js'
import { type Arguments, type Command, type Flag, UsageError } from './command.js'
import { createTerminal } from './terminal.js'

/** One prediction without HTTP: the same process border, life-cycle and receipt as the server's. */
export function predictCommand(environment: NodeJS.ProcessEnv): Command {
  const inputs = inputProperties()
  return {
    name: 'predict',
    summary: 'Runs one prediction in the terminal: the text as it comes, the receipt at the end.',
    positionals: [{ name: 'prompt', meaning: 'the text for the model' }],
    flags: [...inputs].map(([name, schema]) => inputFlag(name, schema)),
    example: 'bezel predict "What can you do?" --temperature 0.2 --max-new-tokens 64',

    async run(args) {
      const { checkSettings } = await import('./settings.js')
      checkSettings(environment)
      const input = { prompt: args.positionals[0], ...inputsFrom(args, inputs) }
      const { pino } = await import('pino')
      using terminal = createTerminal()
      await using running = await startService({
        env: environment,
        createLog: () => pino({ level: 'silent' }),
        onProgress: terminal.report,
      })
      const { service } = running
      if ((await service.firstSetup) === 'failed') throw new Error((await service.health()).setup.logs)

      const prediction = await service.create({
        id: undefined,
        input,
        context: {},
        onAdmit: (admitted) => terminal.interrupted.addEventListener('abort', () => service.cancel(admitted)),
      })
      const show = (event: { name: string; data: object }) => {
        if (event.name === 'output' && 'chunk' in event.data) process.stdout.write(String(event.data.chunk))
      }
      for (const event of prediction.subscribe(show).events) show(event)
      await prediction.ended
      process.stdout.write('\n')
      const { status, error, metrics } = prediction.body()
      if (error !== undefined) terminal.say(error)
      terminal.say(receipt(status, metrics))
      return status === 'succeeded' ? 0 : 1
    },
  }
}

/** `succeeded · 24 tokens in, 61 out · first after 0.021 s · 812 tokens/s · 0.097 s · $0.0000097` */
export function receipt(status: string, metrics: Readonly<Record<string, unknown>>): string {
  const number = (name: string, digits: number) => {
    const value = metrics[name]
    return typeof value === 'number' ? value.toFixed(digits) : '–'
  }
  return [
    status,
    `${number('input_token_count', 0)} tokens in, ${number('output_token_count', 0)} out`,
    `first after ${number('time_to_first_token', 3)} s`,
    `${number('tokens_per_second', 1)} tokens/s`,
    `${number('predict_time', 3)} s`,
    `$${number('cost', 7)}`,
  ].join(' · ')
}

/** Every input but the prompt, which is no flag. */
function inputProperties(): ReadonlyMap<string, JsonSchema> {
  const { properties = {} } = openApiDocument(Predictor).components.schemas.Input!
  return new Map(Object.entries(properties).filter(([name]) => name !== 'prompt'))
}

function inputFlag(name: string, schema: JsonSchema): Flag {
  const flag = { name: name.replaceAll('_', '-'), meaning: meaningOf(schema) }
  if (schema.type === 'boolean') return flag
  return { ...flag, value: schema.type === 'array' ? 'json' : (schema.type ?? 'text') }
}

function meaningOf({ description, default: fallback }: JsonSchema): string {
  const shown = fallback === undefined || fallback === null ? '' : ` (default: ${fallback})`
  return `${description ?? ''}${shown}`
}

function inputsFrom({ flags }: Arguments, inputs: ReadonlyMap<string, JsonSchema>): Record<string, unknown> {
  return Object.fromEntries(
    [...inputs]
      .map(([name, schema]) => [name, schema, flags.get(name.replaceAll('_', '-'))] as const)
      .filter(([, , value]) => value !== undefined)
      .map(([name, schema, value]) => [name, typeof value === 'string' ? inputValue(name, schema, value) : value]),
  )
}

function inputValue(name: string, schema: JsonSchema, value: string): unknown {
  if (schema.type === 'integer' || schema.type === 'number') {
    if (value.trim() !== '' && Number.isFinite(Number(value))) return Number(value)
    throw new UsageError(`--${name.replaceAll('_', '-')} is "${value}", but must be a number.`)
  }
  if (schema.type !== 'array') return value
  try {
    return JSON.parse(value)
  } catch {
    throw new UsageError(`--${name.replaceAll('_', '-')} is not JSON. Quote the whole of it for your shell.`)
  }
}
