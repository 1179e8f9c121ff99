import { PassThrough } from 'node:stream'
import { stripVTControlCharacters } from 'node:util'
import t from 'tap'
import { createProgress } from '../../cli/progress.js'
import type { Progress } from '../../model/progress.js'

interface Scene {
  readonly lines: string[]
  /** All that went to the stream. */
  shown(): string
  /** Reports after so many milliseconds more. */
  at(ms: number, progress: Partial<Progress>): void
  stop(): void
}

function scene(kind: 'terminal' | 'log', columns = 100): Scene {
  const stream = Object.assign(new PassThrough(), { isTTY: kind === 'terminal', columns })
  const lines: string[] = []
  let nowMs = 1000
  const display = createProgress({ stream, log: (line) => lines.push(line), now: () => nowMs })
  const chunks: string[] = []
  stream.on('data', (chunk) => chunks.push(String(chunk)))
  return {
    lines,
    shown: () => {
      for (let chunk = stream.read(); chunk !== null; chunk = stream.read()) chunks.push(String(chunk))
      return chunks.join('')
    },
    at(ms, progress) {
      nowMs += ms
      display.report({ phase: 'download', done: 0, total: 0, unit: 'bytes', ...progress })
    },
    stop: () => display.stop(),
  }
}

/** What a terminal of one row shows in the end of `text`: carriage returns, erasing, and the newlines that scroll. */
function screen(text: string): string[] {
  const rows = ['']
  let column = 0
  // biome-ignore lint/suspicious/noControlCharactersInRegex: a terminal's own language
  for (const [piece] of text.matchAll(/\x1b\[(\d*)([A-Za-z])|\x1b.|[\s\S]/g)) {
    const row = rows.at(-1) ?? ''
    if (piece === '\r' || piece === '\x1b[1G') column = 0
    else if (piece === '\n') {
      rows.push('')
      column = 0
    } else if (piece === '\x1b[0K') rows[rows.length - 1] = row.slice(0, column)
    else if (piece === '\x1b[2K') rows[rows.length - 1] = ''
    else if (piece.startsWith('\x1b')) throw new Error(`This terminal does not know ${JSON.stringify(piece)}.`)
    else {
      rows[rows.length - 1] = row.slice(0, column).padEnd(column) + piece + row.slice(column + 1)
      column++
    }
  }
  return rows
}

const GB = 1e9

t.test('a step that is through within 300 ms shows nothing', async (t) => {
  for (const kind of ['terminal', 'log'] as const) {
    const { at, stop, lines, shown } = scene(kind)
    at(0, { done: 0, total: 10 })
    at(150, { done: 5, total: 10 })
    at(149, { done: 10, total: 10 })
    stop()
    t.strictSame(lines, [], kind)
    t.equal(shown(), '', kind)
  }
})

t.test('a log gets a line at the start, one for each tenth, and one at the end', async (t) => {
  const { at, stop, lines, shown } = scene('log')
  for (let ms = 0; ms <= 200_000; ms += 100) at(ms === 0 ? 0 : 100, { done: (ms / 200_000) * 5 * GB, total: 5 * GB })
  stop()
  t.equal(shown(), '')
  t.equal(lines[0], 'download: 0 %, 7.50 MB of 5.00 GB, 25.0 MB/s, 3 min 20 s left')
  t.strictSame(
    lines.slice(1, -1).map((line) => /^download: (\d+) %, .+, 25\.0 MB\/s, .+ left$/.exec(line)?.[1]),
    ['10', '20', '30', '40', '50', '60', '70', '80', '90'],
  )
  t.equal(lines.at(-1), 'download: 5.00 GB in 3 min 20 s (25.0 MB/s)')
})

t.test('a quick step gets no two lines within five seconds, a slow one gets one a minute', async (t) => {
  const quick = scene('log')
  for (let i = 0; i <= 100; i++) quick.at(i === 0 ? 0 : 80, { done: i, total: 100, unit: 'tensors' })
  t.strictSame(
    quick.lines.map((line) => line.split(',')[0]),
    ['download: 4 %', 'download: 67 %', 'download: 100 tensors in 8.0 s'],
  )

  const slow = scene('log')
  for (let i = 0; i <= 600; i++) slow.at(i === 0 ? 0 : 1000, { done: i, total: 60_000, unit: 'steps' })
  t.equal(slow.lines.length, 10)
  t.equal(slow.lines[1], 'download: 0 %, 61 of 60000 steps, 16 h 39 min left')
})

t.test('what was there before a resumed download counts as done, but not as speed', async (t) => {
  const { at, lines } = scene('log')
  at(0, { done: 4 * GB, total: 5 * GB })
  at(1000, { done: 4.1 * GB, total: 5 * GB })
  at(9000, { done: 5 * GB, total: 5 * GB })
  t.strictSame(lines, [
    'download: 82 %, 4.10 GB of 5.00 GB, 100 MB/s, 9.0 s left',
    'download: 5.00 GB in 10 s (100 MB/s)',
  ])
})

t.test('a download that starts anew goes back, and its speed is that of the new start', async (t) => {
  const { at, lines } = scene('log')
  at(0, { done: 0, total: 100e6 })
  at(1000, { done: 90e6, total: 100e6 })
  at(5000, { done: 0, total: 100e6 })
  at(6000, { done: 12e6, total: 100e6 })
  t.strictSame(lines, [
    'download: 90 %, 90.0 MB of 100 MB, 90.0 MB/s, 0.1 s left',
    'download: 0 %, 0 B of 100 MB',
    'download: 12 %, 12.0 MB of 100 MB, 2.00 MB/s, 44 s left',
  ])
})

t.test('speed is that of the last ten seconds', async (t) => {
  const { at, lines } = scene('log')
  for (let i = 0; i <= 300; i++) at(i === 0 ? 0 : 100, { done: i * 1e6, total: 1e9 })
  t.match(lines.at(-1), /^download: 2\d %, .+, 10\.0 MB\/s, /)
  for (let i = 1; i <= 700; i++) at(100, { done: 300e6 + i * 1e5, total: 1e9 })
  t.match(lines.at(-1), /^download: 3\d %, .+, 1\.00 MB\/s, /)
})

t.test('without a total it counts up', async (t) => {
  const { at, lines } = scene('log')
  at(0, { phase: 'load', unit: 'tensors' })
  at(500, { phase: 'load', done: 1, unit: 'tensors' })
  at(60_000, { phase: 'load', done: 7, unit: 'tensors' })
  t.strictSame(lines, ['load: 1 tensor', 'load: 7 tensors'])
})

t.test('a phase that follows another is a step of its own, and so is one that begins again', async (t) => {
  const { at, lines } = scene('log')
  at(0, { phase: 'wait', done: 1, total: 9 })
  at(400, { phase: 'wait', done: 2, total: 9 })
  at(10, { phase: 'download', done: 0, total: 9 })
  at(400, { phase: 'download', done: 9, total: 9 })
  at(10, { phase: 'download', done: 9, total: 9 })
  at(10, { phase: 'download', done: 0, total: 7 })
  at(1000, { phase: 'download', done: 7, total: 7 })
  t.strictSame(lines, [
    'wait: 22 %, 2 B of 9 B, 3 B/s, 2.8 s left',
    'download: 9 B in 0.4 s (23 B/s)',
    'download: 7 B in 1.0 s (7 B/s)',
  ])
})

t.test('a terminal gets a bar with share, amount, speed and time left', async (t) => {
  const { at, stop, lines, shown } = scene('terminal')
  at(0, { done: 0, total: 5 * GB })
  at(1000, { done: 2.1 * GB, total: 5 * GB })
  t.strictSame(lines, [])
  t.strictSame(screen(shown()), [
    'download  [================----------------------]  42 %  2.10 GB of 5.00 GB  2.10 GB/s  1.4 s left',
  ])
  stop()
  t.strictSame(screen(shown()), [''], 'and nothing of it stays')
})

t.test('a step’s end takes the bar away and leaves one line', async (t) => {
  const { at, stop, lines, shown } = scene('terminal')
  at(0, { done: 0, total: 5 * GB })
  at(1000, { done: 2 * GB, total: 5 * GB })
  at(1000, { done: 5 * GB, total: 5 * GB })
  t.strictSame(screen(shown()), [''])
  t.strictSame(lines, ['download: 5.00 GB in 2.0 s (2.50 GB/s)'])
  stop()
  t.strictSame(screen(shown()), [''])
})

t.test('after stop the next report brings the bar back', async (t) => {
  const { at, stop, shown } = scene('terminal')
  at(0, { done: 0, total: 100 })
  at(1000, { done: 10, total: 100 })
  stop()
  stop()
  at(1000, { done: 20, total: 100 })
  t.match(screen(shown()).at(-1), /^download {2}\[.*\] {2}20 %/)
  stop()
})

t.test('a line written while the bar is there is not overwritten by what follows', async (t) => {
  const stream = Object.assign(new PassThrough(), { isTTY: true, columns: 60 })
  let nowMs = 0
  const display = createProgress({ stream, log: () => {}, now: () => nowMs })
  display.report({ phase: 'export', done: 0, total: 10, unit: 'tensors' })
  nowMs = 1000
  display.report({ phase: 'export', done: 1, total: 10, unit: 'tensors' })
  stream.write(`${'a line of the log, as long as the bar or longer'.padEnd(59, '.')}\n`)
  display.stop()
  const rows = screen(String(stream.read()))
  t.equal(rows[0], 'a line of the log, as long as the bar or longer'.padEnd(59, '.'))
  t.strictSame(rows.slice(1), [''])
})

t.test('never wider than the terminal, whose cursor, wrapping and width it leaves as they are', async (t) => {
  for (const columns of [200, 80, 50, 20, 5, 1, 0]) {
    const { at, stop, shown } = scene('terminal', columns)
    at(0, { phase: 'wait for another download', done: 0, total: 5 * GB })
    at(1000, { phase: 'wait for another download', done: 2.1 * GB, total: 5 * GB })
    stop()
    const text = shown()
    const rows = text.split('\x1b[1G').map((row) => stripVTControlCharacters(row).trim())
    t.ok(
      rows.every((row) => row.length < (columns || 80)),
      `${columns} columns`,
    )
    for (const code of ['\x1b7', '\x1b8', '\x1b[?']) t.notOk(text.includes(code), JSON.stringify(code))
  }
})

t.test('a disposed bar lets the process end', async (t) => {
  const { at, stop } = scene('terminal')
  at(0, { done: 0, total: 100 })
  at(1000, { done: 10, total: 100 })
  stop()
  t.notOk(process.getActiveResourcesInfo().includes('Timeout'))
})
