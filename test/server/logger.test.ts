import { PassThrough } from 'node:stream'
import t from 'tap'
import { createLogger, type LogFormat } from '../../server/logger.js'

/** What one line of the log looks like. */
async function line(format: LogFormat | undefined, isTTY: boolean): Promise<string> {
  const stream = Object.assign(new PassThrough({ encoding: 'utf8' }), { isTTY })
  const log = await createLogger({ level: 'warn', format, stream: stream as unknown as NodeJS.WriteStream })
  log.info('too low')
  log.warn({ id: 'x' }, 'words')
  return stream.read()
}

t.test('a log is one JSON object a line unless someone looks, or as it is told', async (t) => {
  for (const [format, isTTY] of [
    [undefined, false],
    ['json', true],
    ['json', false],
  ] as const) {
    const { time, ...entry } = JSON.parse(await line(format, isTTY))
    t.type(time, 'number')
    t.strictSame(entry, { level: 40, id: 'x', msg: 'words' })
  }
  for (const [format, isTTY] of [
    [undefined, true],
    ['console', true],
    ['console', false],
  ] as const) {
    const text = await line(format, isTTY)
    t.match(text, /^\[\d\d:\d\d:\d\d\] .*WARN.*words.*\n.*id.*"x"/)
    t.equal(text.includes('\x1b['), isTTY, 'with colours only where they show')
  }
})
