import * as fc from 'fast-check'
import type { JsonSchema, OpenApiDocument } from '../../../server/messages.js'

/**
 * JSON as it is written on the wire. Text rather than values: `5.0` and `5`, a key that comes twice, and a lone surrogate
 * are all things that a value cannot hold.
 */
export type JsonText = string

/** How an input stands to the schema. `nearly` breaks or stretches one rule or more, and may still be taken. */
export type Validity = 'valid' | 'nearly'

/** A member of an object. */
export type Member = readonly [key: string, value: JsonText]

/** Writes an object, with keys as often as they come. */
export function objectText(members: readonly Member[], space = ''): JsonText {
  return `{${members.map(([key, value]) => `${JSON.stringify(key)}:${space}${value}`).join(`,${space}`)}}`
}

/** Writes a text with everything beyond ASCII escaped, which is the same text to every reader. */
function escaped(text: string): JsonText {
  return JSON.stringify(text).replace(/[^ -~]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`)
}

/** Tokens that are numbers to some readers only, or to none. */
const ODD_NUMBERS = [
  '5.0',
  '5e0',
  '50e-1',
  '-0',
  '0.0',
  '-0.0',
  '1.5',
  '1e2',
  '1e308',
  '-1e308',
  '1e-400',
  '1e999',
  'NaN',
  'Infinity',
  '-Infinity',
  '9007199254740992',
  '-9223372036854775808',
  '18446744073709551615',
  '18446744073709551616',
  '123456789012345678901234567890',
  '05',
  '+5',
  '0x5',
  '5.',
  '.5',
]

const OTHER_TYPES = ['null', 'true', 'false', '[]', '{}', '["a"]', '{"a":1}', '"5"', '""', '5', '0.5']

const WORDS = fc.oneof(
  { weight: 4, arbitrary: fc.constantFrom('alpha', 'beta', 'gamma', 'a', '7') },
  {
    weight: 1,
    arbitrary: fc.constantFrom(
      'é',
      '😀',
      '👩‍👩‍👧',
      'ß',
      'e\u0301',
      '\ufeff',
      '\u0000',
      '\u007f',
      '\u2028',
      '"',
      '\\',
      '<b>&',
    ),
  },
  { weight: 1, arbitrary: fc.string({ unit: 'binary', maxLength: 4 }) },
)

/** Prompts of the echo model: its prefixes make it write lines, record metrics, or sleep before the first chunk. */
const PROMPTS = fc
  .tuple(
    fc.constantFrom('', '', '', 'log: ', 'err: ', 'metric: ', 'late: ', 'log:'),
    fc.array(WORDS, { maxLength: 4 }),
    fc.constantFrom(' ', '  ', '\n', '\t', '\u00a0', '\u3000'),
  )
  .map(([prefix, words, space]) => prefix + words.join(space))

/** What is asked for by name, so that 500 predictions take seconds: the schema allows more. */
const AFFORDABLE: Readonly<Record<string, fc.Arbitrary<JsonText>>> = {
  n: fc.integer({ min: 1, max: 6 }).map(String),
  delay: fc.constantFrom('0', '0.0', '0.001', '1e-3', '0.01', '1e-400'),
  fail_at: fc.integer({ min: -2, max: 6 }).map(String),
  prompt: PROMPTS.chain((text) => fc.constantFrom(JSON.stringify(text), escaped(text))),
}

/** A numeric delay that sleeps for long, or that only one language can sleep for. */
const SLEEPLESS: Readonly<Record<string, RegExp>> = { delay: /^(?:-|\+)?[.\d]/ }

/** A value that the schema of this input allows. */
function validValue(name: string, schema: JsonSchema): fc.Arbitrary<JsonText> {
  if (schema.enum) return fc.constantFrom(...schema.enum).map((value) => JSON.stringify(value))
  const affordable = AFFORDABLE[name]
  if (!affordable) throw new TypeError(`The input ${name} is not one of the echo model: say here what to send for it.`)
  return affordable
}

/** A value at or beyond the borders of what the schema of this input allows. */
function nearlyValidValue(name: string, schema: JsonSchema): fc.Arbitrary<JsonText> {
  const { minimum, maximum } = schema
  const borders = [minimum, maximum].flatMap((border) =>
    border === undefined ? [] : [border - 1, border, border + 1, border - 0.5].map(String),
  )
  const texts = [
    '"\\ud800"',
    '"\\udc00x"',
    '"a\\u0000b"',
    '"\\/"',
    '"\u007f"',
    '"\u0001"',
    "'a'",
    '"PLAIN"',
    '"plain "',
  ]
  const values = [...borders, ...ODD_NUMBERS, ...OTHER_TYPES, ...texts]
  return fc.constantFrom(...values.filter((value) => !SLEEPLESS[name]?.test(value)))
}

/** The schema of an input, with what its reference points at. */
function resolved(schema: JsonSchema, document: OpenApiDocument): JsonSchema {
  const reference = schema.allOf?.[0]?.$ref
  return reference === undefined ? schema : { ...schema, ...document.components.schemas[reference.split('/').at(-1)!] }
}

/** Inputs that the document's component `Input` allows, as the members of an object; optional ones come or not. */
export function validInput(document: OpenApiDocument): fc.Arbitrary<Member[]> {
  const { properties = {}, required = [] } = document.components.schemas.Input!
  const members = Object.entries(properties).map(([name, property]) => {
    const member = validValue(name, resolved(property, document)).map((value): Member => [name, value])
    return required.includes(name) ? member : fc.option(member, { nil: undefined })
  })
  return fc.tuple(...members).map((all) => all.filter((member) => member !== undefined))
}

/** The same with values replaced, inputs taken away, names that the schema does not know, and keys that come twice. */
export function nearlyValidInput(document: OpenApiDocument): fc.Arbitrary<Member[]> {
  const { properties = {} } = document.components.schemas.Input!
  const replaced = Object.entries(properties).map(([name, property]) =>
    nearlyValidValue(name, resolved(property, document)).map((value): Member => [name, value]),
  )
  const unknown = fc
    .tuple(
      fc.constantFrom('', 'N', 'seed', '__proto__', 'constructor', 'toString', 'prompt ', 'a/b', '😀'),
      fc.constantFrom(...ODD_NUMBERS, ...OTHER_TYPES, '"\\ud800"', '{"a":{"b":[1,{}]}}'),
    )
    .map((member): Member => member)
  const change = fc.oneof(
    { weight: 6, arbitrary: fc.oneof(...replaced).map((member) => ({ kind: 'replace', member }) as const) },
    {
      weight: 1,
      arbitrary: fc.constantFrom(...Object.keys(properties)).map((name) => ({ kind: 'drop', name }) as const),
    },
    { weight: 1, arbitrary: unknown.map((member) => ({ kind: 'add', member }) as const) },
    { weight: 1, arbitrary: fc.oneof(...replaced).map((member) => ({ kind: 'add', member }) as const) },
  )
  return fc
    .tuple(validInput(document), fc.array(change, { minLength: 1, maxLength: 3 }))
    .map(([members, changes]) => changes.reduce(changed, members))
}

type Change =
  | { readonly kind: 'replace' | 'add'; readonly member: Member }
  | { readonly kind: 'drop'; readonly name: string }

function changed(members: Member[], change: Change): Member[] {
  if (change.kind === 'drop') return members.filter(([name]) => name !== change.name)
  const others = change.kind === 'add' ? members : members.filter(([name]) => name !== change.member[0])
  return [...others, change.member]
}
