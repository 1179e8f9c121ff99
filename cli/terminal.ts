import type { ReportProgress } from '../model/progress.js'
import { createProgress } from './progress.js'

/** What a command that takes a while needs of the terminal. Everything goes to stderr: stdout is for results. */
export interface Terminal extends Disposable {
  readonly report: ReportProgress
  /** One line, above a progress bar that is being drawn. */
  readonly say: (line: string) => void
  /** Fires at Ctrl-C and SIGTERM, so that the command can leave nothing half done. */
  readonly interrupted: AbortSignal
}

/** Another signal than the first ends the process as if this had not been here. */
export function createTerminal(): Terminal {
  const say = (line: string) => void process.stderr.write(`${line}\n`)
  const progress = createProgress({ stream: process.stderr, log: say })
  const controller = new AbortController()
  const interrupt = (signal: NodeJS.Signals) => {
    forget()
    controller.abort(new Error(`Ended by ${signal}.`))
  }
  const forget = () => {
    process.off('SIGINT', interrupt)
    process.off('SIGTERM', interrupt)
  }
  process.on('SIGINT', interrupt)
  process.on('SIGTERM', interrupt)
  return {
    report: progress.report,
    say: (line) => {
      progress.stop()
      say(line)
    },
    interrupted: controller.signal,
    [Symbol.dispose]() {
      progress.stop()
      forget()
    },
  }
}
