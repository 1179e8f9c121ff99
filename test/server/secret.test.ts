import { inspect } from 'node:util'
import t from 'tap'
import { z } from 'zod'
import { definePredictor, type Predictor } from '../../server/predictor.js'
import { Secret, secret } from '../../server/secret.js'
import { testServer } from './fixtures.js'

const VALUE = 'hunter2-hunter2'

t.test('a secret shows its text to whoever asks for it, and to nobody else', async (t) => {
  const one = new Secret(VALUE)
  t.equal(one.reveal(), VALUE)
  const shown = [`${one}`, String(one), JSON.stringify({ one }), inspect({ one }, { showHidden: true, depth: 9 })]
  for (const text of shown) t.ok(!text.includes('hunter2') && text.includes('**********'), text)
})

const predictor = definePredictor({
  input: z.object({
    token: secret().optional(),
    pin: secret()
      .pipe(z.custom<Secret>((value) => (value as Secret).reveal().length > 3, 'is too short'))
      .optional(),
    keys: z.array(secret()).max(2).default([]),
    fail: z.boolean().default(false),
    wait: z.boolean().default(false),
  }),
  output: z.string(),
  streaming: false,
  check: ({ token }) => {
    if (token?.reveal() === 'refuse me') throw new Error(`${token.reveal()}: no`)
  },
  async predict({ token, fail, wait }, _state, { log, signal }) {
    log(`using ${token?.reveal()}`)
    while (wait && !signal.aborted) await new Promise((resolve) => setImmediate(resolve))
    if (fail) throw new Error(`${token?.reveal()} is wrong`)
    return `${token?.reveal().length} ${token}`
  },
}) as unknown as Predictor

t.test('no error, log, or state of a running prediction shows a secret', async (t) => {
  const server = await testServer({ predictor, concurrency: 2 })
  t.teardown(() => server.app.close())
  const send = async (input: object, method: 'POST' | 'PUT' = 'POST') => {
    const url = method === 'PUT' ? '/predictions/p' : '/predictions'
    return (await server.app.inject({ method, url, payload: { id: 'p', input } })).json()
  }
  t.match(await send({ token: VALUE }), { output: `${VALUE.length} **********`, logs: 'using **********\n' })
  t.match(await send({ token: VALUE, fail: true }), { error: 'Prediction failed: Error: ********** is wrong' })

  t.match(await send({ token: 'refuse me' }), { error: 'Prediction failed: Error: **********: no' }, 'in the check')

  const refused: [object, string, string][] = [
    [{ token: 12345678 }, 'token', '"**********" is not of type "string"'],
    [{ token: { a: VALUE } }, 'token', '"**********" is not of type "string"'],
    [
      { token: `${VALUE}\ud800` },
      'token',
      `the text has a lone surrogate at index ${VALUE.length}, which no UTF-8 can carry`,
    ],
    [{ keys: [VALUE, VALUE, VALUE] }, 'keys', '"**********" has more than 2 items'],
    [{ keys: [VALUE, 5] }, 'keys/1', '"**********" is not of type "string"'],
    [{ pin: 'abc' }, 'pin', 'is too short'],
  ]
  for (const [input, name, msg] of refused) {
    t.strictSame((await send(input)).detail, [{ loc: ['body', 'input', name], msg, type: 'value_error' }])
  }

  const running = send({ token: VALUE, keys: [VALUE], wait: true })
  while (!server.service.find('p')) await new Promise((resolve) => setImmediate(resolve))
  const state = await send({}, 'PUT')
  t.strictSame(state.input, { token: '**********', keys: '**********', wait: true })
  t.equal(server.service.cancelById('p'), true)
  await running
})
