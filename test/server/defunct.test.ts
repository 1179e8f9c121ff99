import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { spawnServer, until, untilHealth } from './spawn.js'

interface Answer {
  readonly status: string
  readonly error?: string
  readonly output?: readonly string[]
}

t.test('a device that fails ends what it had, with the reason; what waits is served when it is back', async (t) => {
  const folder = t.testdir({})
  const FAULT_FILE = join(folder, 'fault')
  const env = { FAULT_FILE, QUEUE: '8', CONTEXT_LENGTH: '256' }
  const server = await spawnServer(t, folder, { file: 'faulty.ts', env })
  const ask = async (): Promise<Answer> => {
    const input = { prompt: 'Hello', max_new_tokens: 8, temperature: 0 }
    const response = await fetch(`${server.url}/predictions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ input }),
    })
    return (await response.json()) as Answer
  }
  await untilHealth(server.url, 'READY')
  const whole = await ask()
  t.equal(whole.status, 'succeeded')

  writeFileSync(FAULT_FILE, '')
  const answers = Array.from({ length: 5 }, ask)
  const failed = await Promise.all(answers.slice(0, 3))
  for (const { status, error } of failed) {
    t.equal(status, 'failed')
    t.match(
      error,
      /^Prediction failed: StepFailedError: A step of the model failed: RunWithBinding: the device is gone/,
    )
  }
  await untilHealth(server.url, 'DEFUNCT')
  t.equal((await fetch(`${server.url}/readyz`)).status, 503)
  t.match(await ask(), { status: 'failed', error: /^Setup has not finished yet/ })
  await until(() => server.log().includes('worker died'))
  t.match(server.log(), /A step failed \(2 in a row; 3 end the engine\)/)
  t.match(server.log(), /own word that it can go on no more \(The engine has given up: 3 steps in a row have failed/)

  rmSync(FAULT_FILE)
  for (const { status, output } of await Promise.all(answers.slice(3))) {
    t.equal(status, 'succeeded', 'those that waited lost nothing')
    t.same(output?.join(''), whole.output?.join(''))
  }
  t.equal((await ask()).status, 'succeeded')
})
