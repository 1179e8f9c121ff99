import { STATUS_CODES } from 'node:http'
import type { Socket } from 'node:net'
import {
  type FastifyBaseLogger,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
  fastify,
  LogController,
} from 'fastify'
import type { Logger } from 'pino'
import { addCogRoutes, sendJson } from './cog.js'
import { ERRORS, ServerError } from './errors.js'
import { exactUrl } from './exact-url.js'
import { HTTP_LIMITS, type HttpLimits } from './limits.js'
import { addMetricsRoute } from './metrics-route.js'
import { allowedMethods } from './paths.js'
import { addProbeRoutes } from './probes.js'
import type { Schedule, Service } from './service.js'
import { addShutdownRoute, type ShutdownOptions } from './shutdown.js'
import type { Webhooks } from './webhooks.js'

export interface AppOptions {
  readonly service: Service
  readonly webhooks: Webhooks
  readonly shutdown: ShutdownOptions
  readonly log: Logger
  readonly schedule: Schedule
  /** How long a prediction goes on whose stream has no reader, for one that comes back; default 0: not at all. */
  readonly resumeMs?: number
  /** Those that differ from the defaults. */
  readonly limits?: Partial<HttpLimits>
}

/** The HTTP side with every route and the error handler, not yet listening. */
export function createApp(options: AppOptions): FastifyInstance {
  const limits = { ...HTTP_LIMITS, ...options.limits }
  const app = fastify({
    loggerInstance: options.log as FastifyBaseLogger,
    // The service logs predictions; a line for each request would only repeat them.
    logController: new LogController({ disableRequestLogging: true }),
    // A request on a connection that is still open while we drain gets our own answer.
    return503OnClosing: false,
    forceCloseConnections: 'idle',
    rewriteUrl: (request) => exactUrl(request.url!),
    routerOptions: { maxParamLength: limits.headerBytes },
    keepAliveTimeout: limits.idleMs,
    requestTimeout: limits.requestMs,
    http: {
      maxHeaderSize: limits.headerBytes,
      headersTimeout: Math.min(limits.headersMs, limits.requestMs),
      connectionsCheckingInterval: limits.checkMs,
    },
    clientErrorHandler: refuseConnection,
    // No route has a schema: without these two, Fastify would load compilers for them, half as much code again as its own.
    schemaController: { compilersFactory: { buildValidator: noCompiler, buildSerializer: noCompiler } },
    frameworkErrors: (_error, request, reply) => sendError(reply, refusePath(request, reply)),
  })
  app.server.maxConnections = limits.connections
  closeSilentConnections(app)
  // Without Nagle: else the end of a fast stream waits 40 ms for the client's delayed acknowledgement, as Cog's does.
  app.server.on('connection', (socket) => socket.setNoDelay(true))

  // Bodies are read by the routes, which have to tell no content type from a wrong one, as Cog does.
  app.removeAllContentTypeParsers()
  app.addContentTypeParser('*', (_request, _payload, done) => done(null))
  // Nor does any other route care, while Fastify refuses what it cannot parse, for unknown paths, too.
  app.addHook('onRequest', (request, _reply, done) => {
    const type = request.raw.headers['content-type']
    if (type !== undefined && type !== 'application/json') request.headers = { 'content-type': 'application/json' }
    done()
  })

  app.setErrorHandler((error, request, reply) => {
    if (error instanceof ServerError) return sendError(reply, error)
    request.log.error({ err: error }, 'request failed')
    return sendError(reply, ServerError.of('INTERNAL', { requestId: request.id }))
  })
  app.setNotFoundHandler((request, reply) => sendError(reply, refusePath(request, reply)))
  // Before all others: it counts those that come after it.
  addMetricsRoute(app, options)
  addCogRoutes(app, {
    service: options.service,
    webhooks: options.webhooks,
    schedule: options.schedule,
    limits,
    resumeMs: options.resumeMs ?? 0,
  })
  addProbeRoutes(app, options.service)
  addShutdownRoute(app, options.shutdown)
  return app

  /** What is wrong with the path or the method, which Fastify itself tells as an unknown path. */
  function refusePath(request: FastifyRequest, reply: FastifyReply): ServerError {
    const allow = allowedMethods(request.raw.url!, options.service)
    if (allow === undefined) return ServerError.of('NOT_FOUND', {})
    if (allow.split(',').includes(request.method)) return ServerError.of('INVALID_URL', {})
    reply.header('allow', allow)
    return ServerError.of('METHOD_NOT_ALLOWED', {})
  }
}

function noCompiler(): never {
  throw new Error('A route has a schema, but the validation of inputs is our own: see validation.ts.')
}

/** Node counts a connection that has sent nothing yet as busy: one that a balancer keeps ready would hold the server's end up. */
function closeSilentConnections(app: FastifyInstance): void {
  const open = new Set<Socket>()
  app.server.on('connection', (socket) => {
    open.add(socket)
    socket.once('close', () => open.delete(socket))
  })
  app.addHook('preClose', async () => {
    for (const socket of open) if (socket.bytesRead === 0) socket.destroy()
  })
}

/** What is no request, is too large for one, or takes too long: an empty answer, as Cog gives it, and the end. */
function refuseConnection(error: Error & { readonly code?: string }, socket: Socket): void {
  if (!socket.writable || error.code === 'ECONNRESET') {
    socket.destroy()
    return
  }
  const status = CLIENT_ERRORS.get(error.code ?? '') ?? 400
  const head = `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n`
  socket.end(head, () => socket.destroy())
}

const CLIENT_ERRORS: ReadonlyMap<string, number> = new Map([
  ['ERR_HTTP_REQUEST_TIMEOUT', 408],
  ['HPE_HEADER_OVERFLOW', 431],
])

function sendError(reply: FastifyReply, error: ServerError): FastifyReply {
  const { status, form } = ERRORS[error.code]
  reply.code(status)
  if (error.retryAfterSeconds !== undefined) reply.header('retry-after', error.retryAfterSeconds)
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
