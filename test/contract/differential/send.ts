import { Agent, request as httpRequest, type IncomingHttpHeaders } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { type DifferentialCase, HOOK, type Meanwhile, STREAM, type WireRequest } from './cases.js'

/** What came back for one request. */
export interface Answer {
  /** What it was an answer to. */
  readonly to: string
  /** Absent if none came. */
  readonly status?: number
  readonly headers: IncomingHttpHeaders
  readonly body: string
  /** `left`: the client hung up, as it was to. Else why there is no whole answer. */
  readonly ending?: string
}

export interface Target {
  readonly url: string
  /** Where this case's webhooks go to. */
  readonly hook: string
}

/** No request of these may take longer: the longest prediction takes a second or two. */
const PATIENCE_MS = 20_000
/** The same for a server to be free when all is answered. */
const FREE_MS = 4000
const POLL_MS = 5

/**
 * Sends a case's requests to a server, the first one first, and waits until the server is free again.
 *
 * @returns the answers in the order of the requests; the stream that is read beside a prediction comes second.
 */
export async function sendCase(one: DifferentialCase, { url, hook }: Target): Promise<Answer[]> {
  const first = new Exchange(url, withHook(one.request, hook), 'the request')
  const answers = one.meanwhile ? await interfere(first, one.meanwhile, url) : [await first.answer]
  const free = await until(async () => (await healthOf(url)) === 'READY', FREE_MS)
  return free ? answers : [...answers, { to: 'the server', headers: {}, body: '', ending: LOST }]
}

const LOST = 'not READY again'

/** Whether the server could not do anything any more after the case. */
export function isLost(answer: Answer): boolean {
  return answer.ending === LOST
}

async function interfere(first: Exchange, { id, requests, leaves }: Meanwhile, url: string): Promise<Answer[]> {
  const own = `/predictions/${encodeURIComponent(id)}`
  await until(async () => first.isOver || (await healthOf(url)) === 'BUSY')
  const isStream = first.request.headers.some(([name, value]) => name === 'accept' && value === STREAM)
  const reader = isStream
    ? first
    : new Exchange(url, { method: 'PUT', path: own, headers: [['accept', STREAM]] }, 'the stream beside it')
  await until(() => reader.isOver || reader.text.includes('event: output'))
  const answers: Answer[] = []
  for (const [i, request] of requests.entries()) {
    answers.push(await new Exchange(url, request, `request ${i + 1} meanwhile`).answer)
  }
  if (leaves) first.leave()
  const watched = [await first.answer, ...(isStream ? [] : [await reader.answer])]
  return [...watched, ...answers]
}

export async function healthOf(url: string): Promise<string | undefined> {
  const request: WireRequest = { method: 'GET', path: '/health-check', headers: [] }
  const { body } = await new Exchange(url, request, 'health').answer
  return /"status":"([A-Z_]+)"/.exec(body)?.[1]
}

/** Asks a condition again and again; false if it never came true in time. */
export async function until(condition: () => boolean | Promise<boolean>, limitMs = PATIENCE_MS): Promise<boolean> {
  const end = performance.now() + limitMs
  while (performance.now() < end) {
    if (await condition()) return true
    await sleep(POLL_MS)
  }
  return false
}

function withHook(request: WireRequest, hook: string): WireRequest {
  if (!request.body?.includes(HOOK)) return request
  // Bytes, not characters: the body need not be UTF-8.
  return { ...request, body: Buffer.from(request.body.toString('latin1').replaceAll(HOOK, hook), 'latin1') }
}

class Exchange {
  readonly request: WireRequest
  /** Never rejects. */
  readonly answer: Promise<Answer>
  isOver = false
  text = ''
  #left = false
  readonly #call: ReturnType<typeof httpRequest>

  constructor(url: string, request: WireRequest, to: string) {
    this.request = request
    const { hostname, port } = new URL(url)
    const { method, path, body, chunked } = request
    const length: [string, string][] = chunked
      ? [['transfer-encoding', 'chunked']]
      : body
        ? [['content-length', String(body.length)]]
        : []
    this.#call = httpRequest({
      hostname,
      port,
      method,
      path,
      agent: new Agent({ keepAlive: false }),
      // A list, so that names come as they are; header values are bytes.
      headers: [['host', `${hostname}:${port}`], ...request.headers, ...length].flatMap(([name, value]) => [
        name!,
        Buffer.from(value!).toString('latin1'),
      ]),
      signal: AbortSignal.timeout(PATIENCE_MS),
    })
    this.answer = this.#send(to)
    this.#call.end(body)
  }

  leave(): void {
    this.#left = true
    this.#call.destroy()
  }

  #send(to: string): Promise<Answer> {
    return new Promise((resolve) => {
      let status: number | undefined
      let headers: IncomingHttpHeaders = {}
      const end = (ending?: string) => {
        this.isOver = true
        const how = this.#left ? 'left' : ending
        resolve({ to, ...(status && { status }), headers, body: this.text, ...(how && { ending: how }) })
      }
      this.#call.on('error', (error) => end(error.message))
      this.#call.on('response', (response) => {
        status = response.statusCode
        headers = response.headers
        response.setEncoding('utf8')
        response.on('data', (text: string) => {
          this.text += text
        })
        response.on('end', () => end())
        response.on('error', (error) => end(error.message))
      })
    })
  }
}
