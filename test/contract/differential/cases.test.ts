import { readFileSync } from 'node:fs'
import * as fc from 'fast-check'
import t from 'tap'
import type { OpenApiDocument } from '../../../server/messages.js'
import { checkInput } from '../../../server/validation.js'
import { cases, HOOK } from './cases.js'
import { nearlyValidInput, objectText, validInput } from './inputs.js'

const document: OpenApiDocument = JSON.parse(
  readFileSync(new URL('../echo-stream.openapi.json', import.meta.url), 'utf8'),
)

t.test('a valid input is one that the schema allows', async () => {
  fc.assert(
    fc.property(validInput(document), (members) => {
      const checked = checkInput(JSON.parse(objectText(members)), { document })
      return checked.problems === undefined
    }),
  )
})

t.test('a nearly valid input never sleeps for long', async () => {
  fc.assert(
    fc.property(nearlyValidInput(document), (members) => {
      const delays = members.filter(([name]) => name === 'delay').map(([, value]) => Number(value))
      return delays.every((seconds) => !Number.isFinite(seconds) || (seconds >= 0 && seconds <= 0.01))
    }),
  )
})

t.test('the same seed gives the same requests, with bytes that can be shown', async (t) => {
  const draw = () => fc.sample(cases(document), { seed: 7, numRuns: 50 })
  t.same(draw(), draw())
})

t.test('nothing ends the servers, and no prediction is interfered with after its cancel', async () => {
  fc.assert(
    fc.property(cases(document), ({ request, meanwhile }) => {
      const all = [request, ...(meanwhile?.requests ?? [])]
      if (all.some(({ method, path }) => method === 'POST' && path === '/shutdown')) return false
      const own = `/predictions/${encodeURIComponent(meanwhile?.id ?? '')}/cancel`
      return !meanwhile?.requests.slice(0, -1).some(({ path }) => path === own)
    }),
    { numRuns: 1000 },
  )
})

t.test('an object is written with keys as often as they come', async (t) => {
  t.equal(
    objectText([
      ['a', '5.0'],
      ['a', `"${HOOK}"`],
    ]),
    '{"a":5.0,"a":"<hook>"}',
  )
})
