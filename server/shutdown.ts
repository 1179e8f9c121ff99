import { BlockList, isIP } from 'node:net'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { sendJson } from './cog.js'
import { ServerError } from './errors.js'

/** Who may end the server by a request: programs of this machine, or programs anywhere. */
export type ShutdownFrom = 'loopback' | 'any'

export interface ShutdownOptions {
  readonly from: ShutdownFrom
  /** Called when a request was taken and its answer is out; again for each further one. */
  readonly begin: () => void
}

/**
 * Adds `POST /shutdown`: answers `{}`, then begins what SIGTERM begins. Its body is not read.
 *
 * Cog takes it from whoever can connect, and so from any page that a browser on this machine shows: a POST without a body
 * needs no leave of ours to be sent.
 */
export function addShutdownRoute(app: FastifyInstance, { from, begin }: ShutdownOptions): void {
  app.post('/shutdown', (request, reply) => {
    const refusal = refusalOf(request, from)
    if (refusal) {
      request.log.warn({ code: refusal.code, peer: request.raw.socket.remoteAddress }, 'shutdown refused')
      throw refusal
    }
    request.log.info({ peer: request.raw.socket.remoteAddress }, 'shutdown asked for by a request')
    // Only then: whoever closes connections must not find this one without its answer.
    reply.raw.once('close', begin)
    return sendJson(reply.header('connection', 'close'), {})
  })
}

/** Sent with each request by browsers, the older ones among them, and not by programs. */
const BROWSER_HEADERS = ['origin', 'referer', 'sec-fetch-site']
/** Added by proxies: such a request comes from elsewhere, although its connection does not. */
const PROXY_HEADERS = ['forwarded', 'x-forwarded-for', 'x-real-ip', 'via']

function refusalOf({ headers, raw }: FastifyRequest, from: ShutdownFrom): ServerError | undefined {
  const page = BROWSER_HEADERS.find((name) => headers[name] !== undefined)
  if (page !== undefined) return ServerError.of('SHUTDOWN_FROM_BROWSER', { header: page })
  if (from === 'any') return undefined
  const elsewhere = (reason: string) => ServerError.of('SHUTDOWN_FROM_ELSEWHERE', { reason })
  const peer = raw.socket.remoteAddress
  if (peer === undefined || !isLoopback(peer)) return elsewhere(`came from ${peer ?? 'a connection that is gone'}`)
  const proxy = PROXY_HEADERS.find((name) => headers[name] !== undefined)
  if (proxy !== undefined) return elsewhere(`came through a proxy: it has the header ${proxy}`)
  // A name that someone lets point here: pages under it count as ours to a browser.
  if (headers.host !== undefined && !isLoopbackHost(headers.host)) return elsewhere('has another Host than localhost')
  return undefined
}

/** @param host a Host header: a name or an address, and perhaps a port. */
function isLoopbackHost(host: string): boolean {
  const match = /^(?:\[([^[\]]+)\]|([^:[\]]+))(?::\d*)?$/.exec(host)
  const name = (match?.[1] ?? match?.[2] ?? '').toLowerCase()
  return name === 'localhost' || name.endsWith('.localhost') || isLoopback(name)
}

function isLoopback(address: string): boolean {
  const family = isIP(address)
  return family !== 0 && LOOPBACK.check(address, family === 4 ? 'ipv4' : 'ipv6')
}

/** Also finds IPv4 addresses that IPv6 sockets tell as `::ffff:127.0.0.1`. */
const LOOPBACK = new BlockList()
LOOPBACK.addSubnet('127.0.0.0', 8, 'ipv4')
LOOPBACK.addAddress('::1', 'ipv6')
