/**
 * Runs Cog's own server beside ours, with the same model, and sends both the same generated requests.
 *
 *   npm run cog:diff -- [--python PATH] [--seed N] [--requests N] [--only I]
 *
 * `--python` (or the variable PYTHON) is an interpreter that has Cog; `--only` repeats one request of a seed. Where the
 * two differ, it is on purpose, and then a row of docs/cog-compatibility.md says so, or it is a finding: one of each kind is
 * shrunk and printed. Exit code 0: no finding; 1: findings; 2: it could not run.
 */
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import * as fc from 'fast-check'
import { cases, type DifferentialCase, type WireRequest } from './cases.js'
import { signatureOf } from './compare.js'
import { Comparison, type Outcome } from './comparison.js'
import { PURPOSES, rowsFor, rowsOf, STANDING } from './purposes.js'
import { assertCog, NoCogError, startCog, startOurs } from './servers.js'

/** Time to make a finding smaller: a try takes tens of milliseconds, or a second where a prediction is interfered with. */
const SHRINKING_MS = 20_000
/** A difference that does not come again is one of timing on a busy machine; it is told, and is no finding. */
const REPETITIONS = 2

const { values } = parseArgs({
  options: {
    python: { type: 'string', default: process.env.PYTHON ?? 'python3' },
    seed: { type: 'string', default: String(Date.now() % 2 ** 31) },
    requests: { type: 'string', default: '500' },
    only: { type: 'string' },
  },
})
const seed = Number(values.seed)
const requests = Number(values.requests)
const indices = values.only === undefined ? [...Array(requests).keys()] : [Number(values.only)]

const page = readFileSync(new URL('../../../docs/cog-compatibility.md', import.meta.url), 'utf8')
const document = JSON.parse(readFileSync(new URL('../echo-stream.openapi.json', import.meta.url), 'utf8'))
const generated = cases(document)

let python: string
try {
  assertRowsExist()
  python = assertCog(values.python)
} catch (error) {
  if (!(error instanceof NoCogError || error instanceof RangeError)) throw error
  console.error(error.message)
  process.exit(2)
}

const comparison = await Comparison.start({ cog: () => startCog(python), ours: startOurs })
process.once('exit', () => comparison.kill())
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(2))

console.log(`seed ${seed}`)
const onPurpose = new Map<string, number>()
const findings = new Map<string, number>()
let equal = 0
let unsteady = 0
let meanwhile = 0
for (const index of indices) {
  const [one] = fc.sample(generated, { seed: seedOf(index), numRuns: 1 })
  meanwhile += one!.meanwhile?.requests.length ?? 0
  const verdict = await judge(one!)
  if (verdict.kind === 'equal') equal++
  else if (verdict.kind === 'on purpose') for (const row of verdict.rows) count(onPurpose, row)
  else if (await comesAgain(one!, verdict.signature)) {
    count(findings, verdict.signature)
    if (findings.get(verdict.signature) === 1) await tell(index, verdict.signature)
  } else {
    unsteady++
    console.log(
      `\nrequest ${index} differed once, and not again: ${verdict.signature}\n${shown(one!, verdict.outcome)}`,
    )
  }
}
for (const { one, outcome } of comparison.late()) {
  if (rowsFor(outcome.found, { one, ...outcome })) continue
  count(findings, 'late webhooks')
  console.log(`\nFINDING: late webhooks\n${shown(one, outcome)}`)
}
await comparison.stop()
summarize()
process.exitCode = findings.size > 0 ? 1 : 0

type Verdict =
  | { readonly kind: 'equal' }
  | { readonly kind: 'on purpose'; readonly rows: readonly string[] }
  | { readonly kind: 'finding'; readonly signature: string; readonly outcome: Outcome }

async function judge(one: DifferentialCase): Promise<Verdict> {
  const outcome = await comparison.run(one)
  if (outcome.found.length === 0) return { kind: 'equal' }
  const rows = rowsFor(outcome.found, { one, ...outcome })
  if (rows) return { kind: 'on purpose', rows }
  return { kind: 'finding', signature: signatureOf(outcome.found), outcome }
}

async function comesAgain(one: DifferentialCase, signature: string): Promise<boolean> {
  for (let i = 0; i < REPETITIONS; i++) {
    const verdict = await judge(one)
    if (verdict.kind !== 'finding' || verdict.signature !== signature) return false
  }
  return true
}

/** Looks for the smallest case that differs in the same way, and prints it. */
async function tell(index: number, signature: string): Promise<void> {
  let smallest: { one: DifferentialCase; outcome: Outcome } | undefined
  const end = performance.now() + SHRINKING_MS
  const differsAlike = fc.asyncProperty(generated, async (one) => {
    if (performance.now() > end) return true
    const verdict = await judge(one)
    if (verdict.kind !== 'finding' || verdict.signature !== signature) return true
    smallest = { one, outcome: verdict.outcome }
    return false
  })
  // Its first case is the one that `sample` drew from the same seed.
  await fc.check(differsAlike, { seed: seedOf(index), numRuns: 1 })
  console.log(`\nFINDING: ${signature}\nrepeat it with --seed ${seed} --only ${index}`)
  if (smallest) console.log(shown(smallest.one, smallest.outcome))
}

function shown(one: DifferentialCase, { found }: Outcome): string {
  const { request, meanwhile } = one
  const lines = [
    requestLine(request),
    ...(meanwhile?.requests.map((other) => `  meanwhile ${requestLine(other)}`) ?? []),
    ...(meanwhile?.leaves ? ['  then the client hangs up'] : []),
    ...found.flatMap(({ at, cog, ours }) => [`  ${at}`, `    cog:  ${cog}`, `    ours: ${ours}`]),
  ]
  return lines.map((line) => (line.length > 1000 ? `${line.slice(0, 1000)}…` : line)).join('\n')
}

function requestLine({ method, path, headers, body, chunked }: WireRequest): string {
  const named = headers.map(([name, value]) => `${name}: ${value}`)
  return [`${method} ${path}`, ...named, ...(chunked ? ['in chunks'] : []), ...(body ? [bodyText(body)] : [])].join(
    ' | ',
  )
}

function bodyText(body: Buffer): string {
  const text = body.toString('utf8')
  return Buffer.from(text).equals(body) ? text : `(bytes in hexadecimal) ${body.toString('hex')}`
}

/** Every request has a seed of its own, so that one can be repeated alone. */
function seedOf(index: number): number {
  return createHash('sha256').update(`${seed}:${index}`).digest().readInt32BE()
}

function count(counts: Map<string, number>, key: string): void {
  counts.set(key, (counts.get(key) ?? 0) + 1)
}

/** @throws {RangeError} a row that a difference is excused with is not in docs/cog-compatibility.md. */
function assertRowsExist(): void {
  const rows = rowsOf(page)
  const missing = [...STANDING, ...PURPOSES.map(({ row }) => row)].filter((row) => !rows.includes(row))
  if (missing.length > 0) throw new RangeError(`docs/cog-compatibility.md has no row for: ${missing.join('; ')}`)
}

function summarize(): void {
  const found = [...findings.values()].reduce((sum, n) => sum + n, 0)
  const purposes = indices.length - equal - unsteady - found
  console.log(`\nIn every answer, and not counted: ${STANDING.join('; ')}.`)
  for (const [row, n] of [...onPurpose].sort(([, a], [, b]) => b - a)) console.log(`${String(n).padStart(5)}  ${row}`)
  for (const [signature, n] of findings) console.log(`${String(n).padStart(5)}  FINDING ${signature}`)
  console.log(
    `${indices.length} requests (and ${meanwhile} more while they ran), seed ${seed}: ${equal} equal, ` +
      `${purposes} differ on purpose, ${found} findings${unsteady > 0 ? `, ${unsteady} differed once and not again` : ''}`,
  )
}
