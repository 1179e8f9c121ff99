import { pathToFileURL } from 'node:url'
import type { ModuleExport } from './messages.js'
import type { Predictor, Training } from './predictor.js'

export interface PredictorModules extends ModuleExport {
  /** What cog.yaml names as `train`: the Predictor itself, or a training that gets the Predictor's state. */
  readonly train?: ModuleExport
}

/**
 * Imports the Predictor, and the training where cog.yaml names one.
 *
 * @throws {TypeError} a module does not export what cog.yaml says. What a module itself throws comes as it is.
 */
export async function loadPredictor({ file, name, train }: PredictorModules): Promise<Predictor> {
  const predictor = await importExport({ file, name })
  if (!isPredictor(predictor)) throw new TypeError(`${file} has no Predictor named ${name}: export one`)
  if (train === undefined) return predictor
  const training = await importExport(train)
  if (isTraining(training)) return { ...predictor, train: training }
  if (training === predictor && predictor.train) return predictor
  throw new TypeError(
    `cog.yaml names ${train.name} of ${train.file} as train, which is no training: make it with defineTraining, or name the ` +
      'Predictor if that has a `train`',
  )
}

async function importExport({ file, name }: ModuleExport): Promise<unknown> {
  const module: Record<string, unknown> = await import(pathToFileURL(file).href)
  return module[name]
}

function isPredictor(value: unknown): value is Predictor {
  return isObject(value) && 'predict' in value && 'input' in value && 'output' in value
}

function isTraining(value: unknown): value is Training {
  return isObject(value) && 'run' in value && 'input' in value && 'output' in value
}

function isObject(value: unknown): value is object {
  return typeof value === 'object' && value !== null
}
