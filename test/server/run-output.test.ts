import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { captureStream, withOutput } from '../../server/run-output.js'
import { deferred } from './fixtures.js'

/** A stream that keeps what is really written to it, and a console on it. */
function captured() {
  const passed: string[] = []
  const stream = {
    write: (chunk: string | Uint8Array) => {
      passed.push(String(chunk))
      return true
    },
  } as unknown as NodeJS.WriteStream
  return { stream, passed, release: captureStream(stream, 'stdout') }
}

t.test('runs side by side keep their lines apart, through promises, timers and generators', async (t) => {
  const { stream, passed } = captured()
  const lines: Record<string, string[]> = {}
  async function* pieces(name: string) {
    for (let i = 0; i < 3; i++) {
      stream.write(`${name} ${i}\n`)
      await sleep(0)
      setImmediate(() => stream.write(`${name} later\n`))
      yield i
    }
  }
  const run = (name: string) => {
    const mine: string[] = []
    lines[name] = mine
    return withOutput(
      (line) => mine.push(line),
      async () => {
        for await (const _ of pieces(name)) await new Promise((resolve) => process.nextTick(resolve))
        await sleep(1)
      },
    )
  }
  const runs = Promise.all(['a', 'b', 'c'].map(run))
  stream.write('outside\n')
  await runs
  for (const name of ['a', 'b', 'c']) {
    t.strictSame(
      lines[name]!.sort(),
      [0, 1, 2, 'later', 'later', 'later'].map((part) => `${name} ${part}`),
    )
  }
  t.strictSame(passed, ['outside\n'])
})

t.test('lines come whole, the last one even if it was never ended', async (t) => {
  const { stream } = captured()
  const lines: string[] = []
  const gate = deferred()
  const run = withOutput(
    (line, source) => lines.push(`${source}: ${line}`),
    async () => {
      stream.write('a')
      stream.write(Buffer.from('b\n\nc'))
      await gate.promise
    },
  )
  t.strictSame(lines, ['stdout: ab', 'stdout: '])
  gate.resolve()
  await run
  t.equal(lines.at(-1), 'stdout: c')
})

t.test('a write calls back, and a line that never ends is cut rather than kept', async (t) => {
  const { stream } = captured()
  const sizes: number[] = []
  await withOutput(
    (line) => sizes.push(line.length),
    async () => {
      await new Promise<void>((resolve) => stream.write('x'.repeat(5_000_000), 'utf8', () => resolve()))
      t.strictSame(sizes, [5_000_000])
    },
  )
  t.strictSame(sizes, [5_000_000])
})

t.test('the end of the capture gives the stream back', async (t) => {
  const { stream, passed, release } = captured()
  release()
  await withOutput(
    () => t.fail('a captured line'),
    async () => stream.write('plain'),
  )
  t.strictSame(passed, ['plain'])
})
