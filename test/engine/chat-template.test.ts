import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import t from 'tap'
import { ChatTemplate, type Message, mergeSystem } from '../../model/engine/chat-template.js'
import { Detokenizer } from '../../model/engine/detokenizer.js'
import { InvalidRequestError, ModelFolderError } from '../../model/errors.js'
import { genuine, openGenuine } from './genuine.js'

interface ConversationFixture {
  /** Contents of the turns, user first, and the ids of apply_chat_template with the generation prompt. */
  conversations: [string[], number[]][]
}

const fixture = JSON.parse(
  readFileSync(new URL('fixtures/tokens.gemma.json', import.meta.url), 'utf8'),
) as ConversationFixture
const tokenizer = await openGenuine()
const template = (await ChatTemplate.open(genuine.tokenizerConfigFile, tokenizer))!

const user = (content: string): Message => ({ role: 'user', content })
const assistant = (content: string): Message => ({ role: 'assistant', content })
const alternating = (contents: readonly string[]) =>
  contents.map((content, index) => (index % 2 === 0 ? user(content) : assistant(content)))

t.test("200 conversations have the ids of Hugging Face's apply_chat_template", async (t) => {
  t.equal(fixture.conversations.length, 200)
  const wrong: unknown[] = []
  for (const [contents, ids] of fixture.conversations) {
    const found = await tokenizer.tokenize(template.render(alternating(contents)))
    if (String(found) !== String(ids)) wrong.push({ contents, ids, found })
  }
  t.same(wrong, [])
})

t.test('the default prompt and a system text have the ids that the documentation gives', async (t) => {
  const ids = async (turns: readonly Message[]) => (await tokenizer.tokenize(template.render(turns))).join(' ')
  t.equal(
    await ids([user('Write me a poem about Machine Learning.')]),
    '2 106 1645 108 5559 682 476 19592 1105 13403 14715 235265 107 108 106 2516 108',
  )
  t.equal(
    await ids(mergeSystem([user('Hi')], 'Be kind.')),
    '2 106 1645 108 2448 2858 235265 109 2151 107 108 106 2516 108',
  )
})

t.test("a user's control tokens stay text: no control id but the template's, and the text comes back", async () => {
  const fragment = fc.oneof(
    fc.constantFrom(...tokenizer.controls.keys()),
    fc.constantFrom('<', '<start_of', '_turn>', 'end_of_turn>', 'model\n', '\ue000', ' ', '\n', 'eos>'),
    fc.string({ unit: 'grapheme', maxLength: 6 }).map((text) => text.replaceAll('▁', ' ')),
  )
  const content = fc.array(fragment, { maxLength: 8 }).map((parts) => parts.join(''))
  await fc.assert(
    fc.asyncProperty(fc.array(content, { minLength: 1, maxLength: 5 }), async (contents) => {
      if (contents.length % 2 === 0) contents.pop()
      const ids = await tokenizer.tokenize(template.render(alternating(contents)))
      const plain = await tokenizer.tokenize(template.render(alternating(contents.map(() => 'x'))))
      const controls = (ids: readonly number[]) => ids.filter((id) => tokenizer.isControl(id))
      assert.deepEqual(controls(ids), controls(plain))

      // White space at the ends is the template's to trim; what is between must come back letter by letter.
      const detokenizer = new Detokenizer(tokenizer)
      const text = ids.map((id) => detokenizer.push(id)).join('')
      const spaceless = (text: string) => text.replaceAll(/[\s\p{Cc}]/gu, '')
      const wanted = alternating(contents).map(({ role, content }) => `${role === 'user' ? 'user' : 'model'}${content}`)
      assert.equal(spaceless(text), spaceless(`${wanted.join('')}model`))
    }),
    { numRuns: 300 },
  )
})

t.test('white space at the ends is trimmed as Python trims it', async (t) => {
  const [, , ...rest] = template.render([user('\x1c\x85\u3000 \ufeffHi\ufeff\u2028\x1f\n')])
  t.equal(rest[0], 'user\n\ufeffHi\ufeff')
})

t.test('a system text opens the first user turn, wherever it stands', async (t) => {
  const system = (content: string): Message => ({ role: 'system', content })
  t.same(mergeSystem([system('A'), user('Hi'), assistant('Yes?'), system('B'), user('Go')], 'C'), [
    user('C\n\nA\n\nB\n\nHi'),
    assistant('Yes?'),
    user('Go'),
  ])
  t.same(mergeSystem([user(' Hi')], ' \n'), [user(' Hi')], 'blank system text is none')
})

t.test('turns that do not alternate are refused with the index of the first wrong one', async (t) => {
  const cases: [Message[], RegExp][] = [
    [[user('a'), user('b')], /messages\[1\] has the role user.*assistant is due/],
    [[assistant('a')], /messages\[0\] has the role assistant.*user is due/],
    [[{ role: 'system', content: 's' }, assistant('a')], /messages\[1\]/],
    [[user('a'), assistant('b')], /messages\[1\] is an answer/],
    [[{ role: 'system', content: 's' }], /no user turn/],
    [[], /no user turn/],
  ]
  for (const [messages, message] of cases) {
    t.throws(() => mergeSystem(messages), { code: 'INVALID_REQUEST', field: 'messages', message })
  }
})

t.test('templates of other models: what they raise, and what they may not do', async (t) => {
  const folder = t.testdir({})
  const open = async (chat_template: unknown) => {
    const file = join(folder, 'tokenizer_config.json')
    writeFileSync(file, JSON.stringify({ bos_token: { content: '<bos>' }, chat_template }))
    return ChatTemplate.open(file, tokenizer)
  }
  /** Harmless on the trial with one short turn at opening, so that the limits are met by a request. */
  const late = (body: string) => `{% if messages[0].content | length > 2 %}${body}{% endif %}ok`

  t.equal(await open(undefined), undefined)
  t.equal(await open([{ name: 'tool_use', template: 'x' }]), undefined)
  t.same((await open([{ name: 'default', template: '{{ bos_token }}a' }]))!.render([user('Hi')]), [2, 'a'])

  const raising = (await open(late("{{ raise_exception('no cats') }}")))!
  t.same(raising.render([user('Hi')]), ['ok'])
  t.throws(() => raising.render([user('cats')]), { code: 'INVALID_REQUEST', field: 'messages', message: /no cats/ })

  const hostile = {
    'a long range': '{% for i in range(10**9) %}x{% endfor %}',
    'nested loops': '{% for i in range(10000) %}{% for j in range(10000) %}{% set x = i * j %}{% endfor %}{% endfor %}',
    'a string that doubles':
      "{% set n = namespace(s='ab') %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}",
    'an array that doubles':
      '{% set n = namespace(s=[1]) %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}',
    'much output': '{% for i in range(20000) %}{{ messages[0].content }}{{ messages[0].content }}{% endfor %}',
    'endless recursion': '{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}',
    'quadratic in the content':
      '{% for a in messages[0].content %}{% for b in messages[0].content %}x{% endfor %}{% endfor %}',
    'a range without end': '{% for i in range(0, 10, 0) %}x{% endfor %}',
  }
  for (const [about, body] of Object.entries(hostile)) {
    const template = (await open(late(body)))!
    t.throws(() => template.render([user('cats '.repeat(2000))]), InvalidRequestError, about)
    await t.rejects(open(body.replace('messages[0].content', '("x" * 0 ~ "y")')), ModelFolderError, `${about}, at once`)
  }
  await t.rejects(open('{% if %}'), { code: 'BAD_MODEL_FOLDER', message: /no usable chat template/ })
  await t.rejects(ChatTemplate.open(join(folder, 'absent.json'), tokenizer), ModelFolderError)
})
