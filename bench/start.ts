/**
 * How soon the service is there: from `npm start` to READY, and from a POST to the first token.
 *
 *   npm run bench:start -- [runs]
 */
import { median, table } from './report.js'
import { startService } from './service.js'

const runs = Number(process.argv[2] ?? 5)

/** Milliseconds to the first `output` event of a stream. */
async function firstToken(url: string): Promise<number> {
  const start = performance.now()
  const response = await fetch(`${url}/predictions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', accept: 'text/event-stream' },
    body: JSON.stringify({ input: { prompt: 'What can you do?', max_new_tokens: 16 } }),
  })
  let text = ''
  let first = 0
  for await (const bytes of response.body!) {
    text += Buffer.from(bytes).toString()
    if (first === 0 && text.includes('event: output')) first = performance.now() - start
  }
  if (first === 0) throw new Error(`no output: ${text}`)
  return first
}

async function run(): Promise<{ ready: number; first: number; later: number }> {
  const service = await startService({ command: ['npm', 'start'] })
  const first = await firstToken(service.url)
  const later: number[] = []
  for (let i = 0; i < 10; i++) later.push(await firstToken(service.url))
  await service.stop()
  return { ready: service.readyMs, first, later: median(later) }
}

const figures: Awaited<ReturnType<typeof run>>[] = []
for (let i = 0; i < runs; i++) figures.push(await run())
const row = (name: 'ready' | 'first' | 'later', label: string) => {
  const values = figures.map((one) => one[name])
  return [label, Math.min(...values).toFixed(0), median(values).toFixed(0), Math.max(...values).toFixed(0)]
}
console.log(JSON.stringify({ date: new Date().toISOString(), runs: figures }))
console.log(
  table([
    ['ms', 'min', 'median', 'max'],
    row('ready', 'npm start → READY'),
    row('first', 'first POST → first token'),
    row('later', 'later POST → first token'),
  ]),
)
