import { readFileSync } from 'node:fs'
import { createServer, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import fc from 'fast-check'
import t, { type Test } from 'tap'
import { type FetchFileOptions, fetchFile } from '../../server/file-input.js'
import { isPublicAddress } from '../../server/public-address.js'

async function listen(t: Test, answer: RequestListener): Promise<string> {
  const server = createServer(answer).listen(0, '127.0.0.1')
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  await new Promise((resolve) => server.once('listening', resolve))
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

function take(t: Test, uri: string, options: Partial<FetchFileOptions> = {}) {
  const path = join(t.testdir({}), 'file')
  const signal = new AbortController().signal
  return fetchFile({ uri, path, take: () => {}, isAllowed: () => true, signal, ...options })
}

/** A `take` that allows so many bytes. */
function atMost(limit: number): (bytes: number) => void {
  let left = limit
  return (bytes) => {
    left -= bytes
    if (left < 0) throw new RangeError('too much')
  }
}

t.test('a data URI is decoded, whichever way it is written', async (t) => {
  const cases: [string, string | Buffer, string][] = [
    ['data:text/plain;base64,aGVsbG8=', 'hello', 'text/plain'],
    ['DATA:Text/HTML;charset=utf-8;BASE64,aGVsbG8', 'hello', 'text/html'],
    ['data:,a%20b%C3%A9%zz', 'a bé%zz', 'text/plain'],
    ['data:image/png;base64,', '', 'image/png'],
    ['data:application/octet-stream,%00%ff', Buffer.from([0, 255]), 'application/octet-stream'],
  ]
  for (const [uri, want, mediaType] of cases) {
    const file = await take(t, uri)
    t.match(file, { mediaType, sizeBytes: Buffer.from(want).length }, uri)
    t.strictSame(readFileSync(file.path), Buffer.from(want), uri)
  }
})

t.test('any bytes come back from a base64 data URI', async (t) => {
  const path = join(t.testdir({}), 'file')
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 100 }), async (bytes) => {
      const uri = `data:a/b;base64,${Buffer.from(bytes).toString('base64')}`
      await take(t, uri, { path, take: atMost(bytes.length) })
      return Buffer.compare(readFileSync(path), bytes) === 0
    }),
    { numRuns: 50 },
  )
  t.pass()
})

t.test('a broken data URI is refused, not half read', async (t) => {
  await t.rejects(take(t, 'data:text/plain;base64'), { name: 'FileInputError', message: /needs a comma/ })
  for (const data of ['a*b=', 'aGVsb', 'aG=VsbG8', 'a===']) {
    await t.rejects(take(t, `data:a/b;base64,${data}`), { name: 'FileInputError', message: /not base64/ }, data)
  }
})

t.test('a URL is fetched through redirects, with the type that its server tells', async (t) => {
  const url = await listen(t, (request, response) => {
    if (request.url === '/moved') response.writeHead(302, { location: 'there?a=1' }).end()
    else response.writeHead(200, { 'content-type': 'Image/PNG; x=y' }).end(request.url)
  })
  const file = await take(t, `${url}/moved`)
  t.match(file, { mediaType: 'image/png', sizeBytes: 10 })
  t.equal(readFileSync(file.path, 'utf8'), '/there?a=1')
})

t.test(
  'too many redirects, another scheme and any status but 2xx end it; no error shows the path or the query',
  async (t) => {
    const url = await listen(t, (request, response) => {
      if (request.url?.startsWith('/loop')) response.writeHead(307, { location: '/loop?secret' }).end()
      else if (request.url?.startsWith('/file')) response.writeHead(301, { location: 'file:///etc/passwd' }).end()
      else if (request.url?.startsWith('/cut'))
        response.writeHead(200, { 'content-length': 9 }).write('a', () => response.destroy())
      else response.writeHead(404).end('secret')
    })
    const cases: [string, RegExp][] = [
      ['/loop?secret', /redirects more than 5 times$/],
      ['/file?secret', /leads to file:, which is neither http nor https$/],
      ['/none?secret', /^127\.0\.0\.1:\d+ answered with status 404$/],
    ]
    for (const [path, message] of cases) {
      await t.rejects(take(t, url + path), { name: 'FileInputError', message })
    }
    await t.rejects(take(t, `${url}/cut`), { message: 'the connection ended before the file did' })
    await t.rejects(take(t, 'http://127.0.0.1:1/secret'), { message: '127.0.0.1:1 could not be read: ECONNREFUSED' })
  },
)

t.test('a file is refused as soon as its size is known to be too much, announced or not', async (t) => {
  let sent = 0
  const url = await listen(t, (request, response) => {
    if (request.url === '/announced') response.writeHead(200, { 'content-length': 1_000_000 })
    const more = () => {
      while (sent < 1e9 && response.writable && response.write('x'.repeat(100_000))) sent += 100_000
    }
    response.on('drain', more)
    more()
  })
  for (const path of ['/announced', '/endless']) {
    await t.rejects(take(t, url + path, { take: atMost(300_000) }), { message: 'too much' }, path)
  }
  t.ok(sent < 1e9)
  await t.rejects(take(t, 'data:,abcd', { take: atMost(3) }), { message: 'too much' })
  await t.rejects(take(t, 'data:;base64,YWJjZA==', { take: atMost(3) }), { message: 'too much' })
})

t.test('a canceled fetch ends, whether the server answers or not', async (t) => {
  const url = await listen(t, (request, response) => {
    if (request.url === '/half') response.write('half')
    controller.abort()
  })
  let controller = new AbortController()
  await t.rejects(take(t, `${url}/never`, { signal: controller.signal }), { name: 'AbortError' })
  controller = new AbortController()
  await t.rejects(take(t, `${url}/half`, { signal: controller.signal }), { name: 'AbortError' })
})

t.test('no address is connected to that is not allowed: literal, by name, or behind a redirect', async (t) => {
  let requests = 0
  const url = await listen(t, (_request, response) => {
    requests++
    response.writeHead(302, { location: `http://localhost:${new URL(url).port}/` }).end()
  })
  const message = /has an address that files may not be fetched from/
  const port = new URL(url).port
  const spellings = ['127.0.0.1', 'localhost', '127.1', '2130706433', '0x7f.0.0.1', '[::ffff:127.0.0.1]', '[::1]']
  for (const host of spellings) {
    await t.rejects(take(t, `http://${host}:${port}/`, { isAllowed: isPublicAddress }), { message }, host)
  }
  t.equal(requests, 0)
  const asked: string[] = []
  const isAllowed = (address: string) => asked.push(address) === 1
  await t.rejects(take(t, url, { isAllowed }), { message })
  t.equal(asked[0], '127.0.0.1')
  t.ok(asked.length > 1, 'asked again for the redirect')
  t.equal(requests, 1)
})

t.test('public addresses are those of the public internet only, in any spelling', async (t) => {
  const inside = [
    '0.0.0.0', '10.1.2.3', '100.64.0.1', '127.255.255.254', '169.254.169.254', '172.31.0.1', '192.168.1.1', '198.19.0.1',
    '224.0.0.1', '255.255.255.255', '::', '::1', 'fe80::1', 'fc00::1', 'fd12::1', 'ff02::1', '::ffff:10.0.0.1',
    '::ffff:8.8.8.8', '64:ff9b::7f00:1', '2002:7f00:1::', '2001:0:1::1', '2001:db8::1', 'no address', '',
  ] // biome-ignore format: a list
  for (const address of inside) t.notOk(isPublicAddress(address), address)
  for (const address of ['8.8.8.8', '1.1.1.1', '172.32.0.1', '2606:4700::1111', '2a00:1450::1']) {
    t.ok(isPublicAddress(address), address)
  }
  const octet = fc.integer({ min: 0, max: 255 })
  fc.assert(
    fc.property(fc.constantFrom(10, 127), octet, octet, octet, (a, b, c, d) => {
      const hex = (high: number, low: number) => (high * 256 + low).toString(16)
      return (
        !isPublicAddress(`${a}.${b}.${c}.${d}`) &&
        !isPublicAddress(`::ffff:${a}.${b}.${c}.${d}`) &&
        !isPublicAddress(`::ffff:${hex(a, b)}:${hex(c, d)}`) &&
        !isPublicAddress(`64:ff9b::${hex(a, b)}:${hex(c, d)}`)
      )
    }),
  )
})
