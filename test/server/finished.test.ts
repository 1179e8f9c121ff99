import fc from 'fast-check'
import t from 'tap'
import { FinishedPredictions } from '../../server/finished.js'
import { Prediction } from '../../server/prediction.js'
import { FakeClock } from './fixtures.js'

function finished(id: string, text = 'x') {
  const prediction = new Prediction({
    id,
    input: {},
    iterator: false,
    dollarsPerSecond: 0,
    historyLimit: 10,
    now: () => 0,
  })
  prediction.start()
  prediction.addOutput(text)
  prediction.succeed()
  return prediction
}

t.test('what is kept is found until its time is over, and then gone', async (t) => {
  const clock = new FakeClock()
  const kept = new FinishedPredictions({ keepMs: 1000, mostPredictions: 10, mostBytes: 1e6, now: clock.now })
  const a = finished('a')
  kept.add(a)
  clock.advance(999)
  kept.add(finished('b'))
  t.equal(kept.find('a'), a)
  clock.advance(1)
  t.equal(kept.find('a'), undefined)
  t.ok(kept.find('b'))
  clock.advance(999)
  t.equal(kept.find('b'), undefined)
  t.equal(kept.bytes, 0)
})

t.test('nothing is kept for no time, and nothing that alone is too large', async (t) => {
  const off = new FinishedPredictions({ keepMs: 0, mostPredictions: 10, mostBytes: 1e6, now: () => 0 })
  off.add(finished('a'))
  t.equal(off.find('a'), undefined)
  const small = new FinishedPredictions({ keepMs: 1000, mostPredictions: 10, mostBytes: 2000, now: () => 0 })
  small.add(finished('a'))
  small.add(finished('b', 'x'.repeat(2000)))
  t.ok(small.find('a'), 'it pushes nothing else out')
  t.equal(small.find('b'), undefined)
})

t.test('number and bytes stay within their bounds, and the newest of each id is the one', async () => {
  const additions = fc.array(fc.tuple(fc.nat(5), fc.nat(600)), { maxLength: 40 })
  fc.assert(
    fc.property(additions, (list) => {
      const kept = new FinishedPredictions({ keepMs: 1000, mostPredictions: 3, mostBytes: 3000, now: () => 0 })
      for (const [id, length] of list) {
        const prediction = finished(String(id), 'x'.repeat(length))
        kept.add(prediction)
        const found = [0, 1, 2, 3, 4, 5].filter((one) => kept.find(String(one)) !== undefined)
        if (found.length > 3 || kept.bytes > 3000) return false
        if (kept.find(String(id)) !== prediction) return false
        if (found.length === 0 && kept.bytes !== 0) return false
      }
      return true
    }),
  )
})
