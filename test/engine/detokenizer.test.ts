import assert from 'node:assert/strict'
import fc from 'fast-check'
import t from 'tap'
import { Tokenizer as RustTokenizer } from 'tokenizers'
import { Detokenizer } from '../../model/engine/detokenizer.js'
import { genuine, openGenuine } from './genuine.js'

const tokenizer = await openGenuine()
const reference = RustTokenizer.fromFile(genuine.tokenizerFile)
const FIRST_BYTE = 217

const isByte = (id: number) => id >= FIRST_BYTE && id < FIRST_BYTE + 256
const bytesOf = (text: string) => [...Buffer.from(text)].map((byte) => FIRST_BYTE + byte)

/** The text, and how much of it each id gave. */
function detokenize(ids: readonly number[]): string[] {
  const detokenizer = new Detokenizer(tokenizer)
  return [...ids.map((id) => detokenizer.push(id)), detokenizer.flush()]
}

/** Whether each run of byte pieces is wholly valid UTF-8, or has no valid character at all; skipped ids end no run. */
function runsAreOfOneKind(ids: readonly number[]): boolean {
  const runs: number[][] = [[]]
  for (const id of ids) {
    if (tokenizer.isControl(id)) continue
    if (isByte(id)) runs.at(-1)!.push(id - FIRST_BYTE)
    else runs.push([])
  }
  return runs.every((run) => {
    const text = Buffer.from(run).toString('utf8')
    return !text.includes('\ufffd') || [...text].every((character) => character === '\ufffd')
  })
}

const id = fc.oneof(
  { weight: 4, arbitrary: fc.integer({ min: 0, max: 255_999 }) },
  { weight: 2, arbitrary: fc.integer({ min: 0, max: 216 }) },
  { weight: 1, arbitrary: fc.integer({ min: FIRST_BYTE, max: FIRST_BYTE + 255 }) },
)

t.test("any ids give the text that Hugging Face's decoder gives", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(id, { maxLength: 40 }), async (ids) => {
      fc.pre(runsAreOfOneKind(ids))
      assert.equal(detokenize(ids).join(''), await reference.decode(ids, true))
    }),
    { numRuns: 500 },
  )
})

t.test('texts come back from their ids, and never in half a character', async () => {
  const text = fc.string({ unit: 'binary', maxLength: 30 }).map((value) => value.replaceAll('▁', ' '))
  await fc.assert(
    fc.asyncProperty(text, async (text) => {
      const pieces = detokenize(await tokenizer.tokenize([text]))
      assert.equal(pieces.join(''), text)
      assert.ok(!pieces.some((piece) => /\p{Surrogate}/u.test(piece)), 'half a character')
    }),
    { numRuns: 300 },
  )
})

t.test('characters over byte pieces go out one by one, as soon as each is whole', async (t) => {
  const pieces = detokenize(bytesOf('你🎉é!'))
  t.same(pieces, ['', '', '你', '', '', '', '🎉', '', 'é', '!', ''])
})

t.test('bytes that make no character become U+FFFD, one each', async (t) => {
  const bytes = (...values: number[]) => detokenize(values.map((value) => FIRST_BYTE + value)).join('')
  t.equal(bytes(0xf0, 0x9f, 0x8e), '\ufffd'.repeat(3), 'cut short')
  t.equal(bytes(0x80), '\ufffd', 'a continuation alone')
  t.equal(bytes(0xc0, 0xaf), '\ufffd'.repeat(2), 'an overlong form')
  t.equal(bytes(0xe0, 0x80, 0x80), '\ufffd'.repeat(3), 'an overlong form')
  t.equal(bytes(0xed, 0xa0, 0x80), '\ufffd'.repeat(3), 'a surrogate')
  t.equal(bytes(0xf4, 0x90, 0x80, 0x80), '\ufffd'.repeat(4), 'beyond U+10FFFF')
  t.equal(bytes(0xf0, 0x90, 0xe4, 0xbd, 0xa0), `${'\ufffd'.repeat(2)}你`, 'a whole character behind a broken one')
  t.equal(detokenize([FIRST_BYTE + 0xe4, 1645]).join(''), '\ufffduser', 'text within a character')
})

t.test('what Hugging Face destroys is kept: whole characters before a broken one', async (t) => {
  const ids = [...bytesOf('你'), ...bytesOf('🎉').slice(0, 2)]
  t.equal(await reference.decode(ids, true), '\ufffd'.repeat(5))
  t.equal(detokenize(ids).join(''), `你${'\ufffd'.repeat(2)}`)
})

t.test('control tokens leave no text and do not part a character; unknown ids leave none either', async (t) => {
  const [first, ...rest] = bytesOf('é')
  t.equal(detokenize([2, 106, first!, 107, ...rest, 1, 999_999]).join(''), 'é')
  t.equal(detokenize([235_248, 139, 1645]).join(''), '   user', '▁ and runs of it are blanks')
})
