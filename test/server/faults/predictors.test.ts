import t from 'tap'
import { z } from 'zod'
import { definePredictor } from '../../../server/predictor.js'
import { FakeClock, testServer } from '../fixtures.js'
import { spawnServer, untilHealth } from '../spawn.js'

const STREAM = { accept: 'text/event-stream' }

async function post(url: string, input: object, headers: Record<string, string> = {}): Promise<Response> {
  return await fetch(`${url}/predictions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: JSON.stringify({ input }),
  })
}

t.test('while a predictor blocks its thread the HTTP side answers, and serves as before when it is over', async (t) => {
  const server = await spawnServer(t, t.testdir({}), { file: 'heavy.ts' })
  await untilHealth(server.url, 'READY')
  let over = false
  const blocking = post(server.url, { how: 'block', amount: 2 }).finally(() => {
    over = true
  })
  await untilHealth(server.url, 'BUSY')
  t.equal((await post(server.url, { how: 'answer' })).status, 409)
  t.equal((await post(server.url, { how: 'nonsense' })).status, 422)
  t.equal((await fetch(`${server.url}/readyz`)).status, 200)
  t.notOk(over, 'all of that while it was blocked')
  t.match(await (await blocking).json(), { status: 'succeeded' })
  t.match(await (await post(server.url, { how: 'answer' })).json(), { output: ['done'] })
})

t.test('100 MB of output reach a reader who reads, and cost one who does not his prediction only', async (t) => {
  const server = await spawnServer(t, t.testdir({}), { file: 'heavy.ts', concurrency: 2 })
  await untilHealth(server.url, 'READY')
  const sleeper = await post(server.url, { how: 'flood', amount: 1000 }, STREAM)
  const whole = await post(server.url, { how: 'flood', amount: 1000 })
  let bytes = 0
  for await (const part of whole.body!) bytes += (part as Uint8Array).length
  t.ok(bytes > 100e6)
  await untilHealth(server.url, 'READY')
  t.match(await (await post(server.url, { how: 'answer' })).json(), { output: ['done'] })
  await sleeper.body!.cancel()
})

t.test(
  'a setup that throws, never ends, or blocks its thread longer than it may leaves a server that says so, and ends on SIGTERM',
  async (t) => {
    for (const [name, status, ready] of [
      ['Throws', 'SETUP_FAILED', 503],
      ['Hangs', 'STARTING', 503],
      ['Blocks', 'SETUP_FAILED', 503],
    ] as const) {
      const env: Record<string, string> = name === 'Blocks' ? { COG_SETUP_TIMEOUT: '1' } : {}
      const server = await spawnServer(t, t.testdir({}), { file: 'heavy.ts', name, env })
      await untilHealth(server.url, status)
      t.equal((await post(server.url, { how: 'answer' })).status, 503)
      t.equal((await fetch(`${server.url}/readyz`)).status, ready)
      t.equal((await fetch(`${server.url}/livez`)).status, 200)
      server.process.kill('SIGTERM')
      t.strictSame(await server.exit, [0, null])
    }
  },
)

t.test('a clock of the machine that jumps an hour changes no duration', async (t) => {
  const clock = new FakeClock()
  const now = Date.now
  t.teardown(() => {
    Date.now = now
  })
  const { app, service } = await testServer({
    clock,
    predictor: definePredictor({
      input: z.object({}),
      output: z.string(),
      streaming: false,
      predict: () => {
        Date.now = () => now() + 3_600_000
        clock.advance(1000)
        return 'x'
      },
    }),
  })
  t.teardown(() => app.close())
  const response = await app.inject({
    method: 'POST',
    url: '/predictions',
    headers: { 'content-type': 'application/json' },
    payload: { input: {} },
  })
  t.match(response.json(), { status: 'succeeded', metrics: { predict_time: 1, total_time: 1, cost: 0.5 } })
  t.equal(service.status, 'READY')
})
