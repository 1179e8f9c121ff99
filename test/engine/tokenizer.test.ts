import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { Tokenizer } from '../../model/engine/tokenizer.js'
import { ModelFolderError } from '../../model/errors.js'
import { genuine, openGenuine } from './genuine.js'

interface TokenFixture {
  /** Text, ids with control tokens taken as text, and ids with them taken as control tokens where those differ. */
  texts: [string, number[], number[]?][]
}

const fixture = JSON.parse(readFileSync(new URL('fixtures/tokens.gemma.json', import.meta.url), 'utf8')) as TokenFixture
const tokenizer = await openGenuine()

t.test("2,000 texts have Hugging Face's ids", async (t) => {
  t.equal(fixture.texts.length, 2000)
  const found = await Promise.all(fixture.texts.map(([text]) => tokenizer.tokenize([text])))
  const wrong = fixture.texts.filter(([, ids], index) => String(ids) !== String(found[index]))
  t.same(wrong, [])
})

t.test('control tokens in a text are text, unless the caller splits it', async (t) => {
  const withControls = fixture.texts.filter(([, , ids]) => ids !== undefined)
  t.ok(withControls.length > 100)
  const wrong: unknown[] = []
  for (const [text, asText, asControl] of withControls) {
    const found = await tokenizer.tokenize(tokenizer.split(text))
    if (asText.some((id) => tokenizer.isControl(id)) || String(found) !== String(asControl)) wrong.push({ text, found })
  }
  t.same(wrong, [])
})

t.test('the control tokens are those marked special in tokenizer.json', async (t) => {
  t.same(Object.fromEntries(tokenizer.controls), {
    '<pad>': 0,
    '<eos>': 1,
    '<bos>': 2,
    '<unk>': 3,
    '<start_of_turn>': 106,
    '<end_of_turn>': 107,
  })
  t.equal(tokenizer.piece(1645), 'user')
  t.equal(tokenizer.piece(256_000), undefined)
})

t.test('tokenizing leaves the event loop free', async (t) => {
  const long = fixture.texts.map(([text]) => text).join(' ')
  let ticks = 0
  const tick = () => {
    ticks++
    timer = setImmediate(tick)
  }
  let timer = setImmediate(tick)
  await tokenizer.tokenize([long.repeat(5)])
  clearImmediate(timer)
  t.ok(ticks > 10, `the loop turned ${ticks} times`)
})

t.test('a tokenizer.json of another kind is refused by name and reason', async (t) => {
  const head = readFileSync(genuine.tokenizerFile, 'utf8')
  const small = JSON.stringify({
    ...JSON.parse(head),
    added_tokens: [
      { id: 0, content: '<bos>', single_word: false, lstrip: false, rstrip: false, normalized: false, special: true },
    ],
    model: { type: 'BPE', vocab: { '<bos>': 0, a: 1, b: 2, ab: 3 }, merges: [['a', 'b']], byte_fallback: false },
  })
  const folder = t.testdir({})
  const open = (text: string) => {
    const file = join(folder, 'tokenizer.json')
    writeFileSync(file, text)
    return Tokenizer.open(file)
  }

  t.same(await (await open(small)).tokenize(['ab', 0, 'ba']), [3, 0, 2, 1], 'an unchanged one is taken')

  const cases: [about: string, text: string, message: RegExp][] = [
    ['another decoder', small.replace('"ByteFallback"', '"ByteLevel"'), /decoder/],
    ['no control tokens', small.replace('"special":true', '"special":false'), /no added token is marked special/],
    ['stripping control tokens', small.replace('"lstrip":false', '"lstrip":true'), /<bos> is matched in another way/],
    ['a missing key', small.replace('"added_tokens"', '"tokens"'), /it has no added_tokens/],
    ['a cut file', small.slice(0, 300), /is not a Gemma tokenizer/],
    ['a file cut within the model', small.slice(0, -40), /refused by the tokenizer library/],
    ['no JSON', 'hello', /\{ is missing at 0/],
    ['an empty file', '', /\{ is missing at 0/],
    ['only quotes', '{"a\\\\\\"', /ends within a string/],
  ]
  for (const [about, text, message] of cases) {
    t.not(text, small, about)
    await t.rejects(open(text), { code: 'BAD_MODEL_FOLDER', message }, about)
  }
  await t.rejects(Tokenizer.open(join(folder, 'absent.json')), ModelFolderError)
})
