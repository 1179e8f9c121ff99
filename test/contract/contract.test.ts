import { writeFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { pino } from 'pino'
import t from 'tap'
import { type RunningServer, startServer } from '../../server/main.js'
import { type ContractCase, healthOf, readCases, replay } from './replay.js'

const predictors = fileURLToPath(new URL('../predictors/echo-stream.ts', import.meta.url))
const EXPORTS = { 'echo-stream': 'Predictor', 'echo-no-stream': 'NoStream' }

// Cases with the same needs share a server; each needs its own process for the variables that the predictor reads.
const groups = new Map<string, ContractCase[]>()
for (const one of readCases()) {
  const needs = JSON.stringify([one.predictor, one.server])
  groups.set(needs, [...(groups.get(needs) ?? []), one])
}
for (const cases of groups.values()) {
  const { predictor, server: needs } = cases[0]!
  t.test(`${predictor} answers as Cog does${needs ? ` with ${JSON.stringify(needs)}` : ''}`, async (t) => {
    const folder = t.testdir({})
    const server = await startFor(cases[0]!, folder)
    t.teardown(() => server.close())
    await untilHealth(server.url, needs?.until ?? 'READY')
    for (const one of cases) {
      await t.test(`${one.name}: ${one.about}`, async (t) => {
        await replay(one, { url: server.url, folder })
        t.pass()
      })
    }
  })
}

async function startFor({ predictor, server = {} }: ContractCase, folder: string): Promise<RunningServer> {
  const cogFile = join(folder, 'cog.yaml')
  writeFileSync(
    cogFile,
    `predict: "${relative(folder, predictors)}:${EXPORTS[predictor]}"\nconcurrency:\n  max: ${server.concurrency ?? 1}\n`,
  )
  const needed = Object.entries(server.env ?? {}).map(([name, value]) => [name, value.replace('<folder>', folder)])
  return await startServer({
    env: { ...process.env, HOST: '127.0.0.1', PORT: '0', DRAIN_SECONDS: '0', ...Object.fromEntries(needed) },
    cogFile,
    log: pino({ level: 'silent' }),
  })
}

async function untilHealth(url: string, status: string): Promise<void> {
  while ((await healthOf(url)) !== status) await new Promise(setImmediate)
}
