import type { FastifyInstance } from 'fastify'
import { sendJson } from './cog.js'
import type { Service } from './service.js'

/**
 * Adds `/livez`, which answers as long as this process does, and `/readyz`, which says with its status whether to send
 * predictions here. Cog has neither; its `/health-check` is 200 in every state.
 */
export function addProbeRoutes(app: FastifyInstance, service: Service): void {
  app.get('/livez', (_request, reply) => sendJson(reply, { status: 'alive' }))

  app.get('/readyz', async (_request, reply) => {
    const status = service.isLeaving ? 'DRAINING' : (await service.health()).status
    // Busy is ready: whoever is busy says so to each request, and a probe that flaps with the load takes pods out of it.
    const ready = status === 'READY' || status === 'BUSY'
    return sendJson(reply.code(ready ? 200 : 503), { status })
  })
}
