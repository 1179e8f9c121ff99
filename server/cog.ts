import type { IncomingHttpHeaders, IncomingMessage } from 'node:http'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { COG_RELEASE } from './cog-release.js'
import { ServerError } from './errors.js'
import { JsonError, parseJson, stringifySorted } from './json.js'
import type { Prediction } from './prediction.js'
import type { Health, Schedule, Service } from './service.js'
import { streamPrediction } from './sse.js'
import { WEBHOOK_EVENTS, type Webhook, type WebhookEvent, type Webhooks } from './webhooks.js'

export interface CogRoutesOptions {
  readonly service: Service
  readonly webhooks: Webhooks
  readonly schedule: Schedule
  /** Most bytes of a request's body. */
  readonly bodyLimitBytes: number
  /** Most bytes that wait for one reader of a stream. */
  readonly streamBufferBytes: number
}

/** Cog's limit for a request's body. */
export const BODY_LIMIT_BYTES = 104_857_600

/** Adds Cog's routes. Paths are matched exactly: a trailing slash or another letter case is another path. */
export function addCogRoutes(app: FastifyInstance, options: CogRoutesOptions): void {
  const { service } = options
  const openStreams = new WeakMap<Prediction, number>()

  app.get('/', (_request, reply) => sendJson(reply, DISCOVERY))

  app.get('/health-check', async (_request, reply) =>
    // Not sorted: Cog's order is part of this answer, and its only one.
    sendText(reply, JSON.stringify(healthBody(await service.health()))),
  )

  app.get('/openapi.json', (_request, reply) => {
    if (!service.document) throw ServerError.of('SCHEMA_NOT_AVAILABLE', {})
    return sendJson(reply, service.document)
  })

  app.post('/predictions', async (request, reply) => {
    const envelope = await readEnvelope(request, options.bodyLimitBytes)
    return await predict(request, reply, envelope)
  })

  app.put<{ Params: { id: string } }>('/predictions/:id', async (request, reply) => {
    const { id } = request.params
    const envelope = await readEnvelope(request, options.bodyLimitBytes)
    if (envelope.id !== undefined && envelope.id !== id) {
      const msg = 'prediction ID must match the ID supplied in the URL'
      throw ServerError.withDetail('ID_MISMATCH', [{ loc: ['body', 'id'], msg, type: 'value_error' }])
    }
    const running = service.find(id)
    if (!running) return await predict(request, reply, { ...envelope, id })
    if (modeOf(request.headers) === 'stream') return join(reply, running)
    // Cog answers at once here, also in the mode that waits.
    return sendJson(reply.code(202), running.progress())
  })

  app.post<{ Params: { id: string } }>('/predictions/:id/cancel', (request, reply) =>
    sendJson(reply.code(service.cancelById(request.params.id) ? 200 : 404), {}),
  )

  async function predict(request: FastifyRequest, reply: FastifyReply, envelope: Envelope): Promise<FastifyReply> {
    const mode = modeOf(request.headers)
    // Unknown before setup is over: then the 503 of `create` says more than Cog's 406.
    if (mode === 'stream' && service.streaming === false) throw ServerError.of('STREAMING_NOT_SUPPORTED', {})
    const left = leaving(reply)
    const webhook = envelope.webhook && { ...envelope.webhook, trace: traceOf(request.headers) }
    const onAccept = (prediction: Prediction) => {
      if (webhook) options.webhooks.follow(prediction, webhook)
      if (mode === 'stream') stream(reply, prediction)
    }
    if (mode === 'stream') {
      await service.create({ ...envelope, signal: left, onAccept })
      return reply
    }
    if (mode === 'async') {
      // Not tied to this connection: whoever asked may be gone before the answer.
      const { id } = await service.create({ ...envelope, signal: NEVER, onAccept })
      // As Cog does, also when it has started by now.
      return sendJson(reply.code(202), { id, status: 'starting' })
    }
    const prediction = await service.create({ ...envelope, signal: left, onAccept })
    const cancel = () => service.cancel(prediction)
    if (left.aborted) cancel()
    left.addEventListener('abort', cancel, { once: true })
    await prediction.ended
    left.removeEventListener('abort', cancel)
    return sendJson(reply, prediction.answer())
  }

  /** The stream that starts a prediction: it is canceled when its last reader leaves. */
  function stream(reply: FastifyReply, prediction: Prediction): void {
    openStreams.set(prediction, 0)
    join(reply, prediction)
  }

  function join(reply: FastifyReply, prediction: Prediction): FastifyReply {
    const count = (change: number) => {
      const readers = openStreams.get(prediction)
      if (readers === undefined) return
      openStreams.set(prediction, readers + change)
      if (readers + change === 0) service.cancel(prediction)
    }
    count(1)
    reply.hijack()
    streamPrediction({
      prediction,
      response: reply.raw,
      schedule: options.schedule,
      bufferBytes: options.streamBufferBytes,
      onLeave: (reason) => {
        if (reason === 'lagged') reply.log.warn({ id: prediction.id }, 'stream cut off: its reader does not keep up')
        count(-1)
      },
    })
    return reply
  }
}

const DISCOVERY = {
  cog_version: COG_RELEASE.python_sdk,
  // Listed by Cog, although it answers 404.
  docs_url: '/docs',
  healthcheck_url: '/health-check',
  openapi_url: '/openapi.json',
  predictions_cancel_url: '/predictions/{prediction_id}/cancel',
  predictions_idempotent_url: '/predictions/{prediction_id}',
  predictions_url: '/predictions',
  shutdown_url: '/shutdown',
}

function healthBody({ status, setup, healthcheckError }: Health): Record<string, unknown> {
  return {
    status,
    setup: {
      started_at: timestamp(setup.startedAt),
      ...(setup.completedAt && { completed_at: timestamp(setup.completedAt) }),
      status: setup.status,
      ...(setup.completedAt && setup.logs !== '' && { logs: setup.logs }),
    },
    version: COG_RELEASE,
    ...(healthcheckError !== undefined && { user_healthcheck_error: healthcheckError }),
  }
}

/** RFC 3339 with nine decimals and a numeric zone, as Cog writes it. */
function timestamp(date: Date): string {
  return date.toISOString().replace('Z', '000000+00:00')
}

/** Sends a JSON answer as Cog does, with sorted keys. */
export function sendJson(reply: FastifyReply, body: unknown): FastifyReply {
  return sendText(reply, stringifySorted(body))
}

/** As bytes: Cog names no charset, and Fastify would add one to a text. */
function sendText(reply: FastifyReply, json: string): FastifyReply {
  return reply.header('content-type', 'application/json').send(Buffer.from(json))
}

/**
 * How the client wants its answer. As Cog reads `Accept`: one of the parts, cut before its first semicolon, must be
 * exactly `text/event-stream`; a quality of 0, wildcards and other letter case do not count. `Prefer` is read as
 * RFC 7240 has it: a list, in any case, with parameters. Cog takes it only when it is exactly `respond-async`.
 */
function modeOf(headers: IncomingHttpHeaders): 'sync' | 'async' | 'stream' {
  if (partsOf(headers.accept).some((part) => part === 'text/event-stream')) return 'stream'
  const preferences = partsOf(headers.prefer).map((part) => part.trimEnd().toLowerCase())
  return preferences.includes('respond-async') ? 'async' : 'sync'
}

/** The parts of a list, each cut before its first semicolon. */
function partsOf(header: string | string[] | undefined): string[] {
  return String(header ?? '')
    .split(',')
    .map((part) => part.trim().split(';')[0]!)
}

const NEVER = new AbortController().signal

/** Fires when the client is gone before its answer was written. */
function leaving(reply: FastifyReply): AbortSignal {
  const left = new AbortController()
  reply.raw.once('close', () => {
    if (!reply.raw.writableEnded) left.abort()
  })
  return left.signal
}

/** The W3C trace headers, which webhooks carry on. */
function traceOf(headers: IncomingHttpHeaders): Record<string, string> {
  const names = ['traceparent', 'tracestate']
  return Object.fromEntries(
    names.flatMap((name) => (headers[name] === undefined ? [] : [[name, String(headers[name])]])),
  )
}

interface Envelope {
  readonly id: string | undefined
  readonly webhook: Omit<Webhook, 'trace'> | undefined
  readonly input: unknown
  readonly context: Readonly<Record<string, string>>
}

async function readEnvelope(request: FastifyRequest, limit: number): Promise<Envelope> {
  const type = request.headers['content-type']
  // As Cog does: without a content type the body is not read, and counts as {}.
  if (type === undefined) return parseEnvelope({})
  if (!isJson(type)) throw ServerError.of('BODY_TYPE', {})
  const body = await readBody(request.raw, limit)
  try {
    return parseEnvelope(parseJson(body))
  } catch (error) {
    if (error instanceof JsonError) throw ServerError.of('BODY_NOT_JSON', { reason: error.message })
    throw error
  }
}

/** `application/json` or `application/…+json`, in any case, with any parameters. */
function isJson(contentType: string): boolean {
  return /^application\/(?:json|[^;\s]+\+json)$/i.test(contentType.split(';')[0]!.trim())
}

/**
 * Reads a body of at most `limit` bytes.
 *
 * What comes beyond is read and thrown away, as much again, before the refusal: an answer to a client that still sends
 * would be lost with the connection.
 */
async function readBody(request: IncomingMessage, limit: number): Promise<Buffer> {
  const chunks: Buffer[] = []
  let size = 0
  for await (const chunk of request.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
    size += chunk.length
    if (size <= limit) chunks.push(chunk)
    else chunks.length = 0
    if (size > 2 * limit) break
  }
  if (size > limit) throw ServerError.of('BODY_TOO_LARGE', { limit })
  return Buffer.concat(chunks, size)
}

/** Fields that are not known are ignored, whatever their type. */
function parseEnvelope(body: unknown): Envelope {
  if (!isObject(body)) throw wrongShape('', body, 'struct PredictionRequest')
  const { id, input, context = {}, webhook, webhook_events_filter: events = WEBHOOK_EVENTS } = body
  if (id !== undefined && id !== null && typeof id !== 'string') throw wrongShape('id: ', id, 'a string')
  if (webhook !== undefined && webhook !== null && typeof webhook !== 'string') {
    throw wrongShape('webhook: ', webhook, 'a string')
  }
  if (!Array.isArray(events)) throw wrongShape('webhook_events_filter: ', events, 'a sequence')
  for (const event of events) {
    if (!isWebhookEvent(event)) throw wrongShape('webhook_events_filter: ', event, WEBHOOK_EVENTS.join(' or '))
  }
  if (!isObject(context)) throw wrongShape('context: ', context, 'a map')
  for (const [name, value] of Object.entries(context)) {
    if (typeof value !== 'string') throw wrongShape(`context.${name}: `, value, 'a string')
  }
  return {
    id: id ?? undefined,
    input: input ?? {},
    context: context as Record<string, string>,
    webhook: typeof webhook === 'string' ? { url: webhook, events: new Set<WebhookEvent>(events) } : undefined,
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
