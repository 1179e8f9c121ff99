import { createHmac, randomBytes } from 'node:crypto'
import { request as httpRequest } from 'node:http'
import { request as httpsRequest } from 'node:https'
import type { LookupFunction } from 'node:net'
import type { Logger } from 'pino'
import { COG_RELEASE } from './cog-release.js'
import { stringifySorted } from './json.js'
import { Counter } from './metrics.js'
import type { Prediction, PredictionEvent } from './prediction.js'
import type { Schedule } from './service.js'
import { type Resolve, type WebhookReach, WebhookRefusedError, webhookAddress } from './webhook-address.js'

export const WEBHOOK_EVENTS = ['start', 'output', 'logs', 'completed'] as const

export type WebhookEvent = (typeof WEBHOOK_EVENTS)[number]

/** What a request asks for. */
export interface Webhook {
  /** As it was sent: one that is no URL is never called, and does not disturb the prediction. */
  readonly url: string
  readonly events: ReadonlySet<WebhookEvent>
  /** `traceparent` and `tracestate` of the request, handed on unchanged. */
  readonly trace: Readonly<Record<string, string>>
}

export interface WebhookOptions {
  readonly reach: WebhookReach
  /** No call for `logs` within so long after any other call of the same prediction. */
  readonly intervalMs: number
  /** Sent as a bearer token. */
  readonly authToken?: string
  /** `whsec_` and the key in base64: calls are signed. */
  readonly secret?: string
  readonly log: Logger
  readonly schedule: Schedule
  /** Milliseconds on a clock that never goes back. */
  readonly now: () => number
  /** Looks a host name up; replaced in tests. */
  readonly resolve?: Resolve
}

/** Time for one try of `completed`: Cog's limit. */
const FINAL_TRY_MS = 30_000
/** Time for a call of another event, which the later ones wait for. */
const TRY_MS = 5000
/** Cog's schedule: 100 ms · 2^k before repetition k, at most 102.4 s, 12 repetitions. */
const REPETITIONS = 12
const FIRST_WAIT_MS = 100
const LONGEST_WAIT_MS = 102_400
const WORTH_REPEATING: ReadonlySet<number> = new Set([429, 500, 502, 503, 504])
/** Most characters of bodies that wait for one receiver; beyond them the newest state takes the place of the one before. */
const WAITING_CHARACTERS = 1024 * 1024
/** Most predictions whose final call is tried again at a time: a dead receiver must not fill the memory. */
const MOST_REPEATING = 1000

/**
 * Calls the webhooks of predictions: one ordered queue for each, beside the prediction and never in its way.
 *
 * `start`, `output` and `logs` are tried once, and dropped behind a receiver that does not answer. `completed` is tried
 * again after 429, 500, 502, 503, 504 or no answer. Redirects are not followed.
 */
export class Webhooks {
  /** Tries so far: `sent` were answered with 2xx, `failed` otherwise or not at all, `refused` led where none may go. */
  readonly calls = new Counter('result')
  readonly #options: WebhookOptions
  readonly #queues = new Set<Queue>()
  #repeating = 0
  #idle: (() => void) | undefined

  constructor(options: WebhookOptions) {
    this.#options = options
  }

  /** Number of predictions with calls that run or wait. */
  get active(): number {
    return this.#queues.size
  }

  /** Reports a prediction from now on. Call it before anything has happened to it. */
  follow(prediction: Prediction, webhook: Webhook): void {
    if (webhook.events.size === 0) return
    if (!URL.canParse(webhook.url)) {
      this.#options.log.warn('webhook not called: it is no URL')
      return
    }
    const queue = new Queue(this.#options, webhook, {
      tried: (outcome) => this.calls.add(resultOf(outcome)),
      mayRepeat: () => this.#repeating < MOST_REPEATING,
      repeating: (change) => {
        this.#repeating += change
      },
      onBusy: () => this.#queues.add(queue),
      onIdle: () => {
        this.#queues.delete(queue)
        if (this.#queues.size === 0) this.#idle?.()
      },
    })
    let lastCallAt = Number.NEGATIVE_INFINITY
    prediction.subscribe((happened) => {
      const event = nameOf(happened)
      if (event === undefined || !webhook.events.has(event)) return
      const now = this.#options.now()
      // As Cog does: dropped, not postponed.
      if (event === 'logs' && now - lastCallAt < this.#options.intervalMs) return
      lastCallAt = now
      // Written now: the prediction goes on while the call waits.
      queue.push(event, stringifySorted(prediction.body()))
    })
  }

  /** Waits until every call is out; after `limitMs` gives up those that are not. Takes calls until then. */
  async drain(limitMs: number): Promise<void> {
    if (this.#queues.size === 0) return
    const idle = new Promise<void>((resolve) => {
      this.#idle = resolve
    })
    const limit = this.#options.schedule(limitMs, () => {
      this.#options.log.warn({ predictions: this.#queues.size }, 'webhooks given up: the server ends')
      for (const queue of [...this.#queues]) queue.giveUp()
    })
    await idle
    limit.cancel()
  }
}

function nameOf({ name }: PredictionEvent): WebhookEvent | undefined {
  if (name === 'log') return 'logs'
  return name === 'metric' ? undefined : name
}

interface Call {
  readonly event: WebhookEvent
  readonly body: string
}

interface Owner {
  tried(outcome: Outcome): void
  mayRepeat(): boolean
  repeating(change: 1 | -1): void
  onBusy(): void
  onIdle(): void
}

/** The calls of one prediction, one after another. */
class Queue {
  readonly #options: WebhookOptions
  readonly #webhook: Webhook
  readonly #owner: Owner
  readonly #stopped = new AbortController()
  #waiting: Call[] = []
  #characters = 0
  #busy = false

  constructor(options: WebhookOptions, webhook: Webhook, owner: Owner) {
    this.#options = options
    this.#webhook = webhook
    this.#owner = owner
  }

  push(event: WebhookEvent, body: string): void {
    if (this.#stopped.signal.aborted) return
    // Bodies tell all so far, so that the newest says what the one before would have said.
    if (this.#characters + body.length > WAITING_CHARACTERS && event !== 'completed') {
      this.#characters -= this.#waiting.pop()?.body.length ?? 0
    }
    this.#waiting.push({ event, body })
    this.#characters += body.length
    if (this.#busy) return
    this.#busy = true
    this.#owner.onBusy()
    void this.#work()
  }

  giveUp(): void {
    this.#stopped.abort()
  }

  /** Never rejects. */
  async #work(): Promise<void> {
    for (let call = this.#next(); call; call = this.#next()) {
      if (call.event === 'completed') await this.#deliver(call)
      else if ((await this.#try(call, newMessageId())) === 'no answer') this.#dropIntermediate()
      if (this.#stopped.signal.aborted) break
    }
    this.#busy = false
    this.#owner.onIdle()
  }

  #next(): Call | undefined {
    const call = this.#waiting.shift()
    this.#characters -= call?.body.length ?? 0
    return call
  }

  /** The receiver is gone or hangs: only the end is worth waiting for it. */
  #dropIntermediate(): void {
    this.#waiting = this.#waiting.filter(({ event }) => event === 'completed')
    this.#characters = this.#waiting.reduce((sum, { body }) => sum + body.length, 0)
  }

  async #deliver(call: Call): Promise<void> {
    const id = newMessageId()
    let outcome = await this.#try(call, id)
    if (!isWorthRepeating(outcome)) return
    if (!this.#owner.mayRepeat()) {
      this.#options.log.warn({ outcome }, 'webhook given up: too many others are being tried again')
      return
    }
    this.#owner.repeating(1)
    for (let k = 1; k <= REPETITIONS && isWorthRepeating(outcome); k++) {
      await this.#wait(Math.min(FIRST_WAIT_MS * 2 ** k, LONGEST_WAIT_MS))
      if (this.#stopped.signal.aborted) break
      outcome = await this.#try(call, id)
    }
    this.#owner.repeating(-1)
    if (isWorthRepeating(outcome)) this.#options.log.warn({ outcome }, 'webhook given up')
  }

  #wait(ms: number): Promise<void> {
    const { signal } = this.#stopped
    return new Promise((resolve) => {
      const timer = this.#options.schedule(ms, done)
      function done() {
        timer.cancel()
        signal.removeEventListener('abort', done)
        resolve()
      }
      if (signal.aborted) done()
      else signal.addEventListener('abort', done)
    })
  }

  /** One try. Never rejects. */
  async #try(call: Call, id: string): Promise<Outcome> {
    const outcome = await this.#attempt(call, id)
    this.#owner.tried(outcome)
    return outcome
  }

  async #attempt(call: Call, id: string): Promise<Outcome> {
    const { log, schedule, reach, resolve } = this.#options
    const over = new AbortController()
    const stop = () => over.abort()
    const timer = schedule(call.event === 'completed' ? FINAL_TRY_MS : TRY_MS, stop)
    this.#stopped.signal.addEventListener('abort', stop)
    const url = new URL(this.#webhook.url)
    try {
      const outcome = await orAborted(over.signal, async () => {
        const pinned = await webhookAddress(url, reach, resolve)
        over.signal.throwIfAborted()
        return await send({ url, pinned, body: call.body, headers: this.#headers(id, call.body), signal: over.signal })
      })
      if (outcome < 200 || outcome > 299) log.warn({ event: call.event, status: outcome }, 'webhook refused')
      return outcome
    } catch (error) {
      const isRefused = error instanceof WebhookRefusedError
      const reason = over.signal.aborted ? 'no answer in time' : error instanceof Error ? error.message : String(error)
      log.warn({ event: call.event, host: url.host, reason }, isRefused ? 'webhook not called' : 'webhook failed')
      return isRefused ? 'refused' : 'no answer'
    } finally {
      timer.cancel()
      this.#stopped.signal.removeEventListener('abort', stop)
    }
  }

  #headers(id: string, body: string): Record<string, string | number> {
    const { authToken, secret } = this.#options
    const timestamp = Math.floor(Date.now() / 1000)
    return {
      'content-type': 'application/json',
      'content-length': Buffer.byteLength(body),
      accept: '*/*',
      'user-agent': `coglet/${COG_RELEASE.coglet} (bezel)`,
      ...(authToken !== undefined && { authorization: `Bearer ${authToken}` }),
      ...(secret !== undefined && {
        'webhook-id': id,
        'webhook-timestamp': timestamp,
        'webhook-signature': webhookSignature({ secret, id, timestamp, body }),
      }),
      ...this.#webhook.trace,
    }
  }
}

/** A status, or why there is none. */
type Outcome = number | 'no answer' | 'refused'

function resultOf(outcome: Outcome): 'sent' | 'failed' | 'refused' {
  if (outcome === 'refused') return 'refused'
  return typeof outcome === 'number' && outcome >= 200 && outcome <= 299 ? 'sent' : 'failed'
}

function isWorthRepeating(outcome: Outcome): boolean {
  return outcome === 'no answer' || (typeof outcome === 'number' && WORTH_REPEATING.has(outcome))
}

/** Rejects when the signal fires, whatever the work then does. */
function orAborted<Value>(signal: AbortSignal, work: () => Promise<Value>): Promise<Value> {
  return new Promise((resolve, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason), { once: true })
    work().then(resolve, reject)
  })
}

interface Shipment {
  readonly url: URL
  /** Where the connection goes, whatever the name resolves to by then. */
  readonly pinned: { readonly address: string; readonly family: number }
  readonly body: string
  readonly headers: Readonly<Record<string, string | number>>
  readonly signal: AbortSignal
}

/** Sends one POST on a connection of its own. Resolves with the status as soon as it is known. */
function send({ url, pinned, body, headers, signal }: Shipment): Promise<number> {
  const lookup: LookupFunction = (_hostname, options, callback) => {
    if (options.all) callback(null, [pinned])
    else callback(null, pinned.address, pinned.family)
  }
  const request = url.protocol === 'https:' ? httpsRequest : httpRequest
  return new Promise((resolve, reject) => {
    const call = request(url, { method: 'POST', agent: false, headers, lookup, signal }, (response) => {
      resolve(response.statusCode!)
      // Its body is not used, and may have no end.
      response.on('error', () => {})
      response.destroy()
    })
    call.on('error', reject)
    call.end(body)
  })
}

function newMessageId(): string {
  return `msg_${randomBytes(16).toString('hex')}`
}

/**
 * The header `webhook-signature`: HMAC-SHA-256 over `id.timestamp.body` in base64, as Standard Webhooks 1.0 has it and
 * Replicate's clients check it.
 *
 * @param message secret `whsec_` and the key in base64; timestamp in Unix seconds; body as it is sent.
 */
export function webhookSignature(message: {
  readonly secret: string
  readonly id: string
  readonly timestamp: number
  readonly body: string
}): string {
  const key = Buffer.from(message.secret.replace(/^whsec_/, ''), 'base64')
  const signed = `${message.id}.${message.timestamp}.${message.body}`
  return `v1,${createHmac('sha256', key).update(signed).digest('base64')}`
}
