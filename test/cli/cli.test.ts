import { type ChildProcess, fork } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { TINY, writeRandomCheckpoint } from '../export/random-checkpoint.js'

const CLI = fileURLToPath(new URL('../../cli.ts', import.meta.url))

interface Outcome {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

interface Running {
  readonly child: ChildProcess
  readonly outcome: Promise<Outcome>
  /** The first line of stdout that the pattern fits. */
  line(pattern: RegExp): Promise<string>
}

/** As `npm start` does, under tsx and without what this test's own process has in its environment. */
function start(words: readonly string[], env: Record<string, string> = {}): Running {
  const { PATH, HOME } = process.env
  const child = fork(CLI, words, { execArgv: ['--import', 'tsx'], stdio: 'pipe', env: { PATH, HOME, ...env } })
  let stdout = ''
  let stderr = ''
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    stdout += text
  })
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    stderr += text
  })
  const outcome = new Promise<Outcome>((resolve) => child.once('close', (code) => resolve({ code, stdout, stderr })))
  const line = (pattern: RegExp) =>
    new Promise<string>((resolve, reject) => {
      const look = () => {
        const found = stdout.split('\n').find((one) => pattern.test(one))
        if (found !== undefined) resolve(found)
      }
      look()
      child.stdout?.on('data', look)
      child.once('close', () => reject(new Error(`ended without ${pattern}: ${stdout}${stderr}`)))
    })
  return { child, outcome, line }
}

const run = (words: readonly string[], env?: Record<string, string>) => start(words, env).outcome

t.test('--help lists the commands, and a command explains itself with an example', async (t) => {
  const [overview, predict] = await Promise.all([run(['--help']), run(['predict', '--help'])])
  t.equal(overview.code, 0)
  for (const command of ['serve', 'predict', 'export', 'pull']) {
    t.match(overview.stdout, new RegExp(`bezel ${command} +\\S`), command)
  }
  t.equal(predict.code, 0)
  t.match(predict.stdout, /--max-new-tokens <integer>\s+\S/)
  t.match(predict.stdout, /Example:\n {2}bezel predict/)
})

t.test('what was typed or set wrongly ends with exit code 2 and a line that says what is meant', async (t) => {
  const wrong: [string[], Record<string, string>, string][] = [
    [['sevre'], {}, '"sevre" is not a command. Do you mean bezel serve?\n'],
    [
      ['serve', '--port', '80'],
      {},
      '--port is not a flag of bezel serve. Settings come from the environment: PORT=80 bezel serve\n',
    ],
    [['serve'], { PORT: '99999' }, 'PORT is "99999", but must be a whole number from 0 to 65535.\n'],
    [['serve'], { DEVICE: 'gpu' }, 'DEVICE is "gpu", which is not legal. It must be auto, cpu or cuda.\n'],
    [
      ['serve'],
      { MODEL: './gemma-q4' },
      'MODEL is "./gemma-q4", which is neither a folder or file that exists nor a Hugging Face id. An id is owner/name, or ' +
        'owner/name@revision, such as google/gemma-2b-it; either may be followed by :file.gguf.\n',
    ],
    [['predict', 'Hi', '--temperature', 'hot'], {}, '--temperature is "hot", but must be a number.\n'],
    [['export', 'in', 'out', '--dtype', 'q3'], {}, '--dtype is "q3", but must be one of f32, f16, bf16, q4, q8.\n'],
  ]
  for (const [words, env, message] of wrong) {
    const { code, stdout, stderr } = await run(words, env)
    t.same({ code, stdout, stderr }, { code: 2, stdout: '', stderr: message }, words.join(' '))
  }
})

t.test('a checkpoint is exported, predicts in the terminal, and is served until SIGTERM', async (t) => {
  const folder = t.testdir()
  const checkpoint = join(folder, 'checkpoint')
  const model = join(folder, 'model')
  await writeRandomCheckpoint(checkpoint)

  const exported = await run(['export', checkpoint, model, '--dtype', 'f32'])
  t.equal(exported.code, 0, exported.stderr)
  t.ok(existsSync(join(model, 'engine.onnx')))
  const again = await run(['export', checkpoint, model, '--dtype', 'f32'])
  t.equal(again.code, 1)
  t.match(again.stderr, /exists and is not empty/)

  const env = { MODEL: model, PORT: '0', MODEL_CACHE: join(folder, 'cache') }
  const seeded = ['predict', 'Hi', '--max-new-tokens', '4', '--seed', '7']
  const [one, two] = await Promise.all([run(seeded, env), run(seeded, env)])
  t.equal(one.code, 0, one.stderr)
  t.match(one.stderr, /succeeded · \d+ tokens in, \d+ out · first after [\d.]+ s · .* · \$[\d.]+\n/)
  t.equal(one.stdout, two.stdout, 'the same seed gives the same text')

  const server = start(['serve', '--await-explicit-shutdown=1'], env)
  await server.line(/"msg":"ready"/)
  const [url] = /http:[^"]+/.exec(await server.line(/listening on/)) ?? []
  const answer = await fetch(`${url}/predictions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ input: { prompt: 'Hi', max_new_tokens: 4, seed: 7 } }),
  })
  const body = (await answer.json()) as { status: string; output: string[] }
  t.equal(body.status, 'succeeded')
  t.equal(`${body.output.join('')}\n`, one.stdout, 'and over HTTP, too')
  server.child.kill('SIGTERM')
  t.equal((await fetch(`${url}/readyz`)).status, 200, 'SIGTERM is ignored, as the flag says')
  t.equal((await fetch(`${url}/shutdown`, { method: 'POST' })).status, 200)
  const ended = await server.outcome
  t.equal(ended.code, 0, ended.stderr)
  t.notMatch(ended.stdout, /Hi/, 'no prompt in the log')
})

t.test('a checkpoint as MODEL is exported once, to MODEL_CACHE', async (t) => {
  const folder = t.testdir()
  const checkpoint = join(folder, 'checkpoint')
  // Wide enough for what is exported by default: blocks of 128 weights.
  await writeRandomCheckpoint(checkpoint, { shape: { ...TINY, hiddenSize: 128 } })
  const env = { MODEL: checkpoint, PORT: '0', MODEL_CACHE: join(folder, 'cache') }
  for (const expected of [1, 0]) {
    const server = start(['serve'], env)
    await server.line(/"msg":"ready"/)
    server.child.kill('SIGTERM')
    const { code, stdout } = await server.outcome
    t.equal(code, 0)
    t.equal(stdout.split('this is done once').length - 1, expected)
  }
})
