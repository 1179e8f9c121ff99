import t from 'tap'
import { steadyRate } from '../../bench/contestants/contestant.js'
import { type EngineReport, ratioOf, verdicts } from '../../bench/engine-report.js'

const report: EngineReport = {
  firstLoadMs: 5,
  bandwidths: [1000, 1000],
  stepBytes: { bezel: 90 },
  loads: {
    bezel: { opened: [{ loadMs: 1500, sessionMs: 1001 }], memory: [{ privateBytes: 200e6, mappedBytes: 0 }] },
  },
  speeds: { 'decode 1': { bezel: [10, 11], 'llama.cpp-usual': [8, 11] }, 'decode 4': { bezel: [30], 'llama.cpp': [] } },
  notes: [],
}

t.test('the rate of several sequences counts only while all of them generate', async (t) => {
  // From 20, when the second has begun, to 50, when the first has ended: 30, 40, 50 and 30, 40, 50.
  t.equal(
    steadyRate([
      [0, 10, 20, 30, 40, 50],
      [20, 30, 40, 50, 60],
    ]),
    (6 / 30) * 1000,
  )
  t.throws(
    () =>
      steadyRate([
        [0, 10],
        [20, 30],
      ]),
    /at the same time/,
  )
})

t.test('a ratio is the median of the rounds that both have', async (t) => {
  t.equal(ratioOf([10, 20, 30], [10, 10, 10]), 2)
  t.equal(ratioOf([10, 20], [10]), 1)
  t.equal(ratioOf([10], undefined), undefined)
})

t.test('each bar is reached, not reached, or not measured', async (t) => {
  const found = new Map(verdicts(report).map(({ bar, reached }) => [bar.split(' (')[0], reached]))
  t.equal(found.get('decode 1: bezel / llama.cpp-usual'), true)
  t.equal(found.get('decode 4: bezel / llama.cpp'), undefined)
  t.equal(found.get("decode 1: share of the memory's measured speed"), true)
  t.equal(found.get('load of the weights, ms'), false)
})
