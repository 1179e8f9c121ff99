import { type Logger, pino } from 'pino'
import pretty from 'pino-pretty'

/**
 * The process's logger: one JSON object a line, or readable lines where a person looks.
 *
 * @param level  a pino level, e.g. `info`.
 * @param stream  where the lines go; a terminal gets the readable form.
 */
export function createLogger(level: string, stream: NodeJS.WriteStream): Logger {
  if (!stream.isTTY) return pino({ level, base: null }, stream)
  const lines = pretty({
    destination: stream,
    sync: true,
    colorize: true,
    translateTime: 'SYS:HH:MM:ss',
    ignore: 'pid,hostname',
  })
  return pino({ level, base: null }, lines)
}
