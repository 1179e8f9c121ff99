import { appendFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { readCogYaml } from '../../server/cog-yaml.js'
import { parseServerSettings } from '../../server/config.js'
import { spawnCogFile, untilHealth, writeCogYaml } from './spawn.js'

t.test('variables stand in place of fields of cog.yaml', async (t) => {
  const folder = t.testdir({ 'a.ts': '', 'b.ts': '', 'cog.yaml': 'predict: a.ts:A\nconcurrency: {max: 4}\n' })
  const path = join(folder, 'cog.yaml')
  const of = (env: Record<string, string>) => readCogYaml(path, parseServerSettings(env))
  t.strictSame(of({}), { file: join(folder, 'a.ts'), name: 'A', concurrency: 4 })
  t.strictSame(of({ COG_MAX_CONCURRENCY: '2', COG_PREDICT_TYPE_STUB: 'b.ts:B' }), {
    file: join(folder, 'b.ts'),
    name: 'B',
    concurrency: 2,
  })
  const train = { file: join(folder, 'b.ts'), name: 'train' }
  t.match(of({ COG_TRAIN_TYPE_STUB: 'b.ts:train' }), { name: 'A', train })
  t.throws(() => of({ COG_PREDICT_TYPE_STUB: 'c.ts:C' }), {
    name: 'SettingError',
    message: /^COG_PREDICT_TYPE_STUB names c.ts, but there is no /,
  })
})

t.test("cog.yaml names the Predictor and how many run at once, in Cog's own schema", async (t) => {
  const folder = t.testdir({
    'predict.ts': '',
    'cog.yaml': 'build:\n  gpu: true\nimage: r8.im/x/y\npredict: "predict.ts:Predictor"\nconcurrency:\n  max: 4\n',
    'run.yaml': 'run: predict.ts:Runner\n',
    'train.ts': '',
    'train.yaml': 'run: predict.ts:Runner\ntrain: train.ts:train\n',
  })
  const file = join(folder, 'predict.ts')
  t.strictSame(readCogYaml(join(folder, 'cog.yaml')), { file, name: 'Predictor', concurrency: 4 })
  t.strictSame(readCogYaml(join(folder, 'run.yaml')), { file, name: 'Runner', concurrency: 1 })
  const train = { file: join(folder, 'train.ts'), name: 'train' }
  t.strictSame(readCogYaml(join(folder, 'train.yaml')), { file, name: 'Runner', train, concurrency: 1 })
})

t.test('the environment of cog.yaml reaches the Predictor, unless the process has its own', async (t) => {
  const folder = t.testdir({})
  const cogFile = writeCogYaml(folder, { file: 'environment.ts' })
  appendFileSync(cogFile, 'environment:\n  - GREETING=good day = well\n  - PLACE=cog.yaml\n')
  const { url } = await spawnCogFile(t, cogFile, { PLACE: 'the shell' })
  await untilHealth(url, 'READY')
  const answer = await fetch(`${url}/predictions`, { method: 'POST' })
  t.match(await answer.json(), { output: 'good day = well from the shell' })
})

t.test('a cog.yaml that cannot be used is refused with file, field and what is wanted', async (t) => {
  const bad: Record<string, [string, RegExp]> = {
    empty: ['', /expected object/],
    unnamed: ['build: {}\n', /must name the Predictor: predict: "predict.ts:Predictor"/],
    python: ['predict: predict.py:Predictor\n', /predict: must be "file.ts:Name"/],
    zero: ['predict: p.ts:P\nconcurrency: {max: 0}\n', /concurrency.max: .*>=1/],
    broken: ['predict: [\n', /cannot be read as YAML/],
    training: ['predict: p.ts:P\ntrain: train.py:train\n', /train: must be "file.ts:name"/],
    variable: ['predict: p.ts:P\nenvironment: [A=1, B]\n', /environment.1: must be NAME=value/],
    absent: ['predict: nowhere.ts:P\n', /names nowhere.ts, but there is no .*nowhere.ts/],
  }
  const folder = t.testdir(Object.fromEntries(Object.entries(bad).map(([name, [text]]) => [`${name}.yaml`, text])))
  for (const [name, [, message]] of Object.entries(bad)) {
    const setting = join(folder, `${name}.yaml`)
    t.throws(() => readCogYaml(setting), { name: 'SettingError', setting, message }, name)
  }
  t.throws(() => readCogYaml(join(folder, 'none.yaml')), { message: /none.yaml cannot be read as YAML: ENOENT/ })
})

t.test("the repository's own cog.yaml has the parts that the server reads", async (t) => {
  const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))))
  t.match(readCogYaml(join(root, 'cog.yaml')), { file: join(root, 'predict.ts'), name: 'Predictor', concurrency: 4 })
})
