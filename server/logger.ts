import { type Logger, pino } from 'pino'

export type LogFormat = 'console' | 'json'

export interface LoggerOptions {
  /** A pino level, e.g. `info`. */
  readonly level: string
  /** Default: readable lines on a terminal, one JSON object a line elsewhere. */
  readonly format: LogFormat | undefined
  /** Where the lines go. */
  readonly stream: NodeJS.WriteStream
}

/** The process's logger: one JSON object a line, or readable lines. */
export async function createLogger({ level, format, stream }: LoggerOptions): Promise<Logger> {
  if ((format ?? (stream.isTTY ? 'console' : 'json')) === 'json') return pino({ level, base: null }, stream)
  // Most servers write JSON: the others wait for it.
  const { default: pretty } = await import('pino-pretty')
  const lines = pretty({
    destination: stream,
    sync: true,
    colorize: stream.isTTY,
    translateTime: 'SYS:HH:MM:ss',
    ignore: 'pid,hostname',
  })
  return pino({ level, base: null }, lines)
}
