import { fileURLToPath } from 'node:url'
import t from 'tap'
import { loadPredictor } from '../../server/load-predictor.js'

const at = (file: string, name: string) => ({ file: fileURLToPath(new URL(`../../${file}`, import.meta.url)), name })
const echo = at('test/predictors/echo-stream.ts', 'Predictor')
const trainable = at('test/predictors/echo-stream.ts', 'Trainable')
const train = at('examples/train/train.ts', 'train')

t.test("a training that cog.yaml names becomes the Predictor's", async (t) => {
  t.notOk((await loadPredictor(echo)).train)
  const { predict, train: named } = await loadPredictor({ ...echo, train })
  t.equal(predict, (await loadPredictor(echo)).predict)
  t.strictSame(Object.keys(named!.input.shape), ['text', 'rounds'])
  const { train: instead } = await loadPredictor({ ...trainable, train })
  t.equal(instead, named, 'in the place of its own')
})

t.test('cog.yaml may name the Predictor as train where that has one', async (t) => {
  t.equal((await loadPredictor({ ...trainable, train: trainable })).train, (await loadPredictor(trainable)).train)
  await t.rejects(loadPredictor({ ...echo, train: echo }), /names Predictor of .*echo-stream.ts as train, which is no/)
  await t.rejects(loadPredictor({ ...echo, train: trainable }), /names Trainable of /, 'another has another state')
})

t.test('an export that is not there is told by file and name', async (t) => {
  await t.rejects(loadPredictor({ ...echo, name: 'Nobody' }), /echo-stream.ts has no Predictor named Nobody/)
  await t.rejects(
    loadPredictor({ ...echo, train: { ...train, name: 'nothing' } }),
    /names nothing of .*train.ts as train/,
  )
})
