import { exitOnSignals, startServer } from '../server/main.js'
import type { Command } from './command.js'

/** @param environment  the settings: see docs/configuration.md. */
export function serveCommand(environment: NodeJS.ProcessEnv): Command {
  return {
    name: 'serve',
    summary: 'Serves predictions over HTTP (the default command).',
    positionals: [],
    flags: [],
    example: 'MODEL=./gemma-2b-it-q4 PORT=8080 bezel serve',

    async run() {
      const { checkSettings } = await import('./settings.js')
      const { LOG_LEVEL } = checkSettings(environment).server
      const [{ createLogger }, { createProgress }] = await Promise.all([import('./logger.js'), import('./progress.js')])
      const log = createLogger(LOG_LEVEL, process.stdout)
      const progress = createProgress({ stream: process.stderr, log: (line) => log.info(line) })
      const server = await startServer({
        env: environment,
        log,
        onProgress: (report) => progress.report(report),
      })
      exitOnSignals(server)
      await server.setup
      progress.stop()
      return new Promise<number>(() => {})
    },
  }
}
