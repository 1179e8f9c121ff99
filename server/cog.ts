import type { IncomingHttpHeaders, IncomingMessage } from 'node:http'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { BodyReader } from './body.js'
import { parseCancelAfter } from './cancel-after.js'
import { COG_RELEASE } from './cog-release.js'
import { type Envelope, readEnvelope } from './envelope.js'
import { ServerError } from './errors.js'
import { stringifySorted } from './json.js'
import type { HttpLimits } from './limits.js'
import type { RunKind } from './messages.js'
import type { Prediction } from './prediction.js'
import { StreamReaders } from './readers.js'
import type { Health, Place, Schedule, Service } from './service.js'
import type { Webhooks } from './webhooks.js'

export interface CogRoutesOptions {
  readonly service: Service
  readonly webhooks: Webhooks
  readonly schedule: Schedule
  readonly limits: HttpLimits
  /** How long a prediction goes on whose stream has no reader; 0: it does not. */
  readonly resumeMs: number
}

/** Adds Cog's routes. Paths are matched exactly: a trailing slash or another letter case is another path. */
export function addCogRoutes(app: FastifyInstance, options: CogRoutesOptions): void {
  const { service, limits } = options
  const bodies = new BodyReader({ limit: limits.bodyBytes, totalLimit: limits.bodiesBytes })
  const readers = new StreamReaders({
    service,
    schedule: options.schedule,
    bufferBytes: limits.streamBufferBytes,
    most: limits.streamReaders,
    resumeMs: options.resumeMs,
  })

  app.get('/', (_request, reply) => sendJson(reply, { ...DISCOVERY, ...(service.trains && TRAININGS_DISCOVERY) }))

  app.get('/health-check', async (_request, reply) =>
    // Not sorted: Cog's order is part of this answer, and its only one.
    sendText(reply, JSON.stringify(healthBody(await service.health()))),
  )

  app.get('/openapi.json', (_request, reply) => {
    if (!service.document) throw ServerError.of('SCHEMA_NOT_AVAILABLE', {})
    return sendJson(reply, service.document)
  })

  for (const kind of ['prediction', 'training'] as const) {
    const path = `/${kind}s`

    app.post(path, async (request, reply) => {
      const envelope = await readRequest(request, kind)
      return await run(request, reply, envelope)
    })

    app.put<{ Params: { id: string } }>(`${path}/:id`, async (request, reply) => {
      const { id } = request.params
      const envelope = await readRequest(request, kind)
      if (envelope.id !== undefined && envelope.id !== id) {
        const msg = `${kind} ID must match the ID supplied in the URL`
        throw ServerError.withDetail('ID_MISMATCH', [{ loc: ['body', 'id'], msg, type: 'value_error' }])
      }
      const mode = modeOf(request.raw)
      const after = lastEventId(request.headers)
      // Whoever has a part of a stream wants the rest of it, also when it has ended meanwhile; Cog would run it again.
      const running = mode === 'stream' && after >= 0 ? service.recall(id) : service.find(id)
      if (!running) return await run(request, reply, { ...envelope, id })
      if (mode === 'stream') return join(reply, running, after)
      // Cog answers at once here, also in the mode that waits.
      return sendJson(reply.code(202), running.progress())
    })

    // By any of the two paths, as in Cog: predictions and trainings share their ids.
    app.post<{ Params: { id: string } }>(`${path}/:id/cancel`, (request, reply) => {
      assertServed(kind)
      return sendJson(reply.code(service.cancelById(request.params.id) ? 200 : 404), {})
    })
  }

  // Cog answers 405.
  if (service.keeps) {
    app.get<{ Params: { id: string } }>('/predictions/:id', (request, reply) => {
      const prediction = service.recall(request.params.id)
      if (!prediction) throw ServerError.of('PREDICTION_NOT_FOUND', {})
      if (modeOf(request.raw) === 'stream') return join(reply, prediction, lastEventId(request.headers))
      return sendJson(reply, { ...prediction.progress(), ...placeBody(service.place(prediction)) })
    })
  }

  /** Cog runs a prediction where there is no training. */
  function assertServed(kind: RunKind): void {
    if (kind === 'training' && service.trains === false) throw ServerError.of('NOT_FOUND', {})
  }

  async function readRequest(request: FastifyRequest, kind: RunKind): Promise<RunRequest> {
    assertServed(kind)
    const envelope = await readEnvelope(request, bodies)
    // Even before setup is over, as in Cog: no training streams.
    if (kind === 'training' && modeOf(request.raw) === 'stream') {
      throw ServerError.of('TRAINING_STREAMS_NOT_SUPPORTED', {})
    }
    return { kind, ...envelope }
  }

  async function run(request: FastifyRequest, reply: FastifyReply, envelope: RunRequest): Promise<FastifyReply> {
    const mode = modeOf(request.raw)
    if (envelope.id !== undefined && Buffer.byteLength(envelope.id) > limits.idBytes) {
      const msg = `prediction ID must be at most ${limits.idBytes} bytes`
      throw ServerError.withDetail('ID_TOO_LONG', [{ loc: ['body', 'id'], msg, type: 'value_error' }])
    }
    const cancelAfterMs = readCancelAfter(request.headers)
    // Unknown before setup is over: then the 503 of `create` says more than Cog's 406.
    if (mode === 'stream' && service.streaming === false) throw ServerError.of('STREAMING_NOT_SUPPORTED', {})
    const webhook = envelope.webhook && { ...envelope.webhook, trace: traceOf(request.raw) }
    let isFollowed = false
    const follow = (prediction: Prediction) => {
      if (webhook && !isFollowed) options.webhooks.follow(prediction, webhook)
      isFollowed = true
    }
    if (mode === 'stream') {
      let followed = false
      // Until it is followed; from then on its readers are counted.
      const onAdmit = (prediction: Prediction) =>
        onLeave(reply, () => {
          if (!followed) service.cancel(prediction)
        })
      // One that has to wait is followed from then on, for its reader's patience; else from its acceptance.
      const read = (prediction: Prediction) => {
        if (!followed) readers.start(reply, prediction)
        followed = true
      }
      const onAccept = (prediction: Prediction) => {
        follow(prediction)
        read(prediction)
      }
      try {
        await service.create({ ...envelope, cancelAfterMs, onAdmit, onAccept, onQueue: read })
      } catch (error) {
        // Refused by the Predictor's own check after it waited: its stream has told so.
        if (!followed) throw error
      }
      return reply
    }
    if (mode === 'async') {
      const { id } = await new Promise<Prediction>((resolve, reject) => {
        // From here on the answer is 202, so that even a refusal after the wait has to reach the webhook.
        const onQueue = (prediction: Prediction) => {
          follow(prediction)
          resolve(prediction)
        }
        // Not tied to this connection: whoever asked may be gone before the answer.
        const request = { ...envelope, cancelAfterMs, onAccept: follow, onQueue }
        service.create(request).then(resolve, reject)
      })
      // As Cog does, also when it has started by now.
      return sendJson(reply.code(202), { id, status: 'starting' })
    }
    const onAdmit = (prediction: Prediction) => onLeave(reply, () => service.cancel(prediction))
    const prediction = await service.create({ ...envelope, cancelAfterMs, onAdmit, onAccept: follow })
    await prediction.ended
    return sendJson(reply, prediction.answer())
  }

  function join(reply: FastifyReply, prediction: Prediction, after: number): FastifyReply {
    if (service.streaming === false) throw ServerError.of('STREAMING_NOT_SUPPORTED', {})
    readers.join(reply, prediction, after)
    return reply
  }
}

/** The number of the last event that a reader has; −1 for one that has none. */
function lastEventId(headers: IncomingHttpHeaders): number {
  const id = headers['last-event-id']
  return typeof id === 'string' && /^\d{1,15}$/.test(id) ? Number(id) : -1
}

function readCancelAfter(headers: IncomingHttpHeaders): number | undefined {
  const text = headers['cancel-after']
  if (text === undefined) return undefined
  const ms = parseCancelAfter(String(text))
  if (ms !== undefined) return ms
  const msg = 'must be 5 s to 24 h, such as 30, 30s, 5m or 1h30m45s'
  throw ServerError.withDetail('CANCEL_AFTER', [{ loc: ['header', 'Cancel-After'], msg, type: 'value_error' }])
}

function placeBody(place: Place | undefined): object {
  if (!place) return {}
  const { position, estimateMs } = place
  return { queue: { position, ...(estimateMs !== undefined && { estimated_seconds: estimateMs / 1000 }) } }
}

/** What a client asks to be run. */
interface RunRequest extends Envelope {
  readonly kind: RunKind
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

/** Only of a model that can be trained. */
const TRAININGS_DISCOVERY = {
  trainings_cancel_url: '/trainings/{training_id}/cancel',
  trainings_idempotent_url: '/trainings/{training_id}',
  trainings_url: '/trainings',
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
function modeOf({ headers, rawHeaders }: IncomingMessage): 'sync' | 'async' | 'stream' {
  // Of a header that comes twice Cog sees the first one, and Node joins both.
  const accept = headers.accept?.includes(',') ? firstOf(rawHeaders, 'accept') : headers.accept
  if (partsOf(accept).some((part) => part === 'text/event-stream')) return 'stream'
  const preferences = partsOf(headers.prefer).map((part) => part.trimEnd().toLowerCase())
  return preferences.includes('respond-async') ? 'async' : 'sync'
}

/** @param headers names and values in turn. */
function firstOf(headers: readonly string[], name: string): string | undefined {
  const index = headers.findIndex((text, i) => i % 2 === 0 && text.toLowerCase() === name)
  return index < 0 ? undefined : headers[index + 1]
}

/** The parts of a list, each cut before its first semicolon. */
function partsOf(header: string | string[] | undefined): string[] {
  return String(header ?? '')
    .split(',')
    .map((part) => part.trim().split(';')[0]!)
}

/** Calls `action` once when the client is gone before its answer was written; at once if it is gone already. */
function onLeave(reply: FastifyReply, action: () => void): void {
  if (reply.raw.destroyed) action()
  else {
    reply.raw.once('close', () => {
      if (!reply.raw.writableEnded) action()
    })
  }
}

/**
 * The W3C trace headers, which webhooks carry on. Of a `traceparent` that comes twice the first, as in Cog; `tracestate` is a
 * list, of which Cog loses what stands in a second header.
 */
function traceOf({ headers, rawHeaders }: IncomingMessage): Record<string, string> {
  const { traceparent, tracestate } = headers
  const parent =
    typeof traceparent === 'string' && traceparent.includes(',') ? firstOf(rawHeaders, 'traceparent') : traceparent
  return {
    ...(parent !== undefined && { traceparent: String(parent) }),
    ...(tracestate !== undefined && { tracestate: String(tracestate) }),
  }
}
