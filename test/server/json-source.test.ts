import fc from 'fast-check'
import t from 'tap'
import { quoteJson, repeatedKeyFinder, withNumbersAsWritten } from '../../server/json-source.js'

const repeatedKey = repeatedKeyFinder(['id', 'input', 'webhook_events_filter'])

t.test('a key that comes twice in the outermost object is found, however it is written', async (t) => {
  const repeated: [text: string, key: string][] = [
    ['{"id":1,"id":1}', 'id'],
    [' {"a":[{"id":{}}],\n"id" : "}" , "id":\t2}', 'id'],
    ['{"input":{"id":1},"id":1,"input":2}', 'input'],
    ['{"id":1,"\\u0069\\u0064":1}', 'id'],
    ['{"webhook_events_filter":1,"webhook\\u005Fevents\\u005ffilter":1}', 'webhook_events_filter'],
    ['{"a":"\\"","id":1,"b":"\\\\","id":1}', 'id'],
    ['{"other":1,"other":2,"input":1,"id":1,"id":2,"input":1}', 'id'],
  ]
  for (const [text, key] of repeated) t.equal(repeatedKey(text), key, text)
  const fine = [
    '{}',
    '{"id":1,"input":{"id":1,"input":[{"id":1}]}}',
    '{"input":{"id":1,"id":2},"other":1,"other":2}',
    '{"id":"id","input":"\\"id\\":1,\\"id\\":2"}',
    '{"id":"\\u0069d","input":"id"}',
    '[{"id":1,"id":2}]',
    '"\\"id\\"\\u0069"',
    '["id","id"]',
  ]
  for (const text of fine) t.equal(repeatedKey(text), undefined, text)
})

t.test('any object has no repeated key until one of its entries is written again', async () => {
  fc.assert(
    fc.property(
      fc.uniqueArray(fc.constantFrom('id', 'input', 'a', 'ü')),
      fc.jsonValue({ maxDepth: 3 }),
      fc.nat(),
      (keys, value, pick) => {
        const entries = keys.map((key) => `${JSON.stringify(key)}:${JSON.stringify(value)}`)
        const again = entries[pick % Math.max(entries.length, 1)]
        const whole = `{${entries.join(', ')}}`
        const find = repeatedKeyFinder(keys)
        if (find(whole) !== undefined) return false
        return again === undefined || find(`{${[...entries, again].join(',')}}`) !== undefined
      },
    ),
  )
})

t.test('a double is shown as Cog shows it', async (t) => {
  // The words were read off coglet 0.23.1.
  const shown: [written: string, quoted: string][] = [
    ['1e2', '100.0'],
    ['1000', '1000'],
    ['1000.0', '1000.0'],
    ['-0', '-0.0'],
    ['-0.0', '-0.0'],
    ['-1', '-1'],
    ['0.5', '0.5'],
    ['1e15', '1000000000000000.0'],
    ['1e16', '1e+16'],
    ['1.5e300', '1.5e+300'],
    ['1e-7', '1e-7'],
    ['0.00001', '0.00001'],
    ['0.000001', '1e-6'],
    ['18446744073709551615', '18446744073709551615'],
    ['18446744073709551616', '1.8446744073709552e+19'],
    ['-9223372036854775809', '-9.223372036854776e+18'],
    ['123456789012345678901234567890', '1.2345678901234568e+29'],
  ]
  for (const [written, quoted] of shown) {
    t.equal(quoteJson(JSON.parse(written), withNumbersAsWritten(written)), quoted, written)
  }
})

t.test(
  'any value is quoted so that it reads back, with numbers as JavaScript has them or as they were written',
  async () => {
    fc.assert(
      fc.property(fc.jsonValue({ maxDepth: 4 }), (value) => {
        const text = JSON.stringify(value)
        const same = (quoted: string) =>
          JSON.stringify(sorted(JSON.parse(quoted))) === JSON.stringify(sorted(JSON.parse(text)))
        return (
          same(quoteJson(JSON.parse(text), undefined)) && same(quoteJson(JSON.parse(text), withNumbersAsWritten(text)))
        )
      }),
    )
  },
)

t.test('words for numbers that JSON lacks stand in the way of nothing', async (t) => {
  t.equal(quoteJson([Number.NaN, 1], withNumbersAsWritten('[NaN,1.0]')), '[a non-finite number,1.0]')
  t.strictSame(withNumbersAsWritten('{"a":-Infinity,"NaN":"1.0 NaN"}'), { a: '-Infinity', NaN: '1.0 NaN' })
})

function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted)
  if (typeof value !== 'object' || value === null) return value
  return Object.entries(value)
    .map(([key, item]) => [key, sorted(item)] as const)
    .sort(([a], [b]) => (a < b ? -1 : 1))
}
