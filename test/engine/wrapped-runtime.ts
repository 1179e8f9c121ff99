import type { Binding, Runtime } from '../../model/runtime/types.js'

type Run = (bindings: readonly Binding[], signal?: AbortSignal) => Promise<void>

/** The real runtime, but for what a test does around its runs. */
export function wrapRuntime(runtime: Runtime, around: (run: Run) => Run): Runtime {
  const run = around((bindings, signal) => runtime.run(bindings, signal))
  return {
    device: runtime.device,
    version: runtime.version,
    threads: runtime.threads,
    openSession: (options) => runtime.openSession(options),
    createTensor: (options) => runtime.createTensor(options),
    createBinding: (session, options) => runtime.createBinding(session, options),
    run: (bindings, signal) => run(bindings, signal),
    [Symbol.asyncDispose]: () => runtime[Symbol.asyncDispose](),
  }
}

/** What goes wrong with the next runs: an error instead of the run, or damage to what it gave. */
export type Fault = Error | ((bindings: readonly Binding[]) => void | Promise<void>)

/** Fault switches: the runs that come next fail as the test says, one for each fault, and all after them go well. */
export class Faults {
  readonly #faults: Fault[] = []
  /** Runs so far, the failed ones among them. */
  runs = 0

  next(...faults: readonly Fault[]): void {
    this.#faults.push(...faults)
  }

  readonly around = (run: Run): Run => {
    return async (bindings, signal) => {
      this.runs++
      const fault = this.#faults.shift()
      if (fault instanceof Error) throw fault
      await run(bindings, signal)
      await fault?.(bindings)
    }
  }
}

/** Lets a test hold the engine at a run: it announces each, and makes it only when told to. */
export class Gate {
  #open = true
  #arrived: () => void = () => {}
  #passed: () => void = () => {}
  /** Of the run that waits, or waited last. */
  signal: AbortSignal | undefined
  runs = 0

  readonly around = (run: Run): Run => {
    return async (bindings, signal) => {
      this.runs++
      this.signal = signal
      if (!this.#open) {
        await new Promise<void>((resolve) => {
          this.#passed = resolve
          this.#arrived()
        })
      }
      await run(bindings, signal)
    }
  }

  close(): void {
    this.#open = false
  }

  open(): void {
    this.#open = true
    this.#passed()
  }

  /** Lets the run that waits pass, and resolves when the next one waits. */
  step(): Promise<void> {
    return new Promise((resolve) => {
      this.#arrived = resolve
      this.#passed()
    })
  }
}
