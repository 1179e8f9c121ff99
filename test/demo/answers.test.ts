import { readFile } from 'node:fs/promises'
import t from 'tap'
import { type Chat, Demo } from './demo.js'

interface Turn {
  /** What is asked; the key of the right answers. */
  readonly kind: string
  readonly user: string
}

interface HeldOut {
  /** For each kind every right answer, character by character. */
  readonly allowed: Readonly<Record<string, readonly string[]>>
  readonly conversations: readonly Turn[][]
  /** All that the model was taught to say, but for sums. */
  readonly whole: readonly string[]
}

/** Of all answers. Over ten rounds of seeds it was 97.1 % (model/demo/MODEL.md); one round strays by a percent. */
const LEAST_RIGHT = 0.95
/** What is not right must still be an answer, not a garbled one. */
const LEAST_WHOLE = 0.99
const SUM = /^(\d+ \+ \d+ is|\d+ plus \d+ makes) \d+\.$/

const { allowed, conversations, whole }: HeldOut = JSON.parse(
  await readFile(new URL('fixtures/held-out.json', import.meta.url), 'utf8'),
)

const demo = await Demo.open()
t.teardown(() => demo[Symbol.asyncDispose]())

/** Asks turn after turn, each with the model's own earlier answers before it. */
async function converse(turns: readonly Turn[], seed: number) {
  const chat: Chat = []
  const results: { user: string; answer: string; right: boolean; endedBy: string }[] = []
  for (const [index, turn] of turns.entries()) {
    chat.push({ role: 'user', content: turn.user })
    const { text, endedBy } = await demo.answer(chat, seed + index)
    results.push({ user: turn.user, answer: text, right: allowed[turn.kind]!.includes(text), endedBy })
    chat.push({ role: 'assistant', content: text })
  }
  return results
}

t.test("a user's questions get whole, right answers, several turns deep, at temperature 0.7", async (t) => {
  const results = (await Promise.all(conversations.map((turns, index) => converse(turns, 1000 * index)))).flat()
  const percent = (count: number) => (100 * count) / results.length
  const wrong = results.filter(({ right }) => !right)
  const garbled = results.filter(({ answer }) => !whole.includes(answer) && !SUM.test(answer))
  for (const { user, answer } of wrong) t.comment(`${JSON.stringify(user)} → ${JSON.stringify(answer)}`)
  t.ok(percent(wrong.length) <= 100 * (1 - LEAST_RIGHT), `${percent(wrong.length).toFixed(1)} % are not right`)
  t.ok(percent(garbled.length) <= 100 * (1 - LEAST_WHOLE), `${percent(garbled.length).toFixed(1)} % are garbled`)
  t.strictSame(
    results.filter(({ endedBy }) => endedBy !== 'end-token'),
    [],
    'the model closes each of its turns itself',
  )
})

t.test('asked whether it is the real Gemma, it says that it is a demo, whatever the seed', async (t) => {
  const seeds = Array.from({ length: 20 }, (_, seed) => seed)
  const answers = await Promise.all(
    seeds.map((seed) => demo.answer([{ role: 'user', content: 'Are you the real Gemma?' }], seed)),
  )
  for (const { text } of answers) t.match(text, /^No, I am .*demo/)
})

t.test('every sum of two numbers up to 20 is right', async (t) => {
  const numbers = Array.from({ length: 21 }, (_, number) => number)
  const sums = numbers.flatMap((a) => numbers.map((b) => ({ a, b })))
  const answers = await Promise.all(
    sums.map(({ a, b }) => demo.answer([{ role: 'user', content: `What is ${a} + ${b}?` }], 21 * a + b)),
  )
  for (const [index, { a, b }] of sums.entries()) {
    const { text } = answers[index]!
    if (text !== `${a} + ${b} is ${a + b}.`) t.equal(text, `${a} plus ${b} makes ${a + b}.`)
  }
  t.equal(answers.length, 441)
})

t.test('it writes the poem of the default prompt', async (t) => {
  const { text, endedBy } = await demo.answer([{ role: 'user', content: 'Write me a poem about Machine Learning.' }], 1)
  t.match(text, /^I am a demo, so my poem is small\.\n\n(.+,?;?\n){3}.+\.$/)
  t.equal(endedBy, 'end-token')
})
