import { readFileSync } from 'node:fs'
import t from 'tap'
import { z } from 'zod'
import type { JsonSchema } from '../../server/messages.js'
import { openApiDocument } from '../../server/openapi.js'
import { textStream } from '../../server/predictor.js'
import { NoStream, Predictor } from '../predictors/echo-stream.js'

const plain = (value: unknown) => JSON.parse(JSON.stringify(value))

function inputOf(shape: z.ZodRawShape): JsonSchema {
  return openApiDocument({ input: z.object(shape), output: z.string(), streaming: false }).components.schemas.Input!
}

t.test("the document equals what Cog's own generator writes for the same model", async (t) => {
  const file = new URL('../contract/echo-stream.openapi.json', import.meta.url)
  const cogs = JSON.parse(readFileSync(file, 'utf8'))
  t.strictSame(plain(openApiDocument(Predictor)), cogs)
  delete cogs.paths['/predictions'].post['x-cog-streaming']
  t.strictSame(plain(openApiDocument(NoStream)), cogs, 'without the mark where streams are not offered')
})

t.test('an optional input is nullable with null as default, however zod says it', async (t) => {
  const want = { type: 'integer', default: null, nullable: true, title: 'Seed', 'x-order': 0 }
  for (const seed of [z.int().optional(), z.int().nullish(), z.int().nullable().default(null)]) {
    const input = inputOf({ seed })
    t.strictSame(plain(input.properties!.seed), want)
    t.notOk('required' in input)
  }
})

t.test('titles are the names with each word capitalised', async (t) => {
  const { properties } = inputOf({ max_new_tokens: z.int(), top_p: z.number(), a2b: z.string() })
  t.strictSame(
    Object.values(properties!).map(({ title }) => title),
    ['Max New Tokens', 'Top P', 'A2b'],
  )
})

t.test('choices stand in a component of their own, with the type of their values', async (t) => {
  const { schemas } = openApiDocument({
    input: z.object({ level: z.literal([1, 2]).default(1), ratio: z.literal([0.5, 1]).describe('How much') }),
    output: z.string(),
    streaming: false,
  }).components
  t.strictSame(plain(schemas.level), { description: 'An enumeration.', enum: [1, 2], title: 'level', type: 'integer' })
  t.strictSame(plain(schemas.ratio), { description: 'An enumeration.', enum: [0.5, 1], title: 'ratio', type: 'number' })
  t.strictSame(plain(schemas.Input), {
    properties: {
      level: { allOf: [{ $ref: '#/components/schemas/level' }], default: 1, 'x-order': 0 },
      ratio: { allOf: [{ $ref: '#/components/schemas/ratio' }], description: 'How much', 'x-order': 1 },
    },
    required: ['ratio'],
    title: 'Input',
    type: 'object',
  })
})

t.test('lists, objects and alternatives are written out; only bounds that the author set appear', async (t) => {
  const { properties } = inputOf({
    messages: z.array(z.object({ role: z.enum(['user', 'model']), content: z.string() })).optional(),
    stop: z.union([z.string(), z.array(z.string())]).optional(),
    counts: z.array(z.int()).default([]),
    n: z.int().min(1).default(1),
  })
  t.strictSame(plain(properties), {
    messages: {
      type: 'array',
      items: {
        type: 'object',
        properties: { role: { type: 'string', enum: ['user', 'model'] }, content: { type: 'string' } },
        required: ['role', 'content'],
      },
      default: null,
      nullable: true,
      title: 'Messages',
      'x-order': 0,
    },
    stop: {
      anyOf: [
        { type: 'string', nullable: true },
        { type: 'array', items: { type: 'string' }, nullable: true },
      ],
      default: null,
      nullable: true,
      title: 'Stop',
      'x-order': 1,
    },
    counts: { type: 'array', items: { type: 'integer' }, default: [], title: 'Counts', 'x-order': 2 },
    n: { type: 'integer', minimum: 1, default: 1, title: 'N', 'x-order': 3 },
  })
})

t.test('the output is a text, or a list that clients join', async (t) => {
  const output = (type: Parameters<typeof openApiDocument>[0]['output']) =>
    plain(openApiDocument({ input: z.object({}), output: type, streaming: false }).components.schemas.Output)
  t.strictSame(output(z.string()), { type: 'string', title: 'Output' })
  t.strictSame(output(textStream()), {
    title: 'Output',
    type: 'array',
    items: { type: 'string' },
    'x-cog-array-type': 'iterator',
    'x-cog-array-display': 'concatenate',
  })
})

t.test('a type that no schema can express is refused with what and why', async (t) => {
  t.throws(() => inputOf({ big: z.bigint() }), { name: 'TypeError', message: /input cannot be described.*BigInt/ })
})
