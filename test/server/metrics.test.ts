import t from 'tap'
import { Counter, exposition, Histogram } from '../../server/metrics.js'
import { Predictor } from '../predictors/echo-stream.js'
import { testServer } from './fixtures.js'

t.test('counters and histograms are written as Prometheus reads them', async (t) => {
  const counter = new Counter('status')
  counter.add('a')
  counter.add('a')
  counter.add('b')
  const histogram = new Histogram([0.5, 1])
  for (const value of [0.5, 0.75, 7]) histogram.observe(value)
  t.equal(
    exposition([
      { name: 'n', type: 'counter', help: 'N.', value: counter },
      { name: 'never', type: 'counter', help: 'M.', value: new Counter() },
      { name: 'h', type: 'histogram', help: 'H.', value: histogram },
      { name: 'g', type: 'gauge', help: 'G.', value: 3 },
    ]),
    `# HELP n N.
# TYPE n counter
n{status="a"} 2
n{status="b"} 1
# HELP never M.
# TYPE never counter
never 0
# HELP h H.
# TYPE h histogram
h_bucket{le="0.5"} 1
h_bucket{le="1"} 2
h_bucket{le="+Inf"} 3
h_sum 8.25
h_count 3
# HELP g G.
# TYPE g gauge
g 3
`,
  )
})

t.test("/metrics tells what has happened, with no word of a client's", async (t) => {
  const { app, clock, webhooks } = await testServer({
    predictor: Predictor,
    concurrency: 2,
    queueLimit: 1,
    webhooks: { reach: 'public' },
  })
  t.teardown(() => app.close())
  const put = (id: string, body: object) =>
    app.inject({
      method: 'PUT',
      url: `/predictions/${id}`,
      headers: { 'content-type': 'application/json' },
      payload: body,
    })
  await put('client-word', {
    input: { prompt: 'client-word' },
    webhook: 'http://127.0.0.1:9/client-word',
    webhook_events_filter: ['completed'],
  })
  await put('client-word', { input: { prompt: 'client-word', fail_at: 0 } })
  await put('client-word', { input: {} })
  await app.inject('/client-word')
  await app.inject({ method: 'POST', url: '/predictions/client-word/cancel' })
  while (webhooks.active > 0) await new Promise((resolve) => setImmediate(resolve))
  clock.advance(1)

  const response = await app.inject('/metrics')
  t.equal(response.statusCode, 200)
  t.equal(response.headers['content-type'], 'text/plain; version=0.0.4; charset=utf-8')
  t.notMatch(response.body, /client-word/)
  const lines = new Set(response.body.split('\n'))
  for (const line of [
    'bezel_http_requests_total{method="PUT",route="/predictions/:id",status="200"} 2',
    'bezel_http_requests_total{method="PUT",route="/predictions/:id",status="422"} 1',
    'bezel_http_requests_total{method="GET",route="none",status="404"} 1',
    'bezel_predictions_total{status="succeeded"} 1',
    'bezel_predictions_total{status="failed"} 1',
    'bezel_predictions_running 0',
    'bezel_predictions_queued 0',
    'bezel_slots 2',
    'bezel_queue_seconds_count 2',
    'bezel_predict_seconds_bucket{le="0.005"} 2',
    'bezel_webhook_calls_total{result="refused"} 1',
    'bezel_worker_deaths_total 0',
  ]) {
    t.ok(lines.has(line), line)
  }
  t.match(response.body, /^bezel_memory_bytes\{process="server"\} \d+$/m)
  const head = await app.inject({ method: 'HEAD', url: '/metrics' })
  t.equal(head.statusCode, 200)
  t.equal((await app.inject({ method: 'POST', url: '/metrics' })).statusCode, 405)
})
