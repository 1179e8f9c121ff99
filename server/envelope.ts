import type { FastifyRequest } from 'fastify'
import type { BodyReader } from './body.js'
import { ServerError } from './errors.js'
import { decodeUtf8, JsonError, parseJson } from './json.js'
import { repeatedKeyFinder } from './json-source.js'
import { WEBHOOK_EVENTS, type Webhook, type WebhookEvent } from './webhooks.js'

/** What the body of a request says. */
export interface Envelope {
  readonly id: string | undefined
  readonly webhook: Omit<Webhook, 'trace'> | undefined
  readonly input: unknown
  readonly context: Readonly<Record<string, string>>
  /** The text of it all, where that is not very long. */
  readonly body: string | undefined
}

/**
 * Most characters of a body that is kept beside what was read from it, to show numbers as they were written in errors. It
 * lives as long as the request.
 */
const LONGEST_KEPT = 1024 * 1024

const repeatedField = repeatedKeyFinder(['id', 'input', 'context', 'webhook', 'webhook_events_filter'])

/**
 * Reads the body of a request for a prediction or a training.
 *
 * @throws {ServerError} BODY_TYPE, BODY_NOT_JSON, BODY_SHAPE, DUPLICATE_FIELD, or what {@link BodyReader.read} throws.
 */
export async function readEnvelope(request: FastifyRequest, bodies: BodyReader): Promise<Envelope> {
  const type = request.raw.headers['content-type']
  // As Cog does: without a content type the body is not read, and counts as {}.
  if (type === undefined) return parseEnvelope('{}')
  if (!JSON_TYPE.test(type)) throw ServerError.of('BODY_TYPE', {})
  const bytes = await bodies.read(request.raw)
  try {
    return parseEnvelope(decodeUtf8(bytes))
  } catch (error) {
    if (error instanceof JsonError) throw ServerError.of('BODY_NOT_JSON', { reason: error.message })
    throw error
  }
}

const TOKEN = "[!#$%&'*+.^_`|~\\w-]"
/** A parameter's value; Cog takes an empty one at the end. */
const VALUE = `(?:${TOKEN}+|"[ !#-~]+" *|(?=$))`
/** `application/json` or `application/…+json`, in any case, with any parameters, as Cog's parser of media types has it. */
const JSON_TYPE = new RegExp(
  `^application/(?:json(?:\\+[^+;]+)?|${TOKEN}+\\+json)(?:; *${TOKEN}+=${VALUE})*(?:; *)?$`,
  'i',
)

/** Fields that are not known are ignored, whatever their type and however often they come. */
function parseEnvelope(text: string): Envelope {
  const body = parseJson(text)
  if (!isObject(body)) throw wrongShape('', body, 'struct PredictionRequest')
  const repeated = repeatedField(text)
  if (repeated !== undefined) throw ServerError.of('DUPLICATE_FIELD', { field: repeated })
  const { id, input, context = {}, webhook, webhook_events_filter: events = WEBHOOK_EVENTS } = body
  if (id !== undefined && id !== null && typeof id !== 'string') throw wrongShape('id: ', id, 'a string')
  if (webhook !== undefined && webhook !== null && typeof webhook !== 'string') {
    throw wrongShape('webhook: ', webhook, 'a string')
  }
  if (!Array.isArray(events)) throw wrongShape('webhook_events_filter: ', events, 'a sequence')
  for (const event of events) {
    // Odd, and Cog's: to its reader only a text could be the name of an event.
    if (typeof event !== 'string' && !isObject(event)) throw new JsonError('webhook_events_filter: expected a text')
    if (!isWebhookEvent(event)) throw wrongShape('webhook_events_filter: ', event, WEBHOOK_EVENTS.join(' or '))
  }
  if (!isObject(context)) throw wrongShape('context: ', context, 'a map')
  for (const [name, value] of Object.entries(context)) {
    if (typeof value !== 'string') throw wrongShape(`context.${name}: `, value, 'a string')
  }
  // UTF-8 cannot carry it, so that neither an answer nor a call would say what was sent.
  for (const part of [id ?? '', webhook ?? '', ...Object.entries(context as Record<string, string>).flat()]) {
    if (!part.isWellFormed()) throw new JsonError('lone surrogate')
  }
  return {
    id: id ?? undefined,
    input: input ?? {},
    context: context as Record<string, string>,
    webhook: typeof webhook === 'string' ? { url: webhook, events: new Set<WebhookEvent>(events) } : undefined,
    body: text.length <= LONGEST_KEPT ? text : undefined,
  }
}

function isWebhookEvent(value: unknown): value is WebhookEvent {
  return WEBHOOK_EVENTS.some((event) => event === value)
}

function wrongShape(field: string, found: unknown, wanted: string): ServerError {
  const type = found === null ? 'null' : Array.isArray(found) ? 'sequence' : isObject(found) ? 'map' : typeof found
  return ServerError.of('BODY_SHAPE', { field, found: type, wanted })
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
