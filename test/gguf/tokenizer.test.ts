import { readFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { Tokenizer } from '../../model/engine/tokenizer.js'
import { GgufFile } from '../../model/gguf/file.js'
import {
  endTokens,
  readSpecialTokens,
  readVocabulary,
  TOKENIZER_ARRAYS,
  tokenizerConfigJson,
  tokenizerJson,
} from '../../model/gguf/tokenizer.js'
import { genuine } from '../engine/genuine.js'
import { TINY } from '../export/random-checkpoint.js'
import { gemmaMetadata, TOKEN_TYPE, type TokenizerJson, type TokenTables, tokenTables } from './gemma-gguf.js'
import { type GgufValue, numbers, string, strings, u32, writeGguf } from './gguf-writer.js'

interface TokenFixture {
  texts: [string, number[], number[]?][]
}

const genuineJson = JSON.parse(readFileSync(genuine.tokenizerFile, 'utf8')) as TokenizerJson
const { texts } = JSON.parse(
  readFileSync(new URL('../engine/fixtures/tokens.gemma.json', import.meta.url), 'utf8'),
) as TokenFixture

/** A file that has a tokenizer and no tensors. */
async function open(t: Test, tables: TokenTables, more: Record<string, GgufValue> = {}): Promise<GgufFile> {
  const path = join(t.testdir(), 'tokenizer.gguf')
  await writeGguf(path, { metadata: { ...gemmaMetadata(TINY, tables), ...more }, tensors: [] })
  const file = await GgufFile.open(path, TOKENIZER_ARRAYS)
  t.teardown(() => file[Symbol.asyncDispose]())
  return file
}

async function load(t: Test, file: GgufFile): Promise<Tokenizer> {
  const vocabulary = readVocabulary(file)
  const path = join(t.testdirName, 'tokenizer.json')
  await writeFile(path, tokenizerJson(vocabulary, readSpecialTokens(file, vocabulary)))
  return Tokenizer.open(path)
}

t.test(
  "the tokenizer.json of a GGUF file is Gemma's own, entry for entry, with 580,604 merges in its order",
  async (t) => {
    const file = await open(t, tokenTables(genuineJson))
    const vocabulary = readVocabulary(file)
    const made = JSON.parse(
      Buffer.from(tokenizerJson(vocabulary, readSpecialTokens(file, vocabulary))).toString(),
    ) as TokenizerJson
    const { vocab, merges, ...model } = made.model
    const { vocab: wantedVocab, merges: wantedMerges, ...wantedModel } = genuineJson.model
    t.same({ ...made, model }, { ...genuineJson, model: wantedModel })
    t.ok(Object.entries(wantedVocab).every(([piece, id]) => vocab[piece] === id))
    t.equal(Object.keys(vocab).length, 256_000)
    t.equal(merges.length, 580_604)
    t.equal(
      merges.findIndex((merge, i) => (merge as string[]).join(' ') !== wantedMerges[i]),
      -1,
    )
  },
)

t.test(
  "it gives 2,000 texts the ids of Gemma's own, also where a converter guessed the types of pieces by their looks",
  async (t) => {
    const tables = tokenTables(genuineJson)
    // Newer converters call whatever looks special a control token, and old ones the turns user-defined, as they may the last
    // pieces of Gemma's tokenizer.model.
    for (const [id, piece] of tables.tokens.entries()) {
      if (/^<unused\d+>$|^<mask>$|^<2mass>$|^\[@BOS@\]$/.test(piece)) tables.types[id] = TOKEN_TYPE.control
      if (/_of_turn>$|^\t+$|^\[tox/.test(piece)) tables.types[id] = TOKEN_TYPE.userDefined
    }
    const tokenizer = await load(t, await open(t, tables))
    const found = await Promise.all(texts.map(([text]) => tokenizer.tokenize([text])))
    t.same(
      texts.filter(([, ids], index) => String(ids) !== String(found[index])),
      [],
    )
    const wanted = await Tokenizer.open(genuine.tokenizerFile)
    const odd = [
      '\t'.repeat(70),
      'a\t\tb',
      '<unused5><mask>',
      '[@BOS@] <2mass>',
      '[toxicity=0]<unused99>',
      '</s><h1>\n\n\n</h1>',
      '\u0000\u0007\r\n',
    ]
    for (const text of odd)
      t.same(await tokenizer.tokenize([text]), await wanted.tokenize([text]), JSON.stringify(text))
    t.same([...tokenizer.controls], [...wanted.controls])
  },
)

/** A small vocabulary with everything in it that Gemma's has. */
const SMALL: TokenTables = {
  tokens: ['<pad>', '<eos>', '<bos>', '<unk>', '<start_of_turn>', '<end_of_turn>', '<0x61>', 'b', 'c', 'bc', '▁'],
  scores: [-1000, -1000, -1000, -1000, -1000, -1000, 0, -2, -1, 0, -3],
  types: [3, 3, 3, 2, 3, 3, 6, 1, 1, 1, 1],
}

t.test('bytes fall back, and a piece may be called __proto__', async (t) => {
  const tables = {
    tokens: [...SMALL.tokens, '__proto__', 'toString'],
    scores: [...SMALL.scores, -9, -9],
    types: [...SMALL.types, TOKEN_TYPE.userDefined, 1],
  }
  const tokenizer = await load(t, await open(t, tables))
  t.same(await tokenizer.tokenize(['bc a__proto__c']), [9, 10, 6, 11, 8])
})

t.test("the configuration has the file's chat template, or Gemma's own where it has turns", async (t) => {
  const config = (vocabulary: ReturnType<typeof readVocabulary>, template?: string) =>
    tokenizerConfigJson(vocabulary, { pad: 0, eos: 1, bos: 2, unk: 3 }, template)
  const vocabulary = readVocabulary(await open(t, SMALL))
  t.equal(config(vocabulary, 'own').chat_template, 'own')
  const published = JSON.parse(readFileSync(genuine.tokenizerConfigFile, 'utf8')) as { chat_template: string }
  t.equal(config(vocabulary).chat_template, published.chat_template)
  t.match(config(vocabulary), { bos_token: '<bos>', eos_token: '<eos>', pad_token: '<pad>', unk_token: '<unk>' })
  const pieces = vocabulary.pieces.map((piece) => piece.replace('turn', 'term'))
  t.equal(config({ ...vocabulary, pieces }).chat_template, undefined)
})

t.test('an answer ends with eos, with the end of turn that the file names, and with Gemma’s', async (t) => {
  const ends = async (more: Record<string, GgufValue>, tables = SMALL) => {
    const file = await open(t, tables, more)
    const vocabulary = readVocabulary(file)
    return endTokens(file, vocabulary, readSpecialTokens(file, vocabulary))
  }
  t.same(await ends({}), [1, 5])
  t.same(await ends({ 'tokenizer.ggml.eot_token_id': u32(7) }), [1, 5, 7])
  await t.rejects(ends({ 'tokenizer.ggml.eot_token_id': u32(11) }), { name: 'GgufError', value: '11' })
  await t.rejects(ends({ 'tokenizer.ggml.eos_token_id': u32(4_000_000_000) }), {
    name: 'GgufError',
    field: /eos_token_id/,
  })
})

t.test('types that are missing are seen from the pieces', async (t) => {
  const file = await open(t, SMALL)
  const metadata = new Map(file.metadata)
  metadata.delete('tokenizer.ggml.token_type')
  const { types } = readVocabulary({ path: file.path, metadata })
  t.equal(types[6], TOKEN_TYPE.byte)
  t.equal(types[7], TOKEN_TYPE.normal)
})

t.test('tables that cannot be a tokenizer are refused by key and value:', async (t) => {
  const wrong: [about: string, tables: TokenTables, more: Record<string, GgufValue>, field: RegExp, value: RegExp][] = [
    ['another kind', SMALL, { 'tokenizer.ggml.model': string('gpt2') }, /ggml.model/, /"gpt2"/],
    ['pieces that are numbers', SMALL, { 'tokenizer.ggml.tokens': numbers('i32', [1]) }, /ggml.tokens/, /no strings/],
    ['no pieces', SMALL, { 'tokenizer.ggml.tokens': strings([]) }, /ggml.tokens/, /empty/],
    ['a piece twice', { ...SMALL, tokens: SMALL.tokens.with(7, 'c') }, {}, /ggml.tokens/, /"c" twice/],
    ['too few scores', { ...SMALL, scores: [1] }, {}, /ggml.scores/, /1 numbers/],
    ['a score that is none', { ...SMALL, scores: SMALL.scores.with(4, Number.NaN) }, {}, /element 4 .*scores/, /NaN/],
    ['scores that are texts', SMALL, { 'tokenizer.ggml.scores': strings(['1']) }, /ggml.scores/, /no list of numbers/],
    ['an unknown type', { ...SMALL, types: SMALL.types.with(2, 7) }, {}, /element 2 .*token_type/, /7/],
  ]
  for (const [about, tables, more, field, value] of wrong) {
    const file = await open(t, tables, more)
    t.throws(() => readVocabulary(file), { name: 'GgufError', field, value }, about)
  }
})
