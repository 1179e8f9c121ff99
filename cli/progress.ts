import cliProgress from 'cli-progress'
import { formatBytes } from '../model/hub/format-bytes.js'
import type { Progress, ReportProgress } from '../model/progress.js'

export interface ProgressDisplay {
  readonly report: ReportProgress
  /** Takes the bar off the terminal. A report that follows brings it back. */
  stop(): void
}

export interface ProgressOptions {
  readonly stream: NodeJS.WritableStream & Pick<NodeJS.WriteStream, 'isTTY' | 'columns'>
  /** Takes the lines: all of them where `stream` is no terminal, else one for each step that is through. */
  readonly log: (line: string) => void
  /** Milliseconds from any start. */
  readonly now?: () => number
}

/** What is through before anyone can read it shows nothing at all. */
const QUIET_MS = 300
/** In a log, a line for each tenth, and one a minute if that takes longer; but not two within five seconds. */
const LINE_MS = 5_000
const LINE_SHARE = 0.1
const SLOW_LINE_MS = 60_000
/** Speed is that of the last ten seconds: long enough to be calm, short enough to follow a line that slows down. */
const WINDOW_MS = 10_000

/**
 * Shows how long steps go on: as a bar on a terminal, as a few log lines elsewhere. A step begins with the first report of
 * its phase and ends when `done` reaches `total`, or when another phase begins.
 */
export function createProgress(options: ProgressOptions): ProgressDisplay {
  const { log, now = () => performance.now() } = options
  const bar = options.stream.isTTY ? createBar(options.stream) : undefined
  let step: Step | undefined
  return {
    report(progress) {
      const nowMs = now()
      if (step === undefined || !step.goesOn(progress)) {
        bar?.hide()
        step = new Step(progress, nowMs)
      }
      step.take(progress, nowMs)
      if (step.ended) {
        bar?.hide()
        const summary = step.takeSummary(nowMs)
        if (summary !== undefined) log(summary)
      } else if (bar !== undefined) {
        if (nowMs - step.startMs >= QUIET_MS) bar.show(step.share, (width) => step?.barLine(width) ?? '')
      } else if (step.lineIsDue(nowMs)) {
        log(step.line(nowMs))
      }
    },
    stop() {
      bar?.hide()
    },
  }
}

/** One step's numbers, and the words for them. */
class Step {
  readonly startMs: number
  #progress: Progress
  /** Where this step stood at moments of the last ten seconds, oldest first. */
  #samples: { ms: number; done: number }[] = []
  #lastLine: { ms: number; share: number } | undefined
  #summarized = false
  readonly #startDone: number

  constructor(progress: Progress, nowMs: number) {
    this.#progress = progress
    this.#startDone = progress.done
    this.startMs = nowMs
  }

  /** A phase that is through and begins again is another step. */
  goesOn({ phase, done, total }: Progress): boolean {
    return phase === this.#progress.phase && (!this.ended || (total > 0 && done >= total))
  }

  take(progress: Progress, nowMs: number): void {
    this.#progress = progress
    const last = this.#samples.at(-1)
    // A download that starts anew goes back: what was before says nothing about the speed.
    if (last !== undefined && progress.done < last.done) this.#samples = []
    // Ten a second are enough, however often it is called.
    if (last === undefined || nowMs - last.ms >= 100 || progress.done < last.done) {
      this.#samples.push({ ms: nowMs, done: progress.done })
    }
    while (this.#samples.length > 2 && nowMs - (this.#samples[1]?.ms ?? nowMs) >= WINDOW_MS) this.#samples.shift()
  }

  get ended(): boolean {
    const { done, total } = this.#progress
    return total > 0 && done >= total
  }

  /** 0 … 1; 0 while the total is unknown. */
  get share(): number {
    const { done, total } = this.#progress
    return total > 0 ? Math.min(1, Math.max(0, done / total)) : 0
  }

  lineIsDue(nowMs: number): boolean {
    if (this.#lastLine === undefined) return nowMs - this.startMs >= QUIET_MS
    const sinceMs = nowMs - this.#lastLine.ms
    // Going back is news as well.
    const moved = Math.abs(this.share - this.#lastLine.share)
    return sinceMs >= SLOW_LINE_MS || (sinceMs >= LINE_MS && moved >= LINE_SHARE)
  }

  /** `download: 42 %, 2.11 GB of 5.01 GB, 25.1 MB/s, 1 min 55 s left` */
  line(nowMs: number): string {
    this.#lastLine = { ms: nowMs, share: this.share }
    return `${this.#progress.phase}: ${this.#parts().join(', ')}`
  }

  /** `download  [========------------]  42 %  2.11 GB of 5.01 GB  25.1 MB/s  1 min 55 s left`, at most `width` wide. */
  barLine(width: number): string {
    const { phase, total } = this.#progress
    const text = this.#parts().join('  ')
    const room = Math.min(40, width - phase.length - text.length - 7)
    if (total <= 0 || room < 10) return `${phase}  ${text}`.slice(0, Math.max(0, width - 1))
    const full = Math.round(this.share * room)
    return `${phase}  [${'='.repeat(full)}${'-'.repeat(room - full)}]  ${text}`
  }

  /** `download: 5.01 GB in 3 min 20 s (25.1 MB/s)`, once, unless it was too quick to matter. */
  takeSummary(nowMs: number): string | undefined {
    const tookMs = nowMs - this.startMs
    if (this.#summarized || tookMs < QUIET_MS) return undefined
    this.#summarized = true
    const { phase, done, unit } = this.#progress
    const did = done - this.#startDone
    const speed = unit === 'bytes' && did > 0 ? ` (${formatBytes((did / tookMs) * 1000)}/s)` : ''
    return `${phase}: ${amount(done, unit)} in ${duration(tookMs)}${speed}`
  }

  #parts(): string[] {
    const { done, total, unit } = this.#progress
    if (total <= 0) return [amount(done, unit), ...this.#speed()]
    const ofTotal =
      unit === 'bytes' ? `${formatBytes(done)} of ${formatBytes(total)}` : `${done} of ${amount(total, unit)}`
    return [`${Math.floor(this.share * 100)} %`, ofTotal, ...this.#speed()]
  }

  /** Speed (of bytes only) and time left, as far as they can be told yet. */
  #speed(): string[] {
    const { done, total, unit } = this.#progress
    const first = this.#samples[0]
    const last = this.#samples.at(-1)
    if (first === undefined || last === undefined || last.ms - first.ms < 200 || last.done <= first.done) return []
    const perMs = (last.done - first.done) / (last.ms - first.ms)
    return [
      ...(unit === 'bytes' ? [`${formatBytes(perMs * 1000)}/s`] : []),
      ...(total > 0 ? [`${duration((total - done) / perMs)} left`] : []),
    ]
  }
}

interface Bar {
  show(share: number, line: (width: number) => string): void
  hide(): void
}

/** The drawing, by cli-progress: ten times a second at most, and only what has changed. */
function createBar(stream: ProgressOptions['stream']): Bar {
  // cli-progress notes the cursor's place when it begins and goes back there when it ends. After a log line in between, that
  // place is above the line, which would be overwritten.
  const terminal: typeof stream = Object.create(stream, {
    write: { value: (text: string) => text === '\x1b7' || text === '\x1b8' || stream.write(text) },
  })
  const widthOf = () => stream.columns || 80
  let line: (width: number) => string = () => ''
  const bar = new cliProgress.SingleBar({
    stream: terminal,
    format: () => line(widthOf()),
    clearOnComplete: true,
    linewrap: true, // else it would switch wrapping off, and leave it so if the process is killed
  })
  // A log line that comes now begins where the bar begins, not behind it.
  bar.on('redraw-post', () => stream.write('\r'))
  return {
    show(share, newLine) {
      line = newLine
      if (bar.isActive) bar.update(share)
      else bar.start(1, share)
    },
    hide() {
      if (bar.isActive) bar.stop()
    },
  }
}

function amount(number: number, unit: Progress['unit']): string {
  return unit === 'bytes' ? formatBytes(number) : `${number} ${number === 1 ? unit.slice(0, -1) : unit}`
}

/** `0.4 s`, `45 s`, `1 min 55 s`, `2 h 05 min` */
function duration(ms: number): string {
  if (ms < 9_950) return `${(ms / 1000).toFixed(1)} s`
  const seconds = Math.round(ms / 1000)
  if (seconds < 60) return `${seconds} s`
  const two = (number: number) => String(number).padStart(2, '0')
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${two(seconds % 60)} s`
  const minutes = Math.round(seconds / 60)
  return `${Math.floor(minutes / 60)} h ${two(minutes % 60)} min`
}
