import t from 'tap'
import { spawnServer, untilHealth } from '../server/spawn.js'
import { type ContractCase, readCases, replay } from './replay.js'

const EXPORTS = { 'echo-stream': 'Predictor', 'echo-no-stream': 'NoStream', 'echo-train': 'Trainable' }

// Cases with the same needs share a server, unless they end it or take long.
const groups = new Map<string, ContractCase[]>()
for (const one of readCases()) {
  const isAlone = one.exit !== undefined || one.seconds !== undefined
  const needs = JSON.stringify([one.predictor, one.server, isAlone && one.name])
  groups.set(needs, [...(groups.get(needs) ?? []), one])
}
// Side by side, those that take long first: most of the time goes to waiting for servers to start, and for them.
const inTurn = [...groups.values()].sort((a, b) => (b[0]!.seconds ?? 0) - (a[0]!.seconds ?? 0))
t.jobs = 3
for (const cases of inTurn) {
  const { predictor, server: needs, name } = cases[0]!
  const what = cases.length === 1 ? `${predictor}: ${name}` : `${predictor} answers as Cog does`
  t.test(`${what}${needs ? ` with ${JSON.stringify(needs)}` : ''}`, { buffered: true }, async (t) => {
    const folder = t.testdir({})
    const env = Object.entries(needs?.env ?? {}).map(([name, value]) => [name, value.replace('<folder>', folder)])
    const server = await spawnServer(t, folder, {
      file: 'echo-stream.ts',
      name: EXPORTS[predictor],
      concurrency: needs?.concurrency ?? 1,
      env: Object.fromEntries(env),
    })
    await untilHealth(server.url, needs?.until ?? 'READY')
    const process = { kill: (signal: NodeJS.Signals) => server.process.kill(signal), exit: server.exit }
    for (const one of cases) {
      await t.test(`${one.name}: ${one.about}`, async (t) => {
        await replay(one, { url: server.url, folder, process })
        t.pass()
      })
    }
  })
}
