import type { IncomingHttpHeaders } from 'node:http'
import type { WebhookCall } from './receiver.js'
import type { Answer } from './send.js'

/** All that one server did about one case. */
export interface Observation {
  readonly answers: readonly Answer[]
  readonly webhooks: readonly WebhookCall[]
}

export type Side = 'cog' | 'ours'

/** One place where the two differ. A status that differs stands for the headers and the body, which follow from it. */
export interface Difference {
  /** Which answer, or `webhooks`, and which part of it. */
  readonly at: string
  readonly cog: string
  readonly ours: string
}

/** What a side shows of webhooks where only the other side has more. */
export const NONE = 'the rest is equal'

/** Those of the connection and of the length, not of what is said. */
const IGNORED_HEADERS = new Set(['date', 'connection', 'keep-alive', 'content-length', 'transfer-encoding'])

const WEBHOOK_HEADERS = ['content-type', 'accept', 'authorization', 'traceparent', 'tracestate']

/**
 * Compares what the two servers did: statuses, headers, and bodies byte by byte, streams event by event, webhooks as a
 * set, since Cog lets neighbours change places.
 *
 * Matchers stand for ids that were drawn, for times, and for what the rows of STANDING in purposes.ts say.
 */
export function differences(cog: Observation, ours: Observation): Difference[] {
  const found = cog.answers.flatMap((answer, i) => {
    const other = ours.answers[i]
    return other ? answerDifferences(answer, other) : [{ at: answer.to, cog: describe(answer), ours: 'nothing' }]
  })
  for (const answer of ours.answers.slice(cog.answers.length)) {
    found.push({ at: answer.to, cog: 'nothing', ours: describe(answer) })
  }
  return [...found, ...webhookDifferences(cog.webhooks, ours.webhooks)]
}

/** The kind of a list of differences: cases that fail alike have the same. */
export function signatureOf(found: readonly Difference[]): string {
  return found
    .map(({ at, cog, ours }) => (at.endsWith(' status') ? `${at} ${cog.slice(0, 3)}/${ours.slice(0, 3)}` : at))
    .map((text) => text.replace(/\d+ meanwhile/, 'meanwhile').replace(/event \d+/, 'event'))
    .join('; ')
}

function answerDifferences(cog: Answer, ours: Answer): Difference[] {
  const { to } = cog
  if (cog.ending !== ours.ending) return [{ at: `${to}: ending`, cog: describe(cog), ours: describe(ours) }]
  // How much a client that hung up has got by then is chance.
  if (cog.ending !== undefined) return []
  if (cog.status !== ours.status) return [{ at: `${to}: status`, cog: describe(cog), ours: describe(ours) }]
  const found: Difference[] = []
  for (const name of namesOf(cog.headers, ours.headers)) {
    const [theirs, own] = [String(cog.headers[name]), String(ours.headers[name])]
    if (theirs !== own) found.push({ at: `${to}: header ${name}`, cog: theirs, ours: own })
  }
  const [theirs, own] = [masked(cog.body, 'cog'), masked(ours.body, 'ours')]
  if (theirs === own) return found
  const isStream = (answer: Answer) => answer.headers['content-type'] === 'text/event-stream'
  if (!isStream(cog) || !isStream(ours)) return [...found, { at: `${to}: body`, cog: theirs, ours: own }]
  const [events, others] = [theirs.split('\n\n'), own.split('\n\n')]
  const i = events.findIndex((event, index) => event !== others[index])
  const index = i < 0 ? events.length : i
  return [...found, { at: `${to}: event ${index}`, cog: String(events[index]), ours: String(others[index]) }]
}

function namesOf(...all: readonly IncomingHttpHeaders[]): string[] {
  const names = new Set(all.flatMap((headers) => Object.keys(headers)))
  return [...names].filter((name) => !IGNORED_HEADERS.has(name)).sort()
}

function describe({ status, body, ending }: Answer): string {
  return [status, body, ending && `(${ending})`].filter((part) => part !== undefined && part !== '').join(' ')
}

function webhookDifferences(cog: readonly WebhookCall[], ours: readonly WebhookCall[]): Difference[] {
  const [theirs, own] = [cog.map((call) => callText(call, 'cog')), ours.map((call) => callText(call, 'ours'))]
  const extra = [...own]
  const missing = theirs.filter((text) => {
    const at = extra.indexOf(text)
    if (at >= 0) extra.splice(at, 1)
    return at < 0
  })
  if (missing.length === 0 && extra.length === 0) return []
  const list = (texts: readonly string[]) => (texts.length === 0 ? NONE : texts.join('\n'))
  return [{ at: 'webhooks', cog: list(missing), ours: list(extra) }]
}

function callText({ headers, body }: WebhookCall, side: Side): string {
  const kept = WEBHOOK_HEADERS.flatMap((name) => (headers[name] === undefined ? [] : `${name}: ${headers[name]}`))
  return `${masked(body, side)} ${kept.join(', ')}`
}

/** A body with matchers in the place of what may differ in any of them. */
export function masked(body: string, side: Side): string {
  if (body.startsWith('Failed to ')) return `${body.split(':')[0]}: <reason>`
  const common = body
    .replace(/"predict_time":[\d.e-]+/g, '"predict_time":<seconds>')
    .replace(/"(started_at|completed_at)":"[\d-]+T[\d:.]+\+00:00"/g, '"$1":<time>')
    // Of the setup, in the answer that tells of it; the version of Python is that of whoever runs this.
    .replace(/^(\{"status":.*"setup":\{.*"logs":)"(?:[^"\\]|\\.)*"/, '$1<text>')
    .replace(/("python_sdk":"[^"]*","python":)"[^"]*"/, '$1<text>')
  if (side === 'cog') {
    return common
      .replace(/"pred_[0-9a-f]{16}"/g, '<id>')
      .replace(
        /"error":"Prediction failed: (?:Generator iteration error: )?\w+: /g,
        '"error":"Prediction failed: <class>: ',
      )
  }
  return common
    .replace(/"id":"[a-z2-7]{26}"/g, '"id":<id>')
    .replace(/"error":"Prediction failed: \w+: /g, '"error":"Prediction failed: <class>: ')
    .replace(/"cost":[\d.e-]+,/g, '')
    .replace(/,"total_time":[\d.e-]+/g, '')
}
