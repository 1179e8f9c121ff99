import fc from 'fast-check'
import t from 'tap'
import { decodeUtf8, JsonError, MAX_JSON_DEPTH, parseJson, stringifySorted } from '../../server/json.js'

const parse = (text: string) => parseJson(decodeUtf8(Buffer.from(text)))

t.test('any JSON reads back from its sorted form, and the keys of every object are in order', async () => {
  fc.assert(
    fc.property(fc.jsonValue({ maxDepth: 4 }), (value) => {
      const plain = JSON.parse(JSON.stringify(value))
      const text = stringifySorted(plain)
      const read = JSON.parse(text, (_key, item) => {
        if (typeof item === 'object' && item !== null && !Array.isArray(item)) {
          const keys = Object.keys(item).filter((key) => !/^\d+$/.test(key))
          if (JSON.stringify(keys) !== JSON.stringify(keys.toSorted())) throw new Error(`unsorted ${keys}`)
        }
        return item
      })
      return JSON.stringify(sortDeep(read)) === JSON.stringify(sortDeep(plain))
    }),
  )
})

t.test('keys are sorted by code unit at every level, in one line', async (t) => {
  t.equal(stringifySorted({ b: [{ z: 1, a: '\n' }], B: 1, a: {} }), '{"B":1,"a":{},"b":[{"a":"\\n","z":1}]}')
})

t.test('random bytes are JSON or a JsonError, never anything else', async () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
      try {
        parseJson(decodeUtf8(bytes))
        return true
      } catch (error) {
        return error instanceof JsonError
      }
    }),
  )
})

t.test('what is not JSON is refused with the place, never with the text around it', async (t) => {
  const wrong = [
    '',
    '{',
    '{"input": {"prompt": "secret"',
    "{'secret': 1}",
    '{} secret',
    '[1,]',
    '\ufeff{}',
    'nul',
    '"\n"',
  ]
  for (const text of wrong) {
    t.throws(() => parse(text), { name: 'JsonError' }, text)
    try {
      parse(text)
    } catch (error) {
      t.notMatch((error as Error).message, /secret/)
      t.match((error as Error).message, /^unexpected (?:token|end)(?: at character \d+)?$/)
    }
  }
  t.throws(() => decodeUtf8(Buffer.from([0x22, 0xff, 0x22])), { message: 'invalid UTF-8' })
})

t.test(
  'NaN and the infinities, as Python writes them, are read as non-finite numbers outside of strings',
  async (t) => {
    t.strictSame(parse('{"a": NaN, "b": [-Infinity, "NaN \\" Infinity"], "c": Infinity}'), {
      a: Number.POSITIVE_INFINITY,
      b: [Number.POSITIVE_INFINITY, 'NaN " Infinity'],
      c: Number.POSITIVE_INFINITY,
    })
    t.throws(() => parse('{"a": NaN'), { name: 'JsonError' })
    t.throws(() => parse('{"a": NaNa}'), { name: 'JsonError' })
  },
)

t.test('nesting has a limit, and the deepest text that is refused exhausts nothing', async (t) => {
  const nested = (depth: number) => '['.repeat(depth) + ']'.repeat(depth)
  t.ok(parse(nested(MAX_JSON_DEPTH)))
  t.throws(() => parse(nested(MAX_JSON_DEPTH + 1)), { message: `nested deeper than ${MAX_JSON_DEPTH} levels` })
  t.throws(() => parse(nested(10_000)), { name: 'JsonError' })
  t.throws(() => parse(nested(1_000_000)), { name: 'JsonError' })
  t.throws(() => parse(`${'{"a":'.repeat(10_000)}1${'}'.repeat(10_000)}`), { name: 'JsonError' })
})

t.test('keys that are whole numbers come first, as JavaScript has them', async (t) => {
  t.equal(stringifySorted({ b: 1, '10': 1, a: 1, '9': 1 }), '{"9":1,"10":1,"a":1,"b":1}')
})

t.test('a key named __proto__ stays a key', async (t) => {
  const read = parse('{"__proto__": {"polluted": true}}') as Record<string, unknown>
  t.notOk('polluted' in read)
  t.equal(stringifySorted(JSON.parse('{"z":1,"__proto__":{"b":1,"a":2}}')), '{"__proto__":{"a":2,"b":1},"z":1}')
})

function sortDeep(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sortDeep)
  if (typeof value !== 'object' || value === null) return value
  return Object.entries(value)
    .map(([key, item]) => [key, sortDeep(item)] as const)
    .sort(([a], [b]) => (a < b ? -1 : 1))
}
