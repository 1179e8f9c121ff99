import { existsSync } from 'node:fs'
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { HubError, IntegrityError } from '../../model/errors.js'
import type { Progress } from '../../model/progress.js'
import { gemmaRepository, noise } from './checkpoint.js'
import { gitBlob, sendPart, sha256 } from './fake-hub.js'
import { failure, ID, SHARD, scene } from './scene.js'

t.test('a cut connection is taken up again at the byte that was reached', async (t) => {
  const { hub, pull, clock, lines, reports } = await scene(t)
  let cuts = 0
  hub.intercept = (exchange) => {
    if (exchange.file?.name !== SHARD || cuts === 3) return false
    cuts++
    sendPart(exchange, cuts * 50_000, 'cut')
    return true
  }
  const { path } = await pull()
  t.ok((await readFile(join(path, SHARD))).equals(noise(300_000, 'shard 1')))
  t.strictSame(
    hub.requests
      .filter((request) => request.host === 'cdn' && request.path.endsWith(SHARD))
      .map((r) => r.headers.range),
    [undefined, 'bytes=50000-', 'bytes=100000-', 'bytes=150000-'],
  )
  t.equal(clock.pauses.length, 3)
  t.ok(
    clock.pauses.every((ms, i) => ms > 700 * 2 ** i && ms <= 1000 * 2 ** i),
    String(clock.pauses),
  )
  t.match(lines[0], /^model-00001-of-00002\.safetensors \(50\.0 kB of 300 kB\): .+ Trying again in \d\.\d s\.$/)
  t.ok(
    reports.every((report, i) => report.done >= (reports[i - 1]?.done ?? 0)),
    'progress never goes back',
  )
})

t.test('gives up after five cuts without progress, and the next pull goes on where it stood', async (t) => {
  const { hub, pull, home, commit, clock, reports } = await scene(t)
  hub.intercept = (exchange) => {
    if (exchange.file?.name !== SHARD) return false
    sendPart(exchange, 50_000, 'cut')
    return true
  }
  const error = await failure(pull())
  t.type(error, HubError)
  t.match(
    error.message,
    /^model-00001-of-00002\.safetensors \(50\.0 kB of 300 kB\): .*5 times in a row\. Check the network and HF_ENDPOINT, and try again: what has arrived is kept\.$/,
  )
  t.equal(clock.pauses.length, 4)
  t.notOk(existsSync(join(home, commit)), 'nothing looks whole')
  t.equal((await readFile(join(home, `${commit}.partial`, `${SHARD}.incomplete`))).length, 50_000)
  t.notOk(existsSync(join(home, `${commit}.lock`)))

  hub.intercept = () => false
  reports.length = 0
  const asked = hub.requests.length
  const { path } = await pull()
  t.ok((await readFile(join(path, SHARD))).equals(noise(300_000, 'shard 1')))
  const again = hub.requests.slice(asked).filter((request) => request.path.includes(`/resolve/`))
  t.strictSame(
    again.map((request) => [request.path, request.headers.range]),
    [[`/${ID}/resolve/${commit}/${SHARD}`, 'bytes=50000-']],
  )
  t.match(
    reports.find((report) => report.phase === 'check what is there'),
    { done: 50_000, total: 50_000 },
    'reading the part for its hash is shown as well',
  )
})

t.test('the signal ends the reading of an earlier part as well', async (t) => {
  const { hub, pull, home, commit } = await scene(t)
  const part = join(home, `${commit}.partial`, `${SHARD}.incomplete`)
  await mkdir(join(home, `${commit}.partial`), { recursive: true })
  await writeFile(part, noise(300_000, 'shard 1').subarray(0, 200_000))
  const controller = new AbortController()
  const reason = new Error('enough')
  const report = ({ phase }: Progress) => {
    if (phase === 'check what is there') controller.abort(reason)
  }
  t.equal(await failure(pull({ signal: controller.signal, report })), reason)
  t.equal((await readFile(part)).length, 200_000)
  t.notOk(hub.requests.some((request) => request.path.endsWith(SHARD)))
})

t.test('failures are counted anew after real progress', async (t) => {
  const big = noise(8_000_000, 'big')
  const { hub, pull, clock } = await scene(t, {
    'config.json': '{}',
    'tokenizer.json': '{}',
    'tokenizer_config.json': '{}',
    'model.safetensors': big,
  })
  let cuts = 0
  hub.intercept = (exchange) => {
    if (exchange.file?.name !== 'model.safetensors' || cuts === 7) return false
    cuts++
    sendPart(exchange, cuts * 1_100_000, 'cut')
    return true
  }
  const { path } = await pull()
  t.equal(clock.pauses.length, 7)
  t.ok(clock.pauses.every((ms) => ms <= 1000))
  t.ok((await readFile(join(path, 'model.safetensors'))).equals(big))
})

t.test('a connection that is open but silent is dropped and taken up again', async (t) => {
  const { hub, pull, clock, lines } = await scene(t)
  let hung = false
  hub.intercept = (exchange) => {
    if (exchange.file?.name !== SHARD || hung) return false
    hung = true
    sendPart(exchange, 1000, 'hang')
    clock.silence()
    return true
  }
  const { path } = await pull()
  t.ok((await readFile(join(path, SHARD))).equals(noise(300_000, 'shard 1')))
  t.match(lines[0], /nothing arrived for 30 s\. Trying again/)
})

t.test('a server that ignores the range makes the file start anew', async (t) => {
  const { hub, pull, lines } = await scene(t)
  let asked = 0
  hub.intercept = (exchange) => {
    if (exchange.file?.name !== SHARD) return false
    asked++
    if (asked === 1) sendPart(exchange, 50_000, 'cut')
    else exchange.response.writeHead(200).end(exchange.file.bytes)
    return true
  }
  const { path } = await pull()
  t.equal(asked, 2)
  t.ok((await readFile(join(path, SHARD))).equals(noise(300_000, 'shard 1')))
  t.equal(lines[1], `${SHARD}: the server cannot continue at byte 50000. Starting anew.`)
})

t.test('starts anew, and ends with the right bytes, after a range that is wrong:', async (t) => {
  const wrong: [string, (size: number) => Record<string, string> | undefined][] = [
    ['another start', (size) => ({ 'content-range': `bytes 40000-${size - 1}/${size}` })],
    ['another total', (size) => ({ 'content-range': `bytes 50000-${size - 1}/${size + 1}` })],
    ['no Content-Range', () => ({})],
    ['another unit', (size) => ({ 'content-range': `lines 50000-${size - 1}/${size}` })],
    ['refused (416)', () => undefined],
  ]
  for (const [name, headersFor] of wrong) {
    t.test(name, async (t) => {
      const { hub, pull } = await scene(t)
      let asked = 0
      hub.intercept = (exchange) => {
        const { file, response } = exchange
        if (file?.name !== SHARD || ++asked > 2) return false
        if (asked === 1) sendPart(exchange, 50_000, 'cut')
        else {
          const headers = headersFor(file.bytes.length)
          if (headers === undefined) response.writeHead(416).end()
          else response.writeHead(206, headers).end(file.bytes.subarray(50_000))
        }
        return true
      }
      const { path } = await pull()
      t.ok((await readFile(join(path, SHARD))).equals(noise(300_000, 'shard 1')))
      t.equal(asked, 3)
    })
  }
})

t.test('a server whose ranges are always wrong is not asked for ever', async (t) => {
  const { hub, pull, clock } = await scene(t)
  let asked = 0
  hub.intercept = (exchange) => {
    if (exchange.file?.name !== SHARD) return false
    asked++
    if (exchange.headers.range === undefined) sendPart(exchange, 200_000, 'cut')
    else exchange.response.writeHead(206, { 'content-range': 'bytes 0-9/10' }).end('0123456789')
    return true
  }
  t.type(await failure(pull()), HubError)
  t.equal(asked, 5)
  t.equal(clock.pauses.length, 4)
})

t.test('damaged bytes are thrown away and downloaded from scratch once', async (t) => {
  const { hub, pull, lines } = await scene(t)
  let asked = 0
  hub.intercept = ({ file, response }) => {
    if (file?.name !== SHARD || ++asked > 1) return false
    const bytes = Buffer.from(file.bytes)
    bytes[1234] = (bytes[1234] ?? 0) ^ 1
    response.writeHead(200).end(bytes)
    return true
  }
  const { path } = await pull()
  t.equal(asked, 2)
  t.ok((await readFile(join(path, SHARD))).equals(noise(300_000, 'shard 1')))
  t.match(lines[0], `${SHARD} is damaged (wanted sha256 ${sha256(noise(300_000, 'shard 1'))}, found sha256 `)
})

t.test(
  'bytes that are wrong twice are an IntegrityError with file, wanted and found, and nothing of them stays:',
  async (t) => {
    const right = noise(300_000, 'shard 1')
    const flipped = Buffer.from(right)
    flipped[0] = (flipped[0] ?? 0) ^ 1
    const config = Buffer.from(gemmaRepository()['config.json'] ?? '')
    const other = Buffer.from('x'.repeat(config.length))
    const cases: { name: string; file: string; send: Buffer; length?: number; wanted: string; found: string }[] = [
      {
        name: 'one bit of a large file',
        file: SHARD,
        send: flipped,
        wanted: `sha256 ${sha256(right)}`,
        found: `sha256 ${sha256(flipped)}`,
      },
      {
        name: 'a small file',
        file: 'config.json',
        send: other,
        wanted: `git-blob ${gitBlob(config)}`,
        found: `git-blob ${gitBlob(other)}`,
      },
      {
        name: 'more than announced',
        file: SHARD,
        send: Buffer.concat([right, right]),
        wanted: `sha256 ${sha256(right)}`,
        found: 'more than 300000 bytes',
      },
      {
        name: 'a length that is not the file’s',
        file: SHARD,
        send: Buffer.from('<html>'),
        length: 6,
        wanted: `sha256 ${sha256(right)}`,
        found: '6 bytes',
      },
    ]
    for (const { name, file, send, length, wanted, found } of cases) {
      t.test(name, async (t) => {
        const { hub, pull, home, commit } = await scene(t)
        let asked = 0
        hub.intercept = (exchange) => {
          if (exchange.file?.name !== file) return false
          asked++
          exchange.response.writeHead(200, length === undefined ? {} : { 'content-length': length }).end(send)
          return true
        }
        const error = await failure(pull())
        t.type(error, IntegrityError)
        t.match(error.message, `${file} is damaged: wanted ${wanted} (`)
        t.match(error.message, `found ${found}, also when downloaded from scratch`)
        t.equal(asked, 2)
        const left = await readdir(join(home, `${commit}.partial`))
        t.notOk(
          left.some((entry) => entry.startsWith(file)),
          'it is removed',
        )
        t.notOk(existsSync(join(home, commit)))
      })
    }
  },
)

t.test('a partial file that is damaged on the disk is noticed and downloaded from scratch', async (t) => {
  const { pull, home, commit, lines } = await scene(t)
  await mkdir(join(home, `${commit}.partial`), { recursive: true })
  await writeFile(join(home, `${commit}.partial`, `${SHARD}.incomplete`), Buffer.alloc(100_000))
  const { path } = await pull()
  t.ok((await readFile(join(path, SHARD))).equals(noise(300_000, 'shard 1')))
  t.match(lines[0], `${SHARD} is damaged`)
})

t.test('a partial file with all its bytes, or with too many, needs no luck', async (t) => {
  const { hub, pull, home, commit, lines } = await scene(t)
  const partial = join(home, `${commit}.partial`)
  await mkdir(partial, { recursive: true })
  await writeFile(join(partial, `${SHARD}.incomplete`), noise(300_000, 'shard 1'))
  await writeFile(join(partial, 'tokenizer.json.incomplete'), Buffer.alloc(20_000))
  const { path } = await pull()
  t.ok((await readFile(join(path, 'tokenizer.json'))).equals(noise(17_000, 'tokenizer')))
  t.ok((await readFile(join(path, SHARD))).equals(noise(300_000, 'shard 1')))
  t.notOk(hub.requests.some((request) => request.path.endsWith(SHARD)))
  t.strictSame(lines, [], 'and no alarm')
})

t.test('a busy Hub is asked again when it says, and not before', async (t) => {
  const busy: [string, number, Record<string, string>, number][] = [
    ['Retry-After in seconds', 429, { 'retry-after': '7' }, 7000],
    ['Retry-After as a date', 503, { 'retry-after': 'Thu, 01 Jan 2026 00:00:20 GMT' }, 20_000],
    ['the RateLimit header', 429, { ratelimit: '"api";r=0;t=55' }, 55_000],
  ]
  for (const [name, status, headers, waitMs] of busy) {
    t.test(name, async (t) => {
      const { hub, pull, clock } = await scene(t)
      let asked = 0
      hub.intercept = ({ path, response }) => {
        if (!path.includes('/revision/') || ++asked > 1) return false
        response.writeHead(status, headers).end()
        return true
      }
      await pull()
      t.strictSame(clock.pauses, [waitMs])
    })
  }
})

t.test('a Hub that asks for more than five minutes is not waited for', async (t) => {
  const { hub, pull, clock } = await scene(t)
  hub.intercept = ({ response }) => Boolean(response.writeHead(429, { 'retry-after': '3600' }).end())
  const error = await failure(pull())
  t.match(error.message, /answered 429, and the server asks to wait 3600 s, more than the 300 s/)
  t.strictSame(clock.pauses, [])
})

t.test('an expired link of the CDN is fetched anew from the Hub', async (t) => {
  const { hub, pull } = await scene(t)
  let refused = 0
  hub.intercept = ({ host, file, response }) => {
    if (host !== 'cdn' || file?.name !== SHARD || refused > 0) return false
    refused++
    response.writeHead(403).end('<Error><Code>AccessDenied</Code></Error>')
    return true
  }
  await pull()
  t.equal(
    hub.requests.filter((request) => request.path.includes(`/resolve/`) && request.path.endsWith(SHARD)).length,
    2,
  )
})

t.test('stops at once when the signal fires, and keeps what has arrived', async (t) => {
  const { hub, pull, home, commit } = await scene(t)
  const controller = new AbortController()
  hub.intercept = (exchange) => {
    if (exchange.file?.name !== SHARD) return false
    sendPart(exchange, 50_000, 'hang')
    return true
  }
  const reason = new Error('enough')
  const report = ({ done }: Progress) => {
    if (done > 100_000) controller.abort(reason)
  }
  t.equal(await failure(pull({ signal: controller.signal, report })), reason)
  t.equal((await readFile(join(home, `${commit}.partial`, `${SHARD}.incomplete`))).length, 50_000)
  t.notOk(existsSync(join(home, `${commit}.lock`)))
})
