import { readFileSync } from 'node:fs'
import type { FastifyInstance } from 'fastify'
import { Counter, exposition, type MetricFamily } from './metrics.js'
import type { Service } from './service.js'
import type { Webhooks } from './webhooks.js'

/** Adds `/metrics` for Prometheus, and counts every request from now on. Cog has no such path. docs/http.md lists the names. */
export function addMetricsRoute(app: FastifyInstance, parts: { service: Service; webhooks: Webhooks }): void {
  const requests = new Counter('method', 'route', 'status')
  app.addHook('onResponse', (request, reply, done) => {
    // The route as it was declared, never the path: ids would make a counter each.
    requests.add(request.method, request.routeOptions.url ?? 'none', reply.raw.statusCode)
    done()
  })
  app.get('/metrics', (_request, reply) =>
    reply
      .header('content-type', 'text/plain; version=0.0.4; charset=utf-8')
      .send(exposition(families(requests, parts))),
  )
}

function families(requests: Counter, { service, webhooks }: { service: Service; webhooks: Webhooks }): MetricFamily[] {
  const { running, waiting, slots } = service.load
  const { ended, queueSeconds, predictSeconds, workerDeaths } = service.metrics
  return [
    {
      name: 'bezel_http_requests_total',
      type: 'counter',
      help: 'Requests by method, route and status.',
      value: requests,
    },
    { name: 'bezel_predictions_total', type: 'counter', help: 'Predictions that have ended, by status.', value: ended },
    { name: 'bezel_predictions_running', type: 'gauge', help: 'Predictions that hold a slot.', value: running },
    { name: 'bezel_predictions_queued', type: 'gauge', help: 'Predictions that wait for a slot.', value: waiting },
    { name: 'bezel_slots', type: 'gauge', help: 'How many may run at once; 0 before setup is over.', value: slots },
    { name: 'bezel_queue_seconds', type: 'histogram', help: 'Time from request to slot.', value: queueSeconds },
    { name: 'bezel_predict_seconds', type: 'histogram', help: 'Time that a slot was held.', value: predictSeconds },
    { name: 'bezel_webhook_calls_total', type: 'counter', help: 'Tries, by result.', value: webhooks.calls },
    { name: 'bezel_worker_deaths_total', type: 'counter', help: 'Ends nobody asked for.', value: workerDeaths },
    {
      name: 'bezel_memory_bytes',
      type: 'gauge',
      help: 'Resident memory by process.',
      value: memory(service.workerPid),
    },
  ]
}

function memory(workerPid: number | undefined): { samples(name: string): string[] } {
  const worker = workerPid === undefined ? undefined : residentBytes(workerPid)
  return {
    samples: (name) => [
      `${name}{process="server"} ${process.memoryUsage.rss()}`,
      ...(worker === undefined ? [] : [`${name}{process="worker"} ${worker}`]),
    ],
  }
}

/** Of another process; only Linux tells. */
function residentBytes(pid: number): number | undefined {
  try {
    const kilobytes = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]
    return kilobytes === undefined ? undefined : Number(kilobytes) * 1024
  } catch {
    return undefined
  }
}
