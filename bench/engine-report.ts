import type { Memory, Opened } from './contestants/contestant.js'
import { BARS, LEAST_SHARE, MOST_LOAD_MS, MOST_PRIVATE_BYTES } from './engine-rows.js'
import { median, table } from './report.js'

export interface EngineReport {
  readonly firstLoadMs: number
  /** Bytes a second. */
  readonly bandwidths: readonly number[]
  /** Of weights, for one step of one sequence. */
  readonly stepBytes: Readonly<Record<string, number>>
  readonly loads: Readonly<Record<string, { readonly opened: readonly Opened[]; readonly memory: readonly Memory[] }>>
  /** [row][contestant][round] */
  readonly speeds: Readonly<Record<string, Readonly<Record<string, readonly number[]>>>>
  readonly notes: readonly string[]
}

/** The median of a figure's rounds, or undefined where it has none. JSON and skipped rounds leave holes. */
function middle(figures: readonly (number | null | undefined)[] | undefined): number | undefined {
  const known = (figures ?? []).filter((figure) => typeof figure === 'number')
  return known.length === 0 ? undefined : median(known)
}

/** The median over rounds of ours as a multiple of a peer's, each within its round. */
export function ratioOf(ours: readonly number[] | undefined, peer: readonly number[] | undefined): number | undefined {
  return middle((ours ?? []).map((figure, round) => (peer?.[round] === undefined ? undefined : figure / peer[round])))
}

export interface Verdict {
  readonly bar: string
  readonly found: number | undefined
  readonly wanted: string
  readonly reached: boolean | undefined
}

export function verdicts(report: EngineReport): Verdict[] {
  const found = BARS.map(({ row, ours, peer, least, why }): Verdict => {
    const ratio = ratioOf(report.speeds[row]?.[ours], report.speeds[row]?.[peer])
    return {
      bar: `${row}: ${ours} / ${peer} (${why})`,
      found: ratio,
      wanted: `≥ ${least}`,
      reached: ratio === undefined ? undefined : ratio >= least,
    }
  })
  const share = shareOfBandwidth(report, 'bezel')
  found.push({
    bar: "decode 1: share of the memory's measured speed",
    found: share,
    wanted: `≥ ${LEAST_SHARE}`,
    reached: share === undefined ? undefined : share >= LEAST_SHARE,
  })
  const loadMs = middle(report.loads.bezel?.opened.map(({ sessionMs }) => sessionMs))
  found.push({
    bar: 'load of the weights, ms',
    found: loadMs,
    wanted: `≤ ${MOST_LOAD_MS}`,
    reached: loadMs === undefined ? undefined : loadMs <= MOST_LOAD_MS,
  })
  const privateBytes = middle(report.loads.bezel?.memory.map((memory) => memory.privateBytes))
  found.push({
    bar: 'private memory, a cache of 19 MB included, MB',
    found: privateBytes === undefined ? undefined : privateBytes / 1e6,
    wanted: `≤ ${MOST_PRIVATE_BYTES / 1e6}`,
    reached: privateBytes === undefined ? undefined : privateBytes <= MOST_PRIVATE_BYTES,
  })
  return found
}

function shareOfBandwidth(report: EngineReport, name: string): number | undefined {
  const bytes = report.stepBytes[name]
  const steps = report.speeds['decode 1']?.[name]
  if (bytes === undefined || steps === undefined) return undefined
  return ratioOf(
    steps.map((rate) => rate * bytes),
    report.bandwidths,
  )
}

export function printEngineReport(report: EngineReport, names: readonly string[]): void {
  const format = (value: number | undefined, digits = 1) => (value === undefined ? '–' : value.toFixed(digits))
  const withRatio = (row: string, name: string) => {
    const figures = report.speeds[row]?.[name]
    const ratio =
      name === names[0] || row.startsWith('pause') ? undefined : ratioOf(report.speeds[row]?.[names[0]!], figures)
    return `${format(middle(figures))}${ratio === undefined ? '' : ` (${ratio.toFixed(2)})`}`
  }
  const perContestant = (what: string, of: (name: string) => string) => [what, ...names.map(of)]
  console.log(
    table([
      ['medians', ...names],
      perContestant('load to the first token, ms', (name) =>
        format(middle(report.loads[name]?.opened.map(({ loadMs }) => loadMs)), 0),
      ),
      perContestant('load of the weights, ms', (name) =>
        format(middle(report.loads[name]?.opened.map(({ sessionMs }) => sessionMs)), 0),
      ),
      perContestant('private, MB', (name) => {
        const bytes = middle(report.loads[name]?.memory.map((memory) => memory.privateBytes))
        return format(bytes === undefined ? undefined : bytes / 1e6, 0)
      }),
      perContestant('mapped, MB', (name) => {
        const bytes = middle(report.loads[name]?.memory.map((memory) => memory.mappedBytes))
        return format(bytes === undefined ? undefined : bytes / 1e6, 0)
      }),
      ...Object.keys(report.speeds).map((row) =>
        perContestant(row.startsWith('pause') ? `${row}, ms` : `${row}, tok/s`, (name) => withRatio(row, name)),
      ),
      perContestant("decode 1, share of memory's speed", (name) => {
        const share = shareOfBandwidth(report, name)
        return share === undefined ? '–' : `${(share * 100).toFixed(0)} %`
      }),
    ]),
  )
  console.log(
    `In brackets: ${names[0]}'s as a multiple of it. Memory reads ${(median(report.bandwidths.length > 0 ? report.bandwidths : [Number.NaN]) / 1e9).toFixed(1)} GB/s. ` +
      `First load, which packs the weights where they were not: ${report.firstLoadMs.toFixed(0)} ms.`,
  )
  console.log(
    table([
      ['bar', 'found', 'wanted', ''],
      ...verdicts(report).map(({ bar, found, wanted, reached }) => [
        bar,
        format(found, 2),
        wanted,
        reached === undefined ? 'not measured' : reached ? 'reached' : 'NOT REACHED',
      ]),
    ]),
  )
  for (const note of report.notes) console.log(note)
}
