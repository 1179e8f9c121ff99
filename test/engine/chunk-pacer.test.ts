import t from 'tap'
import { ChunkPacer, chunkSizes } from '../../model/engine/chunk-pacer.js'

t.test('sizes are the unit, doubled up to the chunk', async (t) => {
  t.same(chunkSizes({ unitTokens: 16, chunkTokens: 64 }), [16, 32, 64])
  t.same(chunkSizes({ unitTokens: 16, chunkTokens: 80 }), [16, 32, 64, 80])
  t.same(chunkSizes({ unitTokens: 8, chunkTokens: 8 }), [8])
})

t.test('as large as the pause allows, by what the last chunks took', async (t) => {
  const pacer = new ChunkPacer({ sizes: [16, 32, 64], pauseMs: 250 })
  t.equal(pacer.tokens, 16, 'small until something is known')
  pacer.note({ tokens: 64, ms: 64 })
  t.equal(pacer.tokens, 64, '1 ms a token')
  pacer.note({ tokens: 64, ms: 64 * 11 })
  t.equal(pacer.tokens, 32, '6 ms, half by the newest')
  pacer.note({ tokens: 32, ms: 32 * 12 })
  t.equal(pacer.tokens, 16, '9 ms')
  pacer.note({ tokens: 16, ms: 16 * 100 })
  t.equal(pacer.tokens, 16, 'never below the smallest')
  for (let chunk = 0; chunk < 8; chunk++) pacer.note({ tokens: 16, ms: 16 })
  t.equal(pacer.tokens, 64, 'and up again')
})

t.test('the short end of a prompt says nothing', async (t) => {
  const pacer = new ChunkPacer({ sizes: [16, 32], pauseMs: 100 })
  pacer.note({ tokens: 16, ms: 16 })
  pacer.note({ tokens: 1, ms: 60 })
  t.equal(pacer.tokens, 32)
})
