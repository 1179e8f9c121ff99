import { readFileSync } from 'node:fs'
import t from 'tap'
import { parse } from 'yaml'
import { z } from 'zod'
import { imageLabels, type Target } from '../../deploy/image-labels.js'
import { openApiDocument } from '../../server/openapi.js'
import { textStream } from '../../server/predictor.js'

const openapi = openApiDocument({ input: z.object({ prompt: z.string() }), output: textStream(), streaming: true })
const cogYaml = {
  build: { gpu: true, python_version: '3.13', system_packages: ['tini'] },
  run: 'predict.ts:Predictor',
  concurrency: { max: 4 },
  environment: ['LOG_LEVEL=warn'],
}
const facts = { cogYaml, openapi, cogVersion: '0.23.1', version: '1.2.3', revision: 'f'.repeat(40) }
const labels = (target: Target) => imageLabels({ ...facts, target })

t.test("an image has the labels of Cog's builder, and the older ones with the same content", async (t) => {
  const { 'run.cog.config': config, 'run.cog.openapi_schema': schema, ...others } = labels('cpu')
  t.same(JSON.parse(schema!), JSON.parse(JSON.stringify(openapi)))
  t.same(others, {
    'run.cog.version': '0.23.1',
    'run.cog.pip_freeze': '',
    'run.cog.has_init': 'true',
    'org.cogmodel.deprecated': 'The org.cogmodel labels are deprecated. Use run.cog.',
    'org.cogmodel.cog_version': '0.23.1',
    'org.cogmodel.config': config,
    'org.cogmodel.openapi_schema': schema,
    'org.opencontainers.image.version': '1.2.3',
    'org.opencontainers.image.revision': 'f'.repeat(40),
  })
})

t.test('the config is cog.yaml as Cog completes it: `predict` for `run`, and `build` as the target is', async (t) => {
  const common = { predict: 'predict.ts:Predictor', concurrency: { max: 4 }, environment: ['LOG_LEVEL=warn'] }
  const build = { python_version: '3.13', system_packages: ['tini'] }
  t.same(JSON.parse(labels('cpu')['run.cog.config']!), { ...common, build })
  t.same(JSON.parse(labels('cuda')['run.cog.config']!), { ...common, build: { ...build, gpu: true, cuda: '13.0' } })
})

t.test("the config has a `build` where cog.yaml has none: Cog's readers take it that there is one", async (t) => {
  const config = imageLabels({ ...facts, cogYaml: { predict: 'a.ts:B' }, target: 'cpu' })['run.cog.config']!
  t.equal(config, '{"build":{},"predict":"a.ts:B"}')
})

t.test('outside of a git tree the label of the commit is left out, and not empty', async (t) => {
  const { revision: _, ...others } = facts
  t.notOk('org.opencontainers.image.revision' in imageLabels({ ...others, revision: undefined, target: 'cpu' }))
})

t.test("cog.yaml has only fields of Cog's schema, and what that requires", async (t) => {
  // config_schema_v1.0.json of replicate/cog: fields of the document and of `build`.
  const root = ['build', 'concurrency', 'environment', 'image', 'model', 'predict', 'run', 'train', 'weights']
  const build = ['cuda', 'cudnn', 'gpu', 'pre_install', 'python_packages', 'python_requirements', 'python_version']
  const buildFields = [...build, 'run', 'sdk_version', 'system_packages']
  const ours = parse(readFileSync(new URL('../../cog.yaml', import.meta.url), 'utf8'))
  t.same(
    Object.keys(ours).filter((field) => !root.includes(field)),
    [],
  )
  t.same(
    Object.keys(ours.build).filter((field) => !buildFields.includes(field)),
    [],
  )
  t.type(ours.build.python_version, 'string')
  t.notOk('run' in ours && 'predict' in ours, 'Cog refuses both at once')
})
