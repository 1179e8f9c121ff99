import t from 'tap'
import { spawnServer, untilHealth } from '../server/spawn.js'
import { type ContractCase, readCases, replay } from './replay.js'

const EXPORTS = { 'echo-stream': 'Predictor', 'echo-no-stream': 'NoStream', 'echo-train': 'Trainable' }

// Cases with the same needs share a server, unless they end it.
const groups = new Map<string, ContractCase[]>()
for (const one of readCases()) {
  const needs = JSON.stringify([one.predictor, one.server, one.exit === undefined ? '' : one.name])
  groups.set(needs, [...(groups.get(needs) ?? []), one])
}
for (const cases of groups.values()) {
  const { predictor, server: needs } = cases[0]!
  t.test(`${predictor} answers as Cog does${needs ? ` with ${JSON.stringify(needs)}` : ''}`, async (t) => {
    const folder = t.testdir({})
    const env = Object.entries(needs?.env ?? {}).map(([name, value]) => [name, value.replace('<folder>', folder)])
    const server = await spawnServer(t, folder, {
      file: 'echo-stream.ts',
      name: EXPORTS[predictor],
      concurrency: needs?.concurrency ?? 1,
      env: Object.fromEntries(env),
    })
    await untilHealth(server.url, needs?.until ?? 'READY')
    for (const one of cases) {
      await t.test(`${one.name}: ${one.about}`, async (t) => {
        const process = { kill: (signal: NodeJS.Signals) => server.process.kill(signal), exit: server.exit }
        await replay(one, { url: server.url, folder, process })
        t.pass()
      })
    }
  })
}
