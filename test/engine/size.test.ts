import t from 'tap'
import { chooseSize } from '../../model/engine/size.js'
import type { ModelFolder } from '../../model/folder.js'
import { parseGemmaConfig } from '../../model/gemma.js'
import { configJson, GEMMA_2B } from '../export/random-checkpoint.js'

const folder = {
  config: parseGemmaConfig(configJson(GEMMA_2B, 'BF16'), 'config.json'),
  activationType: 'f32',
} as ModelFolder

/** 18 layers · 2 · 1 head · 256 · 4 bytes */
const TOKEN_BYTES = 36_864

t.test('slots are as many as wanted where memory holds them', async (t) => {
  t.same(chooseSize({ folder, slots: 4, availableBytes: 4 * 8192 * TOKEN_BYTES }), { slots: 4, slotTokens: 8192 })
  t.same(chooseSize({ folder, slots: 2, contextLength: 100, availableBytes: Number.POSITIVE_INFINITY }), {
    slots: 2,
    slotTokens: 100,
  })
})

t.test('fewer are made where it does not, with a line that says why', async (t) => {
  const size = chooseSize({ folder, slots: 4, availableBytes: 3 * 8192 * TOKEN_BYTES - 1 })
  t.equal(size.slots, 2)
  t.equal(
    size.notice,
    '4 slots of 8192 tokens would take 1208 MB, but 906 MB are left: 2 are made. For more, lower CONTEXT_LENGTH or free memory.',
  )
})

t.test('a length that memory or the model does not allow is refused with what would be', async (t) => {
  t.throws(() => chooseSize({ folder, slots: 4, availableBytes: 1000 * TOKEN_BYTES }), {
    code: 'BAD_SETTING',
    setting: 'CONTEXT_LENGTH',
    message:
      'A slot of 8192 tokens takes 302 MB, but 37 MB are left for it. Set CONTEXT_LENGTH to at most 1000, or free memory.',
  })
  t.throws(() => chooseSize({ folder, slots: 4, availableBytes: -5 }), /0 MB are left.*at most 0/)
  t.throws(() => chooseSize({ folder, slots: 4, contextLength: 8193, availableBytes: 1e12 }), {
    setting: 'CONTEXT_LENGTH',
    message: 'CONTEXT_LENGTH is 8193, but the model was made for 8192 tokens. Lower it, or leave it out.',
  })
})
