/**
 * The engine on one model, beside ONNX Runtime's own JavaScript session on the same weights, in turn.
 *
 *   npm run bench:engine -- <exported folder> [rounds]
 *
 * Prints one JSON object and a table. Every speed is a ratio to the peer or to the memory's measured speed in the same run.
 */
import { fork } from 'node:child_process'
import { cpus } from 'node:os'
import { fileURLToPath } from 'node:url'
import { readBandwidth } from './bandwidth.js'
import type { Figures, Peer } from './engine-peer.js'
import { median, table } from './report.js'

const PEERS: readonly Peer[] = ['bezel', 'InferenceSession']

/** A process of its own for each round: so that load times and memory are a process's, and no peer inherits the other's. */
function measure(peer: Peer, folder: string): Promise<Figures> {
  return new Promise((resolve, reject) => {
    const child = fork(fileURLToPath(new URL('./engine-peer.ts', import.meta.url)), [peer, folder])
    child.once('message', (figures) => resolve(figures as Figures))
    child.once('error', reject)
    child.once('exit', (code) => reject(new Error(`${peer} ended with exit code ${code}`)))
  })
}

const [folder, rounds = '3'] = process.argv.slice(2)
if (folder === undefined)
  throw new Error('Say which exported folder to measure: npm run bench:engine -- <folder> [rounds]')

// The first start packs the weights; it is measured apart.
const first = await measure('bezel', folder)
const figures = new Map<Peer, Figures[]>(PEERS.map((peer) => [peer, []]))
const bandwidths: number[] = []
for (let round = 0; round < Number(rounds); round++) {
  bandwidths.push(await readBandwidth())
  for (const peer of PEERS) figures.get(peer)!.push(await measure(peer, folder))
}

const bandwidth = median(bandwidths)
const middle = (peer: Peer, name: keyof Figures) => median(figures.get(peer)!.map((one) => one[name]))
const [ours, peer] = PEERS as [Peer, Peer]
const names = Object.keys(first) as (keyof Figures)[]
const share = (middle(ours, 'weightBytes') * middle(ours, 'decode1')) / bandwidth

console.log(
  JSON.stringify({
    date: new Date().toISOString(),
    cpu: cpus()[0]?.model,
    threads: cpus().length,
    bandwidth,
    first,
    figures: Object.fromEntries(figures),
  }),
)
console.log(
  table([
    ['', ours, peer, 'ratio'],
    ...names.map((name) => [
      name,
      middle(ours, name).toFixed(1),
      middle(peer, name).toFixed(1),
      (middle(ours, name) / middle(peer, name)).toFixed(2),
    ]),
  ]),
)
console.log(
  `memory reads ${(bandwidth / 1e9).toFixed(1)} GB/s; a decode step of one sequence uses ${(share * 100).toFixed(0)} % of that`,
)
console.log(`first load, which packs the weights: ${first.loadMs.toFixed(0)} ms`)
