// Exits with 0 while the server takes predictions, else with 1 and the state that it is in. The image has no curl.
// @ts-check

const TIMEOUT_MS = 4000
const WILDCARDS = ['0.0.0.0', '::', '']

const { HOST = '', PORT = '5000' } = process.env
const host = WILDCARDS.includes(HOST) ? 'localhost' : HOST
const url = `http://${host.includes(':') ? `[${host}]` : host}:${PORT}/readyz`

try {
  const answer = await fetch(url, { signal: AbortSignal.timeout(TIMEOUT_MS) })
  const { status } = await answer.json()
  console.log(status)
  process.exitCode = answer.ok ? 0 : 1
} catch (error) {
  console.log(`${url}: ${error instanceof Error ? (error.cause ?? error) : error}`)
  process.exitCode = 1
}
