import { copyFileSync, mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type Service, startService } from './service.js'

const root = fileURLToPath(new URL('..', import.meta.url))

/** A server of the trivial model, started anew whenever it is asked for. */
export type Start = (slots: number) => Promise<Service>

/** Only what goes wrong is logged, by both: neither waits for a log. */
const LEVELS = { LOG_LEVEL: 'warn', COG_LOG_LEVEL: 'warn' }

/** Ours with `test/predictors/echo-stream.ts`, compiled (`bench/tsconfig.cog.json`) or from source. */
export function bezel(folder: string, form: 'compiled' | 'source'): Start {
  const program = form === 'compiled' ? ['dist/server/main.js'] : ['--import', 'tsx', 'server/main.ts']
  const predictor = join(root, form === 'compiled' ? 'dist/test/predictors' : 'test/predictors', 'echo-stream.ts')
  return async (slots) => {
    const cogFile = join(folder, `${form}-${slots}.yaml`)
    writeFileSync(cogFile, `predict: "${relative(folder, predictor)}:Predictor"\nconcurrency:\n  max: ${slots}\n`)
    return await startService({ command: [process.execPath, ...program, cogFile], env: LEVELS })
  }
}

/**
 * The real server with the same model in Python: as a generator on one slot, as Cog's documentation has it, and as an
 * asynchronous one, the only kind that it runs several of, on more.
 *
 * @param python of an environment with `cog` and `coglet`.
 */
export function coglet(folder: string, python: string): Start {
  mkdirSync(join(folder, '.cog'), { recursive: true })
  copyFileSync(join(root, 'test/contract/echo_stream.py'), join(folder, 'echo_stream.py'))
  copyFileSync(join(root, 'test/contract/echo-stream.openapi.json'), join(folder, '.cog/openapi_schema.json'))
  return async (slots) =>
    await startService({
      command: [python, '-m', 'cog.server.http', '--host', '127.0.0.1'],
      cwd: folder,
      env: {
        ...LEVELS,
        PATH: `${dirname(python)}:${process.env.PATH}`,
        COG_MAX_CONCURRENCY: String(slots),
        COG_PREDICT_TYPE_STUB: `echo_stream.py:${slots === 1 ? 'Runner' : 'AsyncRunner'}`,
      },
    })
}
