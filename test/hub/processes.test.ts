import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { GEMMA_FILES, noise } from './checkpoint.js'
import { type FakeHub, sendFile, sendPart } from './fake-hub.js'
import { ID, SHARD, scene } from './scene.js'

interface Message {
  readonly phase?: string
  readonly done?: number
  readonly line?: string
  readonly path?: string
}

function start(hub: FakeHub, cacheDir: string, onMessage: (message: Message) => void): ChildProcess {
  const child = fork(fileURLToPath(new URL('pull-child.ts', import.meta.url)), [ID, hub.url, cacheDir])
  child.on('message', (message) => onMessage(message as Message))
  return child
}

t.test('of two processes that pull at once, one downloads and the other waits for it', async (t) => {
  const { hub, cacheDir, home, commit } = await scene(t)
  let othersWait: () => void = () => {}
  const waiting = new Promise<void>((resolve) => {
    othersWait = resolve
  })
  // The first shard comes only when the second process has said that it waits.
  hub.intercept = async (exchange) => {
    if (exchange.file?.name !== SHARD) return false
    await waiting
    sendFile(exchange)
    return true
  }
  const messages: Message[] = []
  const children = [1, 2].map(() =>
    start(hub, cacheDir, (message) => {
      messages.push(message)
      if (message.line?.startsWith('Another process')) othersWait()
    }),
  )
  for (const child of children) child.on('exit', othersWait) // a failure, not a hang
  const codes = await Promise.all(children.map(async (child) => (await once(child, 'exit'))[0]))

  t.strictSame(codes, [0, 0])
  t.strictSame(
    messages.flatMap((message) => message.path ?? []),
    [join(home, commit), join(home, commit)],
  )
  const lines = messages.flatMap((message) => message.line ?? [])
  t.equal(lines.length, 1)
  t.ok(children.some((child) => lines[0] === `Another process (${child.pid}) pulls ${ID}: waiting for it.`))
  t.ok(messages.some((message) => message.phase === 'wait for another download'))
  for (const name of GEMMA_FILES) {
    t.equal(hub.requests.filter((request) => request.path.endsWith(`/resolve/${commit}/${name}`)).length, 1, name)
  }
  t.strictSame((await readdir(home)).sort(), [commit, 'refs'])
})

t.test(
  'a process killed in mid-download leaves nothing that looks whole, and the next goes on from there',
  async (t) => {
    const { hub, pull, cacheDir, home, commit, clock } = await scene(t)
    hub.intercept = (exchange) => {
      if (exchange.file?.name !== SHARD) return false
      sendPart(exchange, 200_000, 'hang')
      return true
    }
    const others = GEMMA_FILES.length - 1
    const child = start(hub, cacheDir, ({ done = 0 }) => {
      // All small files and a good part of the large one are there: reports count the bytes that were written.
      if (done > 250_000) child.kill('SIGKILL')
    })
    t.strictSame(await once(child, 'exit'), [null, 'SIGKILL'])
    t.strictSame((await readdir(home)).sort(), [`${commit}.lock`, `${commit}.partial`])
    const arrived = (await readFile(join(home, `${commit}.partial`, `${SHARD}.incomplete`))).length
    t.ok(arrived > 100_000 && arrived <= 200_000, `${arrived} bytes`)
    t.equal(
      (await readdir(join(home, `${commit}.partial`))).filter((name) => !name.endsWith('.incomplete')).length,
      others,
    )

    hub.intercept = () => false
    const asked = hub.requests.length
    const { path } = await pull()
    t.ok((await readFile(join(path, SHARD))).equals(noise(300_000, 'shard 1')))
    const files = hub.requests.slice(asked).filter((request) => request.path.includes('/resolve/'))
    t.strictSame(
      files.map(({ path, headers }) => [path, headers.range]),
      [[`/${ID}/resolve/${commit}/${SHARD}`, `bytes=${arrived}-`]],
    )
    t.strictSame(clock.pauses, [], 'the dead process’s lock is taken over at once')
    t.notOk(existsSync(join(home, `${commit}.lock`)))
  },
)
