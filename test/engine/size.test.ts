import t from 'tap'
import { chooseSize, type SizeOptions } from '../../model/engine/size.js'
import type { ModelFolder } from '../../model/folder.js'
import { parseGemmaConfig } from '../../model/gemma.js'
import { configJson, GEMMA_2B } from '../export/random-checkpoint.js'

const folder = {
  config: parseGemmaConfig(configJson(GEMMA_2B, 'BF16'), 'config.json'),
  activationType: 'f32',
  weightBytes: 1_340_000_000,
} as ModelFolder

/** 18 layers · 2 · 1 head · 256 · 4 bytes */
const TOKEN_BYTES = 36_864
/** Of the process, and of steps of 64 tokens with scores over 8,192. */
const RUN_BYTES = 256 * 2 ** 20 + 2 * 64 * (3 * 16_384 + 4 * 2048 + 2 * 9 * 256 + 8 * 8192) * 4
/** Of each slot: its cache, and five rows of the vocabulary. */
const SLOT_BYTES = 8192 * TOKEN_BYTES + 5 * 256_000 * 4

function sized(bytes: number, options: Partial<SizeOptions> = {}) {
  return chooseSize({ folder, slots: 4, chunkTokens: 64, memory: { bytes, boundBy: 'this machine' }, ...options })
}

t.test('slots are as many as wanted where memory holds them, full, beside the weights and what runs them', (t) => {
  const exact = folder.weightBytes + RUN_BYTES + 4 * SLOT_BYTES
  t.same(sized(exact), { slots: 4, slotTokens: 8192, runBytes: RUN_BYTES + 4 * 5 * 256_000 * 4 })
  t.equal(sized(exact - 1).slots, 3)
  t.match(sized(Number.POSITIVE_INFINITY, { slots: 2, contextLength: 100 }), { slots: 2, slotTokens: 100 })
  t.equal(sized(exact, { contextLength: 4096, slots: 100 }).slots, 7, 'half as long, nearly twice as many')
  t.ok(sized(exact, { chunkTokens: 256 }).slots < 4, 'longer chunks take memory, too')
  t.end()
})

t.test('fewer are made where it does not, with a line that says why', (t) => {
  const size = sized(2_500_000_000)
  t.equal(size.slots, 2)
  t.equal(
    size.notice,
    '4 slots of 8192 tokens would take 1208 MB, beside 1340 MB of weights and 354 MB to run them, but 2500 MB are left of this ' +
      'machine: 2 are made. For more, lower CONTEXT_LENGTH, free memory, or raise the limit.',
  )
  t.end()
})

t.test('a machine that is full is refused with the numbers, and with what would do', (t) => {
  t.throws(
    () => sized(1_800_000_000, { memory: { bytes: 1_800_000_000, boundBy: "the container's limit of 4000 MB" } }),
    {
      code: 'NOT_ENOUGH_MEMORY',
      availableBytes: 1_800_000_000,
      neededBytes: folder.weightBytes + RUN_BYTES + SLOT_BYTES,
      message:
        'One slot of 8192 tokens takes 302 MB, beside 1340 MB of weights and 339 MB to run them, but 1800 MB are left of the ' +
        "container's limit of 4000 MB. Set CONTEXT_LENGTH to at most 3777, free memory, or raise the limit.",
    },
  )
  t.equal(sized(1_800_000_000, { contextLength: 3777 }).slots, 1, 'what it says fits')
  t.throws(() => sized(1_800_000_000, { contextLength: 3778 }), { code: 'NOT_ENOUGH_MEMORY' }, 'and no more does')
  for (const bytes of [0, 1_400_000_000]) {
    t.throws(() => sized(bytes), { message: /Free memory, raise the limit, or serve a smaller MODEL\.$/ })
  }
  t.end()
})

t.test('a length that the model was not made for is refused', (t) => {
  t.throws(() => sized(1e12, { contextLength: 8193 }), {
    code: 'BAD_SETTING',
    setting: 'CONTEXT_LENGTH',
    message: 'CONTEXT_LENGTH is 8193, but the model was made for 8192 tokens. Lower it, or leave it out.',
  })
  t.end()
})
