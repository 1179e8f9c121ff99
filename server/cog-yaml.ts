import { existsSync, readFileSync } from 'node:fs'
import { dirname, extname, resolve } from 'node:path'
import { parse } from 'yaml'
import { z } from 'zod'
import { MOST_CONCURRENT, REFERENCE, type ServerSettings, SettingError } from './config.js'
import type { PredictorModules } from './load-predictor.js'
import type { ModuleExport } from './messages.js'

const VARIABLE = /^([A-Za-z_][A-Za-z0-9_]*)=(.*)$/s

/** The part of Cog's cog.yaml that concerns a server; the rest (`build`, `image`) concerns images. */
const cogYaml = z
  .looseObject({
    predict: z.string().regex(REFERENCE, 'must be "file.ts:Name", such as "predict.ts:Predictor"').optional(),
    run: z.string().regex(REFERENCE, 'must be "file.ts:Name", such as "predict.ts:Predictor"').optional(),
    train: z.string().regex(REFERENCE, 'must be "file.ts:name", such as "train.ts:train"').optional(),
    environment: z.array(z.string().regex(VARIABLE, 'must be NAME=value')).optional(),
    concurrency: z.looseObject({ max: z.int().min(1).max(MOST_CONCURRENT).default(1) }).default({ max: 1 }),
  })
  .refine((yaml) => yaml.predict ?? yaml.run, 'must name the Predictor: predict: "predict.ts:Predictor"')

/** The module that exports the Predictor, and that of the training where `train` names one. */
export interface CogConfig extends PredictorModules {
  readonly concurrency: number
  /** Variables for the Predictor, where its process has not got them already; Cog's build puts them into the image. */
  readonly environment?: Readonly<Record<string, string>>
}

/**
 * Reads cog.yaml.
 *
 * From source, `predict.ts:Predictor` is the file beside cog.yaml. A compiled server looks for `predict.js` in `dist/`,
 * then beside cog.yaml.
 *
 * @param path of cog.yaml.
 * @param settings what stands in place of its fields.
 * @throws {SettingError} naming file, field and what is wanted.
 */
export function readCogYaml(
  path: string,
  settings: Partial<Pick<ServerSettings, 'COG_PREDICT_TYPE_STUB' | 'COG_TRAIN_TYPE_STUB' | 'COG_MAX_CONCURRENCY'>> = {},
): CogConfig {
  const parsed = cogYaml.safeParse(readYaml(path))
  if (!parsed.success) {
    const { path: field, message } = parsed.error.issues[0]!
    throw new SettingError(path, `${path}: ${[field.join('.'), message].filter((part) => part !== '').join(': ')}`)
  }
  const { predict, run, train, concurrency, environment } = parsed.data
  const named = (setting: 'COG_PREDICT_TYPE_STUB' | 'COG_TRAIN_TYPE_STUB', field: string | undefined) => {
    const stub = settings[setting]
    if (stub !== undefined) return moduleExport(path, { reference: stub, namedBy: setting })
    return field === undefined ? undefined : moduleExport(path, { reference: field, namedBy: path })
  }
  const training = named('COG_TRAIN_TYPE_STUB', train)
  return {
    ...named('COG_PREDICT_TYPE_STUB', run ?? predict)!,
    ...(training && { train: training }),
    ...(environment && { environment: Object.fromEntries(environment.map(variable)) }),
    concurrency: settings.COG_MAX_CONCURRENCY ?? concurrency.max,
  }
}

function variable(text: string): [name: string, value: string] {
  const [, name, value] = VARIABLE.exec(text)!
  return [name!, value!]
}

interface Reference {
  readonly reference: string
  /** The variable, or the file, that says so. */
  readonly namedBy: string
}

function moduleExport(cogFile: string, { reference, namedBy }: Reference): ModuleExport {
  const [, file, name] = REFERENCE.exec(reference)!
  return { file: moduleFile(cogFile, { reference: file!, namedBy }), name: name! }
}

function readYaml(path: string): unknown {
  try {
    return parse(readFileSync(path, 'utf8'))
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause)
    throw new SettingError(path, `${path} cannot be read as YAML: ${reason}`, { cause })
  }
}

function moduleFile(cogFile: string, { reference, namedBy }: Reference): string {
  const folder = dirname(resolve(cogFile))
  const compiled = `${reference.slice(0, -extname(reference).length)}.js`
  const candidates =
    extname(import.meta.url) === '.ts'
      ? [resolve(folder, reference)]
      : [resolve(folder, 'dist', compiled), resolve(folder, compiled)]
  const found = candidates.find((file) => existsSync(file))
  if (found === undefined) {
    throw new SettingError(namedBy, `${namedBy} names ${reference}, but there is no ${candidates.join(' and no ')}.`)
  }
  return found
}
