import { existsSync, readdirSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { fileURLToPath } from 'node:url'
import { gunzipSync, inflateSync } from 'node:zlib'
import t, { type Test } from 'tap'
import { type SpawnedServer, spawnCogFile, until, untilHealth } from '../server/spawn.js'

const root = fileURLToPath(new URL('../../examples/', import.meta.url))

/** Starts an example on the real server, in a temporary folder of its own. */
async function start(t: Test, name: string, env: Record<string, string> = {}) {
  const TMPDIR = t.testdir({})
  const server = await spawnCogFile(t, `${root}${name}/cog.yaml`, { TMPDIR, ...env })
  await untilHealth(server.url, 'READY')
  return { ...server, temporary: TMPDIR }
}

interface Answer {
  readonly status: string
  // biome-ignore lint/suspicious/noExplicitAny: each example has an output of its own
  readonly output: any
  readonly logs: string
  readonly error: string
  readonly metrics: Record<string, unknown>
}

function post(server: SpawnedServer, input: object, headers: Record<string, string> = {}): Promise<Response> {
  return fetch(`${server.url}/predictions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: JSON.stringify({ id: 'p', input }),
  })
}

async function predict(server: SpawnedServer, input: object): Promise<Answer> {
  return (await (await post(server, input)).json()) as Answer
}

async function inputOf(server: SpawnedServer): Promise<Record<string, Record<string, unknown>>> {
  const document = (await (await fetch(`${server.url}/openapi.json`)).json()) as {
    components: { schemas: { Input: { properties: Record<string, Record<string, unknown>> } } }
  }
  return document.components.schemas.Input.properties
}

/** What the server has in its temporary folder. (The loader keeps its cache there, too.) */
function left(folder: string): string[] {
  return readdirSync(folder).filter((name) => name.startsWith('bezel-'))
}

t.test('every example is tested here', async (t) => {
  t.strictSame(readdirSync(root).sort(), ['echo', 'files', 'picture', 'slow', 'train'])
})

t.test('echo gives its text back word by word, whole and as a stream', async (t) => {
  const server = await start(t, 'echo')
  const { output, metrics } = await predict(server, { text: ' to be  or not ', mode: 'upper' })
  t.strictSame(output, [' TO', ' BE', '  OR', ' NOT '])
  t.equal(metrics.words, 4)
  const events = await (await post(server, { text: 'a b' }, { accept: 'text/event-stream' })).text()
  t.match(events, /event: output\ndata: {"chunk":"a","index":0}\n\n/)
  t.match(events, /event: output\ndata: {"chunk":" b","index":1}\n\n/)
  t.strictSame((await predict(server, { text: '  ' })).output, ['  '])
  t.equal((await post(server, { text: '' })).status, 422)
})

t.test('slow: what predictions side by side print stays in the logs of each', async (t) => {
  const server = await start(t, 'slow')
  const [three, five] = await Promise.all([
    predict(server, { steps: 3, seconds: 0.02 }),
    predict(server, { steps: 5, seconds: 0.01 }),
  ])
  const lines = (count: number) => Array.from({ length: count }, (_, i) => `step ${i + 1} of ${count}\n`).join('')
  t.equal(three.logs, lines(3))
  t.equal(five.logs, lines(5))
  t.strictSame(three.output.at(-1), { step: 3, of: 3 })
  t.strictSame(three.metrics.step_seconds, [0.02, 0.02, 0.02])
  t.match(three.metrics.model, { loaded_at: /^\d{4}-/ })
  t.match(await (await fetch(`${server.url}/health-check`)).json(), {
    setup: { logs: '[predictor] loading weights\n' },
  })
})

t.test('slow ends soon after a cancel', async (t) => {
  const server = await start(t, 'slow')
  const running = predict(server, { steps: 1000, seconds: 60 })
  await until(async () => (await fetch(`${server.url}/predictions/p/cancel`, { method: 'POST' })).status === 200)
  t.equal((await running).status, 'canceled')
})

t.test('files: documents come in by URL and data URI, packed files go out, and nothing is left behind', async (t) => {
  const source = createServer((_request, response) => {
    response.writeHead(200, { 'content-type': 'text/markdown' }).end('# one\ntwo\n')
  }).listen(0, '127.0.0.1')
  t.teardown(() => source.close())
  await new Promise((resolve) => source.once('listening', resolve))
  const url = `http://127.0.0.1:${(source.address() as AddressInfo).port}/a.md`
  const server = await start(t, 'files', { FILES_FROM_PRIVATE: 'true' })
  const { documents, token, level } = await inputOf(server)
  t.strictSame(documents!.items, { type: 'string', format: 'uri', 'x-cog-accept': 'text/*' })
  t.match(token, { format: 'password', writeOnly: true, 'x-cog-secret': true, nullable: true })
  t.match(level, { allOf: [{ $ref: '#/components/schemas/level' }], default: 6 })

  const { output, logs } = await predict(server, { documents: [url, 'data:text/plain,three'] })
  const unpacked = output.packed.map((uri: string) => gunzipSync(Buffer.from(uri.split(',')[1]!, 'base64')).toString())
  t.strictSame(unpacked, ['# one\ntwo\n', 'three'])
  t.match(output.packed[0], /^data:application\/gzip;base64,/)
  t.equal(output.lines, 4)
  t.equal(logs, 'packed 10 bytes of text/markdown\npacked 5 bytes of text/plain\n')

  const refused = await predict(server, { documents: ['data:,x'], level: 9, token: 'wrong token' })
  t.equal(refused.error, 'Prediction failed: Error: Level 9 needs the token.')
  t.notOk(server.log().includes('wrong token'))
  t.equal((await predict(server, { documents: ['data:,x'], level: 9, token: 'let me in' })).status, 'succeeded')
  const folders = left(server.temporary).map((name) => `${server.temporary}/${name}`)
  t.equal(folders.length, 1)
  t.strictSame(readdirSync(folders[0]!), [], 'each prediction has cleaned up')
  server.process.kill('SIGTERM')
  t.strictSame(await server.exit, [0, null])
  t.notOk(existsSync(folders[0]!))
})

t.test('files: those of this machine cannot be fetched unless that is switched on', async (t) => {
  const server = await start(t, 'files')
  const { error } = await predict(server, { documents: [`${server.url}/openapi.json`] })
  t.match(error, /documents: 127\.0\.0\.1:\d+ has an address that files may not be fetched from/)
})

t.test('files: what a crashed worker was working on is removed, too', async (t) => {
  const source = createServer(() => {}).listen(0, '127.0.0.1')
  t.teardown(() => {
    source.closeAllConnections()
    source.close()
  })
  await new Promise((resolve) => source.once('listening', resolve))
  const url = `http://127.0.0.1:${(source.address() as AddressInfo).port}/never`
  const server = await start(t, 'files', { FILES_FROM_PRIVATE: 'true' })
  const running = predict(server, { documents: ['data:,x', url] })
  await until(() => left(server.temporary).length > 0)
  process.kill(server.workerPid, 'SIGKILL')
  t.match((await running).error, /^Worker crashed/)
  t.strictSame(left(server.temporary), [])
})

t.test('picture: a seed draws the same PNG each time', async (t) => {
  const server = await start(t, 'picture')
  const { output, metrics } = await predict(server, { width: 5, height: 4, seed: 7 })
  t.equal(metrics.seed, 7)
  t.equal((await predict(server, { width: 5, height: 4, seed: 7 })).output, output)
  t.not((await predict(server, { width: 5, height: 4, seed: 8 })).output, output)
  const png = Buffer.from(output.slice('data:image/png;base64,'.length), 'base64')
  t.equal(png.readUInt32BE(16), 5)
  t.equal(png.readUInt32BE(20), 4)
  const size = png.readUInt32BE(33)
  t.equal(png.toString('latin1', 37, 41), 'IDAT')
  t.equal(inflateSync(png.subarray(41, 41 + size)).length, 4 * (1 + 5 * 3))
  t.equal(png.toString('hex').slice(-24), '0000000049454e44ae426082', 'the end, with its known checksum')
})

t.test('train: what a training returns is what a prediction goes by', async (t) => {
  const server = await start(t, 'train')
  t.match(await (await fetch(server.url)).json(), { trainings_url: '/trainings' })
  const training = await fetch(`${server.url}/trainings`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ input: { text: 'data:text/plain,a b c a b d a b c', rounds: 2 } }),
  })
  const { output, logs, metrics } = (await training.json()) as Answer
  t.match(output.weights, /^data:application\/json;base64,/)
  t.equal(logs, 'round 1 of 2: 9 words\nround 2 of 2: 9 words\n')
  t.equal(metrics.words, 4)
  t.strictSame((await predict(server, { weights: output.weights, prompt: 'so d', words: 3 })).output, [
    ' a',
    ' b',
    ' c',
  ])
})
