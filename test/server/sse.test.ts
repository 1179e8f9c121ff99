import { connect, type Socket } from 'node:net'
import t from 'tap'
import { z } from 'zod'
import { definePredictor, textStream } from '../../server/predictor.js'
import { deferred, FakeClock, testServer } from './fixtures.js'

/** Yields what the test says, when it says so. */
function puppet() {
  const queue: (string | undefined)[] = []
  let wake = deferred()
  const started: AbortSignal[] = []
  const predictor = definePredictor({
    input: z.object({}),
    output: textStream(),
    streaming: true,
    async *predict(_input, _state, context) {
      started.push(context.signal)
      const aborted = deferred()
      context.signal.addEventListener('abort', () => aborted.resolve())
      for (;;) {
        while (queue.length > 0) {
          const chunk = queue.shift()
          if (chunk === undefined) return
          yield chunk
        }
        await Promise.race([wake.promise, aborted.promise])
        if (context.signal.aborted) return
        wake = deferred()
      }
    },
  })
  const say = (...chunks: (string | undefined)[]) => {
    queue.push(...chunks)
    wake.resolve()
  }
  return { predictor, say, started }
}

class Client {
  readonly socket: Socket
  text = ''
  closed = false

  constructor(port: number) {
    this.socket = connect({ port, host: '127.0.0.1', noDelay: true })
    this.socket.setEncoding('utf8')
    this.socket.on('data', (text: string) => {
      this.text += text
    })
    this.socket.on('error', () => {})
    this.socket.on('close', () => {
      this.closed = true
    })
  }

  send(body: object, headers = 'accept: text/event-stream\r\n'): this {
    const json = JSON.stringify(body)
    this.socket.write(
      `POST /predictions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n${headers}content-length: ${json.length}\r\n\r\n${json}`,
    )
    return this
  }

  /** The body so far, without the chunks' lengths. */
  get body(): string {
    return this.text.slice(this.text.indexOf('\r\n\r\n') + 4).replace(/^[0-9a-f]+\r\n|\r\n(?:[0-9a-f]+\r\n)?/g, '')
  }
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise(setImmediate)
}

t.test('events arrive while the prediction runs, and the stream ends with it', async (t) => {
  const { predictor, say } = puppet()
  const { app, listen } = await testServer({ predictor })
  t.teardown(() => app.close())
  const client = new Client(await listen()).send({ id: 'a', input: {} })
  t.teardown(() => client.socket.destroy())
  await until(() => client.body.endsWith('event: start\ndata: {"id":"a","status":"processing"}\n\n'))
  say('one')
  await until(() => client.body.endsWith('event: output\ndata: {"chunk":"one","index":0}\n\n'))
  say('two\n"\u2028', undefined)
  await until(() => client.text.endsWith('0\r\n\r\n'))
  t.match(client.text, /^HTTP\/1.1 200 OK\r\ncontent-type: text\/event-stream\r\ncache-control: no-cache\r\n/)
  t.match(client.text, /\r\nTransfer-Encoding: chunked\r\n/)
  t.ok(
    client.body.includes(
      'event: output\ndata: {"chunk":"two\\n\\"\u2028","index":1}\n\nevent: completed\ndata: {"id":"a",',
    ),
  )
})

t.test('what happens in one turn is one write', async (t) => {
  const { predictor, say } = puppet()
  const { app, listen } = await testServer({ predictor })
  t.teardown(() => app.close())
  const writes: string[] = []
  app.server.on('connection', (socket) => {
    const write = socket.write.bind(socket)
    socket.write = ((data: string | Buffer, ...rest: never[]) => {
      writes.push(String(data))
      return write(data, ...rest)
    }) as typeof socket.write
  })
  const client = new Client(await listen()).send({ id: 'a', input: {} })
  t.teardown(() => client.socket.destroy())
  await until(() => client.text.includes('processing'))
  writes.length = 0
  say(...Array.from({ length: 50 }, (_, i) => `chunk ${i}`))
  await until(() => client.text.includes('chunk 49'))
  t.equal(writes.filter((data) => data.includes('chunk')).length, 1)
})

t.test('a quiet stream gets a comment every 15 seconds, and none while events come', async (t) => {
  const { predictor, say } = puppet()
  const clock = new FakeClock()
  const { app, listen } = await testServer({ predictor, clock })
  t.teardown(() => app.close())
  const client = new Client(await listen()).send({ id: 'a', input: {} })
  t.teardown(() => client.socket.destroy())
  await until(() => client.text.includes('processing'))
  clock.advance(14_000)
  say('one')
  await until(() => client.text.includes('one'))
  clock.advance(14_000)
  say('two')
  await until(() => client.text.includes('two'))
  t.notMatch(client.text, /keep-alive\n/)
  clock.advance(15_000)
  await until(() => client.body.endsWith('"index":1}\n\n: keep-alive\n\n'))
  clock.advance(15_000)
  await until(() => client.body.endsWith('\n\n: keep-alive\n\n: keep-alive\n\n'))
  say(undefined)
  await until(() => client.text.endsWith('0\r\n\r\n'))
  client.socket.destroy()
  await until(() => clock.waiting === 0)
  t.pass('no timer is left')
})

for (const [how, leave] of [
  ['closes', (socket: Socket) => socket.end()],
  ['resets', (socket: Socket) => socket.resetAndDestroy()],
] as const) {
  for (const [mode, headers] of [
    ['a stream', 'accept: text/event-stream\r\n'],
    ['a whole answer', ''],
  ] as const) {
    t.test(`a client that waits for ${mode} and ${how} cancels its prediction`, async (t) => {
      const { predictor, started } = puppet()
      const { app, service, listen } = await testServer({ predictor })
      t.teardown(() => app.close())
      const client = new Client(await listen()).send({ id: 'a', input: {} }, headers)
      await until(() => started.length === 1)
      t.equal(service.status, 'BUSY')
      leave(client.socket)
      await until(() => started[0]!.aborted)
      await until(() => service.status === 'READY')
      t.equal(service.find('a'), undefined)
    })
  }
}

t.test('the prediction goes on until the last of its readers leaves', async (t) => {
  const { predictor, say, started } = puppet()
  const { app, service, listen } = await testServer({ predictor })
  t.teardown(() => app.close())
  const port = await listen()
  const first = new Client(port).send({ id: 'a', input: {} })
  await until(() => first.text.includes('processing'))
  const second = new Client(port)
  second.socket.write('PUT /predictions/a HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\r\n')
  await until(() => second.text.includes('processing'))
  first.socket.resetAndDestroy()
  await until(() => first.closed)
  say('still here')
  await until(() => second.text.includes('still here'))
  t.notOk(started[0]!.aborted)
  second.socket.resetAndDestroy()
  await until(() => service.status === 'READY')
  t.ok(started[0]!.aborted)
})

t.test('one reader more than may read a prediction is refused, until another has left', async (t) => {
  const { predictor, say } = puppet()
  const { app, listen } = await testServer({ predictor, limits: { streamReaders: 2 } })
  t.teardown(() => app.close())
  const port = await listen()
  const join = () => {
    const client = new Client(port)
    client.socket.write('PUT /predictions/a HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\r\n')
    return client
  }
  const first = new Client(port).send({ id: 'a', input: {} })
  await until(() => first.text.includes('processing'))
  const second = join()
  await until(() => second.text.includes('processing'))
  const third = join()
  await until(() => third.text.includes('{"error":"Too many stream subscribers"}'))
  t.match(third.text, /^HTTP\/1.1 429 /)
  second.socket.resetAndDestroy()
  let fourth = join()
  await until(() => {
    if (fourth.text.startsWith('HTTP/1.1 429')) fourth = join()
    return fourth.text.includes('processing')
  })
  say('to both')
  await until(() => first.text.includes('to both') && fourth.text.includes('to both'))
  first.socket.destroy()
  fourth.socket.destroy()
})

t.test('a reader that does not read is cut off at the bound with the reason, its neighbour is not', async (t) => {
  const { predictor, say } = puppet()
  const lines: string[] = []
  const clock = new FakeClock()
  const { app, service, listen } = await testServer({
    predictor,
    clock,
    streamBufferBytes: 100_000,
    onLog: (line) => lines.push(line),
  })
  t.teardown(() => app.close())
  const port = await listen()
  const reader = new Client(port).send({ id: 'a', input: {} })
  t.teardown(() => reader.socket.destroy())
  await until(() => reader.text.includes('processing'))
  const sleeper = new Client(port)
  t.teardown(() => sleeper.socket.destroy())
  sleeper.socket.pause()
  sleeper.socket.write('PUT /predictions/a HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\r\n')
  const cutOff = () => lines.some((line) => line.includes('stream cut off'))
  let said = 0
  while (!cutOff()) {
    const text = `${said} ${'x'.repeat(50_000)}`
    say(text)
    await until(() => reader.text.includes(`"${said} x`))
    said++
    // The kernel's buffers come first; they hold some megabytes.
    t.ok(said < 1000, 'cut off before 50 MB')
    if (said >= 1000) return
  }
  say('the end', undefined)
  await until(() => reader.text.endsWith('0\r\n\r\n'))
  t.match(reader.body, /"the end","index":\d+\}\n\nevent: completed\n/)
  t.match(
    lines.find((line) => line.includes('cut off')),
    '"id":"a"',
  )
  t.equal(service.status, 'READY')
  sleeper.socket.resume()
  await until(() => sleeper.text.endsWith('0\r\n\r\n'))
  t.match(sleeper.body, /event: error\ndata: \{"error":"SSE stream lagged; events were dropped","skipped":\d+\}\n\n$/)
})

t.test('a lone reader that does not read loses its prediction, and its connection in the end', async (t) => {
  const { predictor, say, started } = puppet()
  const clock = new FakeClock()
  const { app, service, listen } = await testServer({ predictor, clock, streamBufferBytes: 100_000 })
  t.teardown(() => app.close())
  const port = await listen()
  const sleeper = new Client(port)
  t.teardown(() => sleeper.socket.destroy())
  sleeper.socket.pause()
  sleeper.send({ id: 'a', input: {} })
  await until(() => started.length === 1)
  for (let said = 0; !started[0]!.aborted && said < 1000; said++) {
    say('x'.repeat(50_000))
    for (let turn = 0; turn < 3; turn++) await new Promise(setImmediate)
  }
  await until(() => service.status === 'READY')
  t.ok(started[0]!.aborted)
  clock.advance(30_000)
  sleeper.socket.resume()
  await until(() => sleeper.closed)
  t.notMatch(sleeper.text, /0\r\n\r\n$/)
})

t.test('a reader that joins too late learns that the beginning is gone, and harms nobody', async (t) => {
  const { predictor, say } = puppet()
  const { app, service, listen } = await testServer({ predictor })
  t.teardown(() => app.close())
  const port = await listen()
  const first = new Client(port).send({ id: 'a', input: {} })
  t.teardown(() => first.socket.destroy())
  say(...Array.from({ length: 1500 }, () => 'x'))
  await until(() => first.text.includes('"index":1499'))
  const late = new Client(port)
  t.teardown(() => late.socket.destroy())
  late.socket.write('PUT /predictions/a HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\r\n')
  await until(() => late.text.endsWith('0\r\n\r\n'))
  t.equal(
    late.body,
    'event: error\ndata: {"error":"SSE stream replay truncated; events were dropped","skipped":477}\n\n',
  )
  late.socket.destroy()
  say('more')
  await until(() => first.text.includes('"more"'))
  first.socket.resetAndDestroy()
  await until(() => service.status === 'READY')
  t.pass('the reader that was turned away does not count as one')
})

t.test('the stream that starts a prediction has all its events, also when they come at once', async (t) => {
  const { predictor, say } = puppet()
  const { app, listen } = await testServer({ predictor })
  t.teardown(() => app.close())
  say(...Array.from({ length: 5000 }, () => 'x'), undefined)
  const client = new Client(await listen()).send({ id: 'a', input: {} })
  t.teardown(() => client.socket.destroy())
  await until(() => client.text.endsWith('0\r\n\r\n'))
  t.equal(client.text.split('event: output\n').length - 1, 5000)
  t.match(client.text, 'event: start\n')
  t.match(client.text, 'event: completed\n')
})

t.test('a client that leaves while its input is checked leaves nothing behind', async (t) => {
  const checking = deferred()
  const checked = deferred()
  const clock = new FakeClock()
  const { app, service, listen } = await testServer({
    predictor: {
      ...puppet().predictor,
      check: async () => {
        checking.resolve()
        await checked.promise
      },
    },
    clock,
  })
  t.teardown(() => app.close())
  const client = new Client(await listen()).send({ id: 'a', input: {} })
  await checking.promise
  client.socket.resetAndDestroy()
  await until(() => client.closed)
  for (let turn = 0; turn < 5; turn++) await new Promise(setImmediate)
  checked.resolve()
  await until(() => service.status === 'READY')
  t.equal(clock.waiting, 0)
})

t.test('200 aborted streams leave no slot taken, no timer and no listener', async (t) => {
  const { predictor } = puppet()
  const clock = new FakeClock()
  const { app, service, listen } = await testServer({ predictor, clock, concurrency: 4 })
  t.teardown(() => app.close())
  const port = await listen()
  for (let round = 0; round < 50; round++) {
    const clients = [0, 1, 2, 3].map((i) => new Client(port).send({ id: `${round}-${i}`, input: {} }))
    await until(() => clients.every((client) => client.text.includes('processing')))
    t.equal(service.status, 'BUSY')
    for (const [i, { socket }] of clients.entries()) i % 2 === 0 ? socket.destroy() : socket.resetAndDestroy()
    await until(() => service.status === 'READY' && clock.waiting === 0)
    for (const i of [0, 1, 2, 3]) t.equal(service.find(`${round}-${i}`), undefined)
  }
})

t.test('a body in chunks is read up to the limit', async (t) => {
  const { predictor, say } = puppet()
  const { app, listen } = await testServer({ predictor, bodyLimitBytes: 64 })
  t.teardown(() => app.close())
  const port = await listen()
  const post = (chunks: string[]) => {
    const client = new Client(port)
    t.teardown(() => client.socket.destroy())
    client.socket.write(
      'POST /predictions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n',
    )
    for (const chunk of chunks) client.socket.write(`${chunk.length.toString(16)}\r\n${chunk}\r\n`)
    client.socket.write('0\r\n\r\n')
    return client
  }
  const good = post(['{"inp', 'ut":{}}'])
  say('x', undefined)
  await until(() => good.text.includes('succeeded'))
  const bad = post(['{"input":{}}', ' '.repeat(60)])
  await until(() => bad.text.includes('length limit exceeded'))
  t.match(bad.text, /^HTTP\/1.1 413 /)
  const endless = new Client(port)
  t.teardown(() => endless.socket.destroy())
  endless.socket.write(
    `POST /predictions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1000000000\r\n\r\n${' '.repeat(200)}`,
  )
  await until(() => endless.text.includes('length limit exceeded'))
  t.match(endless.text, /^HTTP\/1.1 413 /, 'before all of it has come')
})
