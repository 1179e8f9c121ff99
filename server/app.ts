import { type FastifyBaseLogger, type FastifyInstance, type FastifyReply, fastify, LogController } from 'fastify'
import type { Logger } from 'pino'
import { addCogRoutes, BODY_LIMIT_BYTES, sendJson } from './cog.js'
import { ERRORS, ServerError } from './errors.js'
import type { Schedule, Service } from './service.js'
import { STREAM_BUFFER_BYTES } from './sse.js'
import type { Webhooks } from './webhooks.js'

export interface AppOptions {
  readonly service: Service
  readonly webhooks: Webhooks
  readonly log: Logger
  readonly schedule: Schedule
  /** Most bytes of a request's body; default 100 MiB, as Cog. */
  readonly bodyLimitBytes?: number
  /** Most bytes that wait for one reader of a stream; default 1 MiB. */
  readonly streamBufferBytes?: number
}

/** Node bounds the whole request head to 16 KiB; an id may fill what is left of it. */
const LONGEST_ID = 16 * 1024

/** The HTTP side with every route and the error handler, not yet listening. */
export function createApp(options: AppOptions): FastifyInstance {
  const app = fastify({
    loggerInstance: options.log as FastifyBaseLogger,
    // The service logs predictions; a line for each request would only repeat them.
    logController: new LogController({ disableRequestLogging: true }),
    // A request on a connection that is still open while we drain gets our own answer.
    return503OnClosing: false,
    forceCloseConnections: 'idle',
    routerOptions: { maxParamLength: LONGEST_ID },
    frameworkErrors: (_error, _request, reply) => sendError(reply, ServerError.of('INVALID_URL', {})),
  })
  // Without Nagle: else the end of a fast stream waits 40 ms for the client's delayed acknowledgement, as Cog's does.
  app.server.on('connection', (socket) => socket.setNoDelay(true))

  // Bodies are read by the routes, which have to tell no content type from a wrong one, as Cog does.
  app.removeAllContentTypeParsers()
  app.addContentTypeParser('*', (_request, _payload, done) => done(null))

  app.setErrorHandler((error, request, reply) => {
    if (error instanceof ServerError) return sendError(reply, error)
    // A content type that cannot be parsed never reaches a route.
    if ((error as { code?: string }).code === 'FST_ERR_CTP_INVALID_MEDIA_TYPE') {
      return sendError(reply, ServerError.of('BODY_TYPE', {}))
    }
    request.log.error({ err: error }, 'request failed')
    return sendError(reply, ServerError.of('INTERNAL', { requestId: request.id }))
  })
  app.setNotFoundHandler((request, reply) => {
    const allow = allowedMethods(request.url)
    if (allow === undefined) return sendError(reply, ServerError.of('NOT_FOUND', {}))
    return sendError(reply.header('allow', allow), ServerError.of('METHOD_NOT_ALLOWED', {}))
  })
  addCogRoutes(app, {
    service: options.service,
    webhooks: options.webhooks,
    schedule: options.schedule,
    bodyLimitBytes: options.bodyLimitBytes ?? BODY_LIMIT_BYTES,
    streamBufferBytes: options.streamBufferBytes ?? STREAM_BUFFER_BYTES,
  })
  return app
}

const ALLOWED_METHODS: readonly (readonly [path: RegExp, allow: string])[] = [
  [/^\/(?:health-check|openapi\.json)?$/, 'GET,HEAD'],
  [/^\/predictions$/, 'POST'],
  [/^\/predictions\/[^/]+$/, 'PUT'],
  [/^\/predictions\/[^/]+\/cancel$/, 'POST'],
]

/** The methods of a path that exists; Fastify itself answers a wrong method as an unknown path. */
function allowedMethods(url: string): string | undefined {
  const path = url.split('?')[0]!
  return ALLOWED_METHODS.find(([pattern]) => pattern.test(path))?.[1]
}

function sendError(reply: FastifyReply, error: ServerError): FastifyReply {
  const { status, form } = ERRORS[error.code]
  reply.code(status)
  switch (form) {
    case 'empty':
      return reply.send()
    case 'text':
      return reply.header('content-type', 'text/plain; charset=utf-8').send(error.message)
    case 'detail':
      return sendJson(reply, { detail: error.detail })
    case 'error':
      return sendJson(reply, { error: error.message })
    case 'failed':
      return sendJson(reply, { error: error.message, status: 'failed' })
  }
}
