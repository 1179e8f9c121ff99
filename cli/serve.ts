import { exitOnSignals, startServer } from '../server/main.js'
import type { SetupProgress } from '../server/predictor.js'
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
      // Everything else is loaded behind the fork in startServer: the model's process is what takes longest.
      let progress: { report: (report: SetupProgress) => void; stop: () => void } | undefined
      const server = await startServer({
        env: environment,
        check: async () => {
          const { parseModelSettings } = await import('../model/settings.js')
          parseModelSettings(environment)
        },
        createLog: async (level) => {
          const [{ createLogger }, { createProgress }] = await Promise.all([
            import('./logger.js'),
            import('./progress.js'),
          ])
          const log = createLogger(level, process.stdout)
          progress = createProgress({ stream: process.stderr, log: (line) => log.info(line) })
          return log
        },
        onProgress: (report) => progress?.report(report),
      })
      exitOnSignals(server)
      await server.setup
      progress?.stop()
      return new Promise<number>(() => {})
    },
  }
}
