import t from 'tap'
import { roundsInPairs } from '../../model/engine/even-rows.js'
import type { ModelFolder } from '../../model/folder.js'

t.test('large blocks are computed in pairs of rows, those of the output matrix too', async (t) => {
  const model = (weightDtype: ModelFolder['weightDtype'], blockSize: number | null, embedding?: object) =>
    roundsInPairs({ weightDtype, manifest: { blockSize, embedding } } as ModelFolder)
  t.same(
    [16, 32, 64, 128, 256].map((size) => model('q4', size)),
    [false, false, true, true, true],
  )
  t.same(
    [32, 64, 128, 256].map((size) => model('q8', size)),
    [false, false, true, true],
  )
  t.equal(model('f32', null), false)
  t.equal(model('q4', 32, { dtype: 'q8', blockSize: 128 }), true)
  t.equal(model('q4', 32, { dtype: 'q8', blockSize: 32 }), false)
})
