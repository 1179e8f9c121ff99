/**
 * The service over HTTP under load, with the keys of vLLM's `bench serve`; beside llama.cpp behind a plain server, in turn.
 *
 *   npm run bench:serve -- --model <exported folder> [--gguf <file>] [--users 1,4,8,16,32] [--slots 8] [--out <json>]
 *
 * Closed loop for each number of users; open loop (Poisson) at 0.7 of what the slower server did with as many users as
 * slots; then conversations of three turns on one shared preamble. All requests stream, and everyone gets the same text.
 * With a GGUF the peer runs too: it needs `npm ci` in bench/peers.
 */
import { writeFileSync } from 'node:fs'
import { cpus, loadavg } from 'node:os'
import { parseArgs } from 'node:util'
import { table } from './report.js'
import { type Service, startService } from './service.js'
import { type ServingFigures, servingFigures } from './serving/figures.js'
import { closedLoop, conversations, openLoop } from './serving/load.js'
import { asks, seeded, words } from './serving/prompts.js'

const { values } = parseArgs({
  options: {
    model: { type: 'string' },
    gguf: { type: 'string' },
    users: { type: 'string', default: '1,4,8,16,32' },
    slots: { type: 'string', default: '8' },
    out: { type: 'string' },
  },
})
if (values.model === undefined) throw new Error('Say what to serve: npm run bench:serve -- --model <exported folder>')
const levels = values.users.split(',').map(Number)
const slots = Number(values.slots)

const CONTEXT_LENGTH = 2048
/** Prompts of 24 … 96 words: a question with some context. */
const LENGTHS = { least: 24, newTokens: 32 }
/** A reader reads five words a second; and waits for the first as long as one waits for a page. */
const GOODPUT = { ttft: 5000, tpot: 200 }
const LEAST_REQUESTS = 8
const SHARE_OF_CAPACITY = 0.7
const CONVERSATIONS = { users: 4, turns: 3, opening: 300, says: 30, newTokens: 24 }

interface Server {
  readonly name: string
  start(): Promise<Service>
}

const servers: Server[] = [
  {
    name: 'bezel',
    start: () =>
      startService({
        env: {
          MODEL: values.model!,
          COG_MAX_CONCURRENCY: String(slots),
          QUEUE: '256',
          CONTEXT_LENGTH: String(CONTEXT_LENGTH),
        },
      }),
  },
]
if (values.gguf !== undefined) {
  const command = ['node', '--import', 'tsx', 'bench/peers/llama-server.ts', values.gguf, String(slots)]
  servers.push({
    name: 'llama.cpp',
    start: () => startService({ command, env: { CONTEXT_LENGTH: String(CONTEXT_LENGTH) } }),
  })
}

const results = new Map<string, Map<string, ServingFigures>>(servers.map(({ name }) => [name, new Map()]))
const keep = (server: Server, row: string, figures: ServingFigures) => {
  results.get(server.name)!.set(row, figures)
  console.error(
    `${server.name}, ${row}: ${figures.completed} done, ${figures.failed} failed in ${figures.duration.toFixed(1)} s`,
  )
}
const loadBefore = loadavg()

for (const users of levels) {
  for (const server of servers) {
    await using service = disposable(await server.start())
    await closedLoop(service.url, 1, asks(1, LENGTHS, seeded(0)))
    const requests = asks(Math.max(users, LEAST_REQUESTS), LENGTHS, seeded(users))
    keep(server, `${users} users`, servingFigures(await closedLoop(service.url, users, requests), GOODPUT))
  }
}

const busiest = levels.includes(slots) ? slots : levels.at(-1)!
const capacity = [...results.values()].map((rows) => rows.get(`${busiest} users`)!.request_throughput)
const rate = SHARE_OF_CAPACITY * Math.min(...capacity)
for (const server of servers) {
  await using service = disposable(await server.start())
  await closedLoop(service.url, 1, asks(1, LENGTHS, seeded(0)))
  const arrivals = await openLoop(service.url, rate, asks(2 * busiest, LENGTHS, seeded(99)), seeded(7))
  keep(server, `open loop, ${rate.toFixed(2)}/s`, servingFigures(arrivals, GOODPUT))
}

const random = seeded(5)
const talk = {
  opening: `<start_of_turn>user\n${words(CONVERSATIONS.opening, random)}<end_of_turn>\n<start_of_turn>model\nYes.<end_of_turn>\n`,
  says: Array.from({ length: CONVERSATIONS.users }, () =>
    Array.from({ length: CONVERSATIONS.turns }, () => words(CONVERSATIONS.says, random)),
  ),
  newTokens: CONVERSATIONS.newTokens,
}
for (const server of servers) {
  await using service = disposable(await server.start())
  const turns = await conversations(service.url, talk)
  for (const [turn, result] of turns.entries()) keep(server, `chat, turn ${turn + 1}`, servingFigures(result, GOODPUT))
}

const json = JSON.stringify({
  date: new Date().toISOString(),
  cpu: cpus()[0]?.model,
  threads: cpus().length,
  load: { before: loadBefore, after: loadavg() },
  slots,
  goodput: GOODPUT,
  results: Object.fromEntries([...results].map(([name, rows]) => [name, Object.fromEntries(rows)])),
})
if (values.out === undefined) console.log(json)
else writeFileSync(values.out, json)

const COLUMNS = [
  ['req/s', 'request_throughput', 2],
  ['good/s', 'request_goodput', 2],
  ['tok/s', 'output_throughput', 1],
  ['TTFT ms', 'median_ttft_ms', 0],
  ['p99', 'p99_ttft_ms', 0],
  ['TPOT ms', 'median_tpot_ms', 0],
  ['p99', 'p99_tpot_ms', 0],
  ['ITL p99', 'p99_itl_ms', 0],
  ['E2EL ms', 'median_e2el_ms', 0],
  ['p99', 'p99_e2el_ms', 0],
] as const
const rows = [...results.values()][0]!.keys()
console.log(
  table([
    ['', '', ...COLUMNS.map(([title]) => title), 'failed'],
    ...[...rows].flatMap((row) =>
      servers.map(({ name }) => {
        const figures = results.get(name)!.get(row)!
        return [row, name, ...COLUMNS.map(([, key, digits]) => figures[key].toFixed(digits)), String(figures.failed)]
      }),
    ),
  ]),
)

function disposable(service: Service): Service & AsyncDisposable {
  const kill = () => service.kill()
  process.on('exit', kill)
  return {
    ...service,
    async [Symbol.asyncDispose]() {
      process.off('exit', kill)
      await service.stop()
    },
  }
}
