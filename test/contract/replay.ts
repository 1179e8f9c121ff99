import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { Agent, createServer, request as httpRequest, type IncomingHttpHeaders, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

/** One behaviour of the contract: what is sent, one step after another, and what must come back. See cases.md. */
export interface ContractCase {
  readonly name: string
  readonly about: string
  readonly source: string
  readonly predictor: 'echo-stream' | 'echo-no-stream' | 'echo-train'
  readonly server?: ServerNeeds
  /** Where ours answers otherwise than Cog, on purpose, and why. */
  readonly differs?: string
  readonly steps: readonly Step[]
  /** All calls that the test's own receiver gets, in order; it answers the n-th as `webhookReplies` says, else 200. */
  readonly webhooks?: readonly WebhookCall[]
  readonly webhookReplies?: readonly number[]
  /** It takes so long by its nature. */
  readonly seconds?: number
  /** The server ends by itself when the steps are through, with this exit code. */
  readonly exit?: number
}

interface WebhookCall {
  readonly path: string
  /** Others may be there, too. */
  readonly headers: Readonly<Record<string, string>>
  readonly body: unknown
}

export interface ServerNeeds {
  readonly env?: Readonly<Record<string, string>>
  readonly concurrency?: number
  /** The health status to wait for before the first step; default READY. */
  readonly until?: string
}

type Step = RequestStep | { readonly until: Condition } | { readonly touch: string } | { readonly signal: Signal }

type Signal = 'SIGTERM' | 'SIGINT'

/** A server that listens, serves the case's predictor and has what the case needs. */
export interface ReplayedServer {
  readonly url: string
  /** For the files that the case touches. */
  readonly folder: string
  /** For cases that end the server, or send it signals: the process itself. */
  readonly process?: {
    kill(signal: Signal): unknown
    /** Exit code and signal. */
    readonly exit: Promise<[code: number | null, signal: string | null]>
  }
}

interface RequestStep {
  readonly request: {
    readonly method: string
    readonly path: string
    readonly headers?: Readonly<Record<string, string>>
    readonly body?: unknown
    readonly rawBody?: string
    readonly bodyBytes?: number
  }
  readonly response?: ExpectedResponse
  /** Go on without waiting for the answer. */
  readonly background?: boolean
  readonly leaveAfterEvents?: number
  readonly leaveWhen?: Condition
}

interface ExpectedResponse {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly body?: unknown
  readonly text?: string
  readonly events?: readonly unknown[]
  readonly raw?: string
}

/**
 * `health`: the server says this status. `answered`: the head of this request's answer is there. `events`: the answer to request
 * `of` has so many events. `webhooks`: so many calls came.
 */
type Condition =
  | { readonly health: string }
  | { readonly answered: number }
  | { readonly events: number; readonly of: number }
  | { readonly webhooks: number }

export function readCases(): ContractCase[] {
  const folder = fileURLToPath(new URL('cases/', import.meta.url))
  return readdirSync(folder)
    .sort()
    .map((file) => ({ name: file.replace('.json', ''), ...JSON.parse(readFileSync(join(folder, file), 'utf8')) }))
}

/**
 * Sends a case's requests to a server and compares what comes back, whole.
 *
 * @throws {AssertionError} on the first difference.
 */
export async function replay(contractCase: ContractCase, server: ReplayedServer): Promise<void> {
  const { url, folder } = server
  const exchanges: Exchange[] = []
  const hooks = new Hooks(contractCase.webhookReplies ?? [])
  const base = await hooks.listen()
  const background: Promise<void>[] = []
  for (const step of contractCase.steps) {
    if ('touch' in step) touch(folder, step.touch)
    else if ('signal' in step) server.process!.kill(step.signal)
    else if ('until' in step) await until(step.until, { url, exchanges, hooks })
    else {
      const exchange = new Exchange(url, filled(step, { base, exchanges }))
      exchanges.push(exchange)
      if (step.leaveWhen) {
        await until(step.leaveWhen, { url, exchanges, hooks })
        exchange.leave()
      }
      const checked = exchange.done.then(() => compare(exchange, `request ${exchanges.indexOf(exchange)}`))
      // Awaited at the end; an earlier step may fail first, and its error is then the one that counts.
      checked.catch(() => {})
      if (step.background) background.push(checked)
      else await checked
    }
  }
  await Promise.all(background)
  const { webhooks = [] } = contractCase
  await until({ webhooks: webhooks.length }, { url, exchanges, hooks })
  if (contractCase.exit !== undefined) assert.deepEqual(await server.process!.exit, [contractCase.exit, null], 'exit')
  // Nothing more may come when the prediction is over.
  else await until({ health: contractCase.server?.until ?? 'READY' }, { url, exchanges, hooks })
  await hooks.close()
  assert.equal(hooks.calls.length, webhooks.length, `webhooks: ${JSON.stringify(hooks.calls).slice(0, 600)}`)
  for (const [i, want] of webhooks.entries()) compareCall(want, hooks.calls[i]!, `webhook ${i}`)
}

/** Puts the receiver's address for `<hook>` and the id that the first request got for `<id of 0>`. */
function filled(step: RequestStep, { base, exchanges }: { base: string; exchanges: Exchange[] }): RequestStep {
  const id = exchanges[0]?.text.startsWith('{') ? String(JSON.parse(exchanges[0].text).id) : ''
  const request = JSON.stringify(step.request).replaceAll('<hook>', base).replaceAll('<id of 0>', id)
  return { ...step, request: JSON.parse(request) }
}

/** The test's own receiver of webhooks. */
class Hooks {
  readonly calls: { path: string; headers: IncomingHttpHeaders; body: unknown }[] = []
  readonly #server

  constructor(replies: readonly number[]) {
    this.#server = createServer(async (request, response) => {
      let text = ''
      for await (const part of request) text += part
      this.calls.push({ path: request.url!, headers: request.headers, body: JSON.parse(text) })
      response.writeHead(replies[this.calls.length - 1] ?? 200).end()
    })
  }

  async listen(): Promise<string> {
    // A case that fails must not keep the process.
    this.#server.listen(0, '127.0.0.1').unref()
    await once(this.#server, 'listening')
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`
  }

  async close(): Promise<void> {
    this.#server.close()
    await once(this.#server, 'close')
  }
}

function compareCall(want: WebhookCall, got: Hooks['calls'][number], at: string): void {
  assert.equal(got.path, want.path, at)
  for (const [name, value] of Object.entries(want.headers))
    assert.equal(got.headers[name], value, `${at}: header ${name}`)
  match(want.body, withoutOurMetrics(got.body), `${at}: body`)
}

class Exchange {
  readonly step: RequestStep
  readonly done: Promise<void>
  response: IncomingMessage | undefined
  text = ''
  #request: ReturnType<typeof httpRequest>

  constructor(base: string, step: RequestStep) {
    this.step = step
    const { method, path, headers = {} } = step.request
    const body = bodyOf(step.request)
    this.#request = httpRequest(new URL(path, base), {
      method,
      agent: new Agent({ keepAlive: false }),
      headers: { ...headers, ...(body && { 'content-length': body.length }) },
    })
    this.done = new Promise((resolve, reject) => {
      this.#request.on('error', (error) => (this.response || step.leaveWhen ? resolve() : reject(error)))
      this.#request.on('response', (response) => {
        this.response = response
        response.setEncoding('utf8')
        response.on('data', (text: string) => {
          this.text += text
          if (this.events === step.leaveAfterEvents) this.leave()
        })
        response.on('close', resolve)
        response.on('error', () => {})
      })
    })
    this.#request.end(body)
  }

  /** How many whole events have come so far. */
  get events(): number {
    return this.text.split('\n\n').length - 1
  }

  leave(): void {
    this.#request.destroy()
  }
}

function bodyOf(request: RequestStep['request']): Buffer | undefined {
  if (request.rawBody !== undefined) return Buffer.from(request.rawBody)
  if (request.body === undefined) return undefined
  const json = Buffer.from(JSON.stringify(request.body))
  if (request.bodyBytes === undefined) return json
  return Buffer.concat([json, Buffer.alloc(request.bodyBytes - json.length, ' ')])
}

function touch(folder: string, name: string): void {
  if (name.startsWith('-')) rmSync(join(folder, name.slice(1)))
  else writeFileSync(join(folder, name), '')
}

async function until(
  condition: Condition,
  { url, exchanges, hooks }: { url: string; exchanges: Exchange[]; hooks: Hooks },
): Promise<void> {
  // Asked again and again rather than waited for: the contract has no call that waits.
  for (let tries = 0; tries < 2000; tries++) {
    if ('webhooks' in condition) {
      if (hooks.calls.length >= condition.webhooks) return
    } else if ('answered' in condition) {
      if (exchanges[condition.answered]!.response) return
    } else if ('events' in condition) {
      if (exchanges[condition.of]!.events >= condition.events) return
    } else if ((await healthOf(url)) === condition.health) return
    await sleep(5)
  }
  throw new Error(`the server never came to ${JSON.stringify(condition)}`)
}

export async function healthOf(url: string): Promise<string> {
  const response = await fetch(new URL('/health-check', url))
  return ((await response.json()) as { status: string }).status
}

function compare({ step, response, text }: Exchange, at: string): void {
  const want = step.response
  if (!want) return
  assert.ok(response, `${at}: no answer`)
  assert.equal(response.statusCode, want.status, `${at}: ${text.slice(0, 300)}`)
  for (const [name, value] of Object.entries(want.headers)) {
    assert.equal(response.headers[name], value, `${at}: header ${name}`)
  }
  if (want.body !== undefined) match(want.body, withoutOurMetrics(JSON.parse(text)), `${at}: body`)
  if (want.events) match(want.events, parseEvents(text).map(withoutOurMetrics), `${at}: events`)
  if (want.raw !== undefined) assert.match(withoutOurMetricsText(text), patternOf(want.raw), `${at}: bytes`)
  // What follows the first colon is the wording of one JSON library.
  if (want.text?.startsWith('Failed to ')) assert.equal(text.split(':')[0], want.text.split(':')[0], `${at}: text`)
  else if (want.text !== undefined) assert.equal(text, want.text, `${at}: text`)
  if (want.text !== undefined && want.text === '')
    assert.equal(response.headers['content-type'], want.headers['content-type'], at)
}

/** The metrics that ours has beside Cog's, which must be numbers, are taken out before the comparison. */
const OUR_METRICS = ['cost', 'total_time']

function withoutOurMetrics(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutOurMetrics)
  if (typeof value !== 'object' || value === null) return value
  const copy = { ...value } as Record<string, unknown>
  if ('predict_time' in copy) {
    for (const name of OUR_METRICS) {
      if (!(name in copy)) continue
      assert.equal(typeof copy[name], 'number', `metric ${name}`)
      delete copy[name]
    }
  }
  return Object.fromEntries(Object.entries(copy).map(([key, item]) => [key, withoutOurMetrics(item)]))
}

function withoutOurMetricsText(text: string): string {
  return text.replace(/"cost":[\d.e-]+,/g, '').replace(/,"total_time":[\d.e-]+/g, '')
}

function parseEvents(text: string): unknown[] {
  return text
    .split('\n\n')
    .slice(0, -1)
    .map((block) => {
      const fields = Object.fromEntries(
        block.split('\n').map((line) => [line.split(': ')[0], line.replace(/^\w*: /, '')]),
      )
      return { ...fields, ...(fields.data !== undefined && { data: JSON.parse(fields.data) }) }
    })
}

const ISO_TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$/

const MATCHERS: Readonly<Record<string, (got: unknown) => boolean>> = {
  '<iso-time>': (got) => typeof got === 'string' && ISO_TIME.test(got),
  '<seconds>': (got) => typeof got === 'number' && got >= 0,
  '<string>': (got) => typeof got === 'string',
  '<id>': (got) => typeof got === 'string' && got !== '',
}

function match(want: unknown, got: unknown, at: string): void {
  if (typeof want === 'string' && want.startsWith('<contains:')) {
    assert.ok(String(got).includes(want.slice('<contains:'.length, -1)), `${at}: want ${want}, got ${got}`)
  } else if (typeof want === 'string' && MATCHERS[want]) {
    assert.ok(MATCHERS[want](got), `${at}: want ${want}, got ${JSON.stringify(got)}`)
  } else if (Array.isArray(want) && Array.isArray(got)) {
    assert.equal(got.length, want.length, `${at}: ${JSON.stringify(got).slice(0, 300)}`)
    for (const [i, item] of want.entries()) match(item, got[i], `${at}/${i}`)
  } else if (typeof want === 'object' && want !== null && typeof got === 'object' && got !== null) {
    assert.deepEqual(Object.keys(got).sort(), Object.keys(want).sort(), `${at}: keys`)
    for (const [key, item] of Object.entries(want)) match(item, (got as Record<string, unknown>)[key], `${at}/${key}`)
  } else {
    assert.deepEqual(got, want, at)
  }
}

/** The exact bytes of a stream, with matchers where they vary. */
function patternOf(raw: string): RegExp {
  const escaped = raw.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')
  return new RegExp(`^${escaped.replace(/<seconds>/g, '[\\d.e-]+').replace(/<id>|<any>/g, '[^"]*')}$`)
}
