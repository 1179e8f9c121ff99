import { exitWhenTold, startServer } from '../server/main.js'
import type { SetupProgress } from '../server/predictor.js'
import type { Command } from './command.js'

/** Cog's flag needs a value; directors give it 1 as well as true. */
const ANSWERS: ReadonlyMap<string, 'true' | 'false'> = new Map([
  ['true', 'true'],
  ['false', 'false'],
  ['1', 'true'],
  ['0', 'false'],
])

/** @param environment  the settings: see docs/configuration.md. */
export function serveCommand(environment: NodeJS.ProcessEnv): Command {
  return {
    name: 'serve',
    summary: 'Serves predictions over HTTP (the default command).',
    positionals: [],
    flags: [
      {
        name: 'await-explicit-shutdown',
        value: 'answer',
        choices: [...ANSWERS.keys()],
        alone: 'true',
        meaning: 'Ignore SIGTERM: only POST /shutdown or SIGINT ends the server. The same as AWAIT_EXPLICIT_SHUTDOWN.',
      },
    ],
    example: 'MODEL=./gemma-2b-it-q4 PORT=8080 bezel serve',

    async run({ flags }) {
      const awaits = flags.get('await-explicit-shutdown')
      const env =
        awaits === undefined ? environment : { ...environment, AWAIT_EXPLICIT_SHUTDOWN: ANSWERS.get(String(awaits)) }
      // Everything else is loaded behind the fork in startServer: the model's process is what takes longest.
      let progress: { report: (report: SetupProgress) => void; stop: () => void } | undefined
      const server = await startServer({
        env,
        check: async () => {
          const { parseModelSettings } = await import('../model/settings.js')
          parseModelSettings(environment)
        },
        createLog: async (options) => {
          const [{ createLogger }, { createProgress }] = await Promise.all([
            import('../server/logger.js'),
            import('./progress.js'),
          ])
          const log = await createLogger({ ...options, stream: process.stdout })
          progress = createProgress({ stream: process.stderr, log: (line) => log.info(line) })
          return log
        },
        onProgress: (report) => progress?.report(report),
      })
      exitWhenTold(server)
      await server.setup
      progress?.stop()
      return new Promise<number>(() => {})
    },
  }
}
