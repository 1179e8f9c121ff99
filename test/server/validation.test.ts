import fc from 'fast-check'
import t from 'tap'
import { z } from 'zod'
import { openApiDocument } from '../../server/openapi.js'
import { textStream } from '../../server/predictor.js'
import { checkInput } from '../../server/validation.js'

const document = openApiDocument({
  input: z.object({
    prompt: z.string().default('x'),
    n: z.int().min(1).max(100).default(5),
    big: z.int().optional(),
    ratio: z.number().gt(0).lt(1).default(0.5),
    mode: z.enum(['plain', 'upper']).default('plain'),
    level: z.literal([1, 2]).default(1),
    code: z.string().min(2).max(5).regex(/^a.*$/).default('abc'),
    letter: z.string().min(1).max(1).default('a'),
    stop: z.array(z.string().max(3)).min(1).max(2).optional(),
    either: z.union([z.string(), z.array(z.string())]).optional(),
    messages: z.array(z.object({ role: z.enum(['user', 'model']), content: z.string() })).optional(),
    flag: z.boolean().default(false),
  }),
  output: textStream(),
  streaming: true,
})

const problems = (input: unknown) =>
  checkInput(input, { document }).problems?.map(({ loc, msg }) => `${loc[2]}: ${msg}`)

t.test('each broken rule is told in the words of Cog, and the field is named', async (t) => {
  // The words were read off coglet 0.23.1, which was given the same schema.
  const told: [unknown, string[]][] = [
    [{ n: 0 }, ['n: 0 is less than the minimum of 1']],
    [{ n: 101 }, ['n: 101 is greater than the maximum of 100']],
    [{ n: '5' }, ['n: "5" is not of type "integer"']],
    [{ n: true }, ['n: true is not of type "integer"']],
    [{ n: 5.5 }, ['n: 5.5 is not of type "integer"']],
    [{ n: 0.5 }, ['n: 0.5 is less than the minimum of 1', 'n: 0.5 is not of type "integer"']],
    [{ n: null }, ['n: null is not of type "integer"']],
    [{ ratio: 0 }, ['ratio: 0 is less than or equal to the minimum of 0']],
    [{ ratio: 1 }, ['ratio: 1 is greater than or equal to the maximum of 1']],
    [{ mode: 'loud' }, ['mode: "loud" is not one of ["plain","upper"]']],
    [{ mode: 5 }, ['mode: 5 is not one of ["plain","upper"]', 'mode: 5 is not of type "string"']],
    [{ level: 3 }, ['level: 3 is not one of [1,2]']],
    [{ code: 'a' }, ['code: "a" is shorter than 2 characters']],
    [{ code: 'abcdef' }, ['code: "abcdef" is longer than 5 characters']],
    [{ code: 'bcd' }, ['code: "bcd" does not match "^a.*$"']],
    [{ letter: '' }, ['letter: "" is shorter than 1 character']],
    [{ letter: 'ab' }, ['letter: "ab" is longer than 1 character']],
    [{ stop: [] }, ['stop: [] has less than 1 item']],
    [
      { stop: ['abcd', 'b', 3] },
      [
        'stop/0: "abcd" is longer than 3 characters',
        'stop/2: 3 is not of type "string"',
        'stop: ["abcd","b",3] has more than 2 items',
      ],
    ],
    [{ either: 5 }, ["either: 5 is not valid under any of the schemas listed in the 'anyOf' keyword"]],
    [{ messages: [{ role: 'x', content: '' }] }, ['messages/0/role: "x" is not one of ["user","model"]']],
    [
      { messages: [{ role: 'user', content: 4 }, 3] },
      ['messages/0/content: 4 is not of type "string"', 'messages/1: 3 is not of type "object"'],
    ],
    [{ flag: 'yes' }, ['flag: "yes" is not of type "boolean"']],
    ['alpha', ['__root__: "alpha" is not of type "object"']],
    [null, ['__root__: null is not of type "object"']],
    [[1], ['__root__: [1] is not of type "object"']],
  ]
  for (const [input, want] of told) t.strictSame(problems(input), want, JSON.stringify(input))
})

t.test('what Cog does not tell well is told by field, too', async (t) => {
  t.strictSame(problems({ messages: [{ role: 'user' }] }), ['messages/0: "content" is a required property'])
  t.strictSame(problems({ ratio: Number.POSITIVE_INFINITY }), ['ratio: a non-finite number is not of type "number"'])
  t.strictSame(problems({ n: Number.NaN }), ['n: a non-finite number is not of type "integer"'])
  t.strictSame(problems({ big: 2 ** 53 }), [
    'big: 9007199254740992 is beyond ±9007199254740991, where integers are no longer exact',
  ])
  for (const text of ['\ud800', 'ok \udc00', '😀\ud83d']) {
    const index = text.length - 1
    const want = `the text has a lone surrogate at index ${index}, which no UTF-8 can carry`
    t.strictSame(problems({ prompt: text }), [`prompt: ${want}`])
    t.strictSame(problems({ messages: [{ role: 'user', content: text }] }), [`messages/0/content: ${want}`])
    t.match(problems({ either: text })?.at(-1), `either: ${want}`)
  }
})

t.test('problems come by input name, missing ones last', async (t) => {
  const strict = openApiDocument({
    input: z.object({ zeta: z.string(), b: z.int(), alpha: z.string(), a: z.int() }),
    output: z.string(),
    streaming: false,
  })
  t.strictSame(checkInput({ b: 'x', a: 'y' }, { document: strict }).problems, [
    { loc: ['body', 'input', 'a'], msg: '"y" is not of type "integer"', type: 'value_error' },
    { loc: ['body', 'input', 'b'], msg: '"x" is not of type "integer"', type: 'value_error' },
    { loc: ['body', 'input', 'zeta'], msg: 'Field required', type: 'value_error.missing' },
    { loc: ['body', 'input', 'alpha'], msg: 'Field required', type: 'value_error.missing' },
  ])
})

t.test('what is right is kept as it was sent, and what is not known is dropped', async (t) => {
  const sent = { prompt: '😀', n: 5.0, stop: ['a'], big: null, unknown: 1, constructor: 2 }
  t.strictSame(checkInput(sent, { document }), { input: { prompt: '😀', n: 5, stop: ['a'], big: null } })
  t.strictSame(checkInput(JSON.parse('{"__proto__": {"n": 0}}'), { document }), { input: {} })
  t.strictSame(checkInput({ letter: '😀' }, { document }), { input: { letter: '😀' } }, 'an emoji is one character')
})

t.test('no JSON makes it throw, and what it lets through is what was sent', async () => {
  const names = Object.keys(document.components.schemas.Input!.properties!)
  const input = fc.dictionary(fc.oneof(fc.constantFrom(...names), fc.string()), fc.jsonValue({ maxDepth: 3 }))
  fc.assert(
    fc.property(fc.oneof(input, fc.jsonValue()), (value) => {
      const checked = checkInput(value, { document })
      if (checked.problems) return checked.problems.length > 0
      return Object.entries(checked.input).every(([name, item]) => (value as Record<string, unknown>)[name] === item)
    }),
  )
})

t.test('numbers are shown as they were written, where the body is known', async (t) => {
  // The words were read off coglet 0.23.1.
  const told: [input: string, msgs: string[]][] = [
    ['{"n":1e3}', ['n: 1000.0 is greater than the maximum of 100']],
    ['{"n":1000}', ['n: 1000 is greater than the maximum of 100']],
    ['{"n":-0}', ['n: -0.0 is less than the minimum of 1']],
    ['{"n":1e16}', ['n: 1e+16 is greater than the maximum of 100']],
    ['{"n":18446744073709551615}', ['n: 18446744073709551615 is greater than the maximum of 100']],
    ['{"n":18446744073709551616}', ['n: 1.8446744073709552e+19 is greater than the maximum of 100']],
    [
      '{"big":9007199254740993}',
      ['big: 9007199254740993 is beyond ±9007199254740991, where integers are no longer exact'],
    ],
    ['{"mode":1.0}', ['mode: 1.0 is not one of ["plain","upper"]', 'mode: 1.0 is not of type "string"']],
    ['{"code":[1,2.0,{"b":1E2,"a":"1.0"}]}', ['code: [1,2.0,{"a":"1.0","b":100.0}] is not of type "string"']],
    ['{"stop":["a",2.0]}', ['stop/1: 2.0 is not of type "string"']],
    ['{"messages":[{"role":3.0,"content":""}]}', ['messages/0/role: 3.0 is not one of ["user","model"]']],
    ['5.0', ['__root__: 5.0 is not of type "object"']],
  ]
  for (const [input, msgs] of told) {
    const body = `{"id": "1.0", "input": ${input}}`
    const { problems } = checkInput(JSON.parse(input), { document, body })
    t.match(
      problems?.map(({ loc, msg }) => `${loc[2]}: ${msg}`),
      msgs,
      input,
    )
  }
})
