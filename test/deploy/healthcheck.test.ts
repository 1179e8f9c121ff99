import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'

const script = fileURLToPath(new URL('../../deploy/healthcheck.js', import.meta.url))

/** Runs the probe against a server whose `/readyz` answers this. */
async function probe(t: Test, statusCode: number, body: string, env: Record<string, string> = {}) {
  const server = createServer((request, response) => {
    response.statusCode = request.url === '/readyz' ? statusCode : 404
    response.end(request.url === '/readyz' ? body : '')
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  return run({ HOST: '127.0.0.1', PORT: String((server.address() as AddressInfo).port), ...env })
}

function run(env: Record<string, string>): Promise<{ code: number; output: string }> {
  return new Promise((resolve) => {
    const child = execFile(process.execPath, [script], { env }, (_error, stdout) =>
      resolve({ code: child.exitCode ?? -1, output: stdout.trim() }),
    )
  })
}

t.test('the probe passes while predictions are taken, also while every slot is taken', async (t) => {
  for (const status of ['READY', 'BUSY'])
    t.same(await probe(t, 200, `{"status":"${status}"}`), { code: 0, output: status })
})

t.test('the probe fails in every other state, and names it', async (t) => {
  for (const status of ['STARTING', 'UNHEALTHY', 'SETUP_FAILED', 'DEFUNCT', 'DRAINING']) {
    t.same(await probe(t, 503, `{"status":"${status}"}`), { code: 1, output: status })
  }
})

t.test('the probe fails where no server listens, or another one', async (t) => {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  const absent = await run({ HOST: '127.0.0.1', PORT: String(port) })
  t.equal(absent.code, 1)
  t.match(absent.output, /ECONNREFUSED/)
  t.equal((await probe(t, 200, '<html>')).code, 1)
})

t.test('the probe asks this machine where the server listens on all addresses', async (t) => {
  t.same(await probe(t, 200, '{"status":"READY"}', { HOST: '0.0.0.0' }), { code: 0, output: 'READY' })
})
