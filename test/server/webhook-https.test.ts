import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { Predictor as EchoStream } from '../predictors/echo-stream.js'
import { testServer } from './fixtures.js'
import { spawnServer, until, untilHealth } from './spawn.js'

const fixture = (name: string) => fileURLToPath(new URL(`fixtures/${name}`, import.meta.url))
const CERTIFICATE = fixture('localhost-cert.pem')

/** A receiver behind TLS, with a certificate for `localhost` that no one has signed but itself. */
async function receiver(t: Test) {
  const calls: { path: string; status: string; serverName: string | false | undefined }[] = []
  const tls = { cert: readFileSync(CERTIFICATE), key: readFileSync(fixture('localhost-key.pem')) }
  const server = createServer(tls, async (request, response) => {
    let text = ''
    for await (const part of request) text += part
    const { servername: serverName } = request.socket as typeof request.socket & { servername?: string | false }
    calls.push({ path: request.url!, status: JSON.parse(text).status, serverName })
    response.end()
  })
  // The same address that a client looks up first, of IPv4 and IPv6.
  server.listen(0, 'localhost')
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  await once(server, 'listening')
  const { port, address, family } = server.address() as AddressInfo
  return { calls, port, literal: family === 'IPv6' ? `[${address}]` : address }
}

const body = (id: string, webhook: string) => ({
  id,
  input: { prompt: 'a', n: 1 },
  webhook,
  webhook_events_filter: ['completed'],
})

t.test('a webhook goes over TLS to who has a certificate that is trusted, for the name of the URL', async (t) => {
  const { calls, port, literal } = await receiver(t)
  const server = await spawnServer(t, t.testdir({}), {
    file: 'echo-stream.ts',
    env: { WEBHOOK_REACH: 'any', NODE_EXTRA_CA_CERTS: CERTIFICATE },
  })
  await untilHealth(server.url, 'READY')
  const post = (webhook: string) =>
    fetch(`${server.url}/predictions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body('p', webhook)),
    })
  // Trusted, but not for an address.
  await post(`https://${literal}:${port}/address`)
  await until(() => server.log().includes('webhook failed'))
  t.match(server.log(), /"reason":"Hostname\/IP does not match certificate's altnames/)
  await post(`https://localhost:${port}/name`)
  await until(() => calls.length > 0)
  t.strictSame(calls, [{ path: '/name', status: 'succeeded', serverName: 'localhost' }])
})

t.test('a certificate that nobody trusts is refused, and the body stays here', async (t) => {
  const { calls, port } = await receiver(t)
  const lines: string[] = []
  const { app } = await testServer({ predictor: EchoStream, onLog: (line) => lines.push(line) })
  t.teardown(() => app.close())
  await app.inject({ method: 'POST', url: '/predictions', payload: body('p', `https://localhost:${port}/`) })
  await until(() => lines.some((line) => line.includes('webhook failed')))
  t.match(lines.join(''), /"reason":"self-signed certificate"/)
  t.strictSame(calls, [])
})
