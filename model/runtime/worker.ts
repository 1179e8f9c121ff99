import { once } from 'node:events'
import { type WorkerOptions as ThreadOptions, Worker } from 'node:worker_threads'
import { RuntimeStoppedError } from '../errors.js'
import { fromFailure } from './failure.js'
import type { Answer, Calls, Hello, Kind, Ready, WorkerOptions } from './messages.js'

interface Pending {
  resolve(value: unknown): void
  reject(error: Error): void
}

/**
 * The thread that runs ONNX Runtime, seen from the main thread: questions go there in order, answers come back. While a
 * question is open it keeps the process alive; an idle thread does not.
 */
export class RuntimeWorker {
  readonly #thread: Worker
  readonly #pending = new Map<number, Pending>()
  #lastCall = 0
  #stopped: RuntimeStoppedError | undefined

  private constructor(thread: Worker) {
    this.#thread = thread
    thread.on('message', (answer: Answer) => this.#settle(answer))
    thread.on('error', (cause) => this.#stop(`The ONNX Runtime thread failed: ${cause.message}`, cause))
    thread.on('exit', (code) => this.#stop(`The ONNX Runtime thread has ended (exit code ${code}).`))
    thread.unref()
  }

  /**
   * Starts the thread: loads the library there and chooses the device.
   *
   * @param program  what the thread runs; tests give one that dies.
   * @throws {DeviceError} the GPU that was asked for cannot be used. @throws {LibraryError} see loadLibrary.
   */
  static async start(options: WorkerOptions, program: URL = entry()): Promise<{ worker: RuntimeWorker; ready: Ready }> {
    const thread = new Worker(program, { name: 'onnxruntime', workerData: options } satisfies ThreadOptions)
    const hello = await firstMessage(thread)
    if ('failure' in hello) {
      await thread.terminate()
      throw fromFailure(hello.failure)
    }
    return { worker: new RuntimeWorker(thread), ready: hello.ready }
  }

  /**
   * Asks the thread; it answers in the order of the questions.
   *
   * @throws {RuntimeStoppedError} the thread has ended, or ends before it answers.
   */
  call<K extends Kind>(kind: K, question: Calls[K]['question']): Promise<Calls[K]['answer']> {
    if (this.#stopped) return Promise.reject(this.#stopped)
    return new Promise((resolve, reject) => {
      const call = ++this.#lastCall
      this.#thread.postMessage({ kind, call, ...question })
      this.#pending.set(call, { resolve: resolve as (value: unknown) => void, reject })
      this.#thread.ref()
    })
  }

  /** Has the thread free all that it holds, and end. One that has ended already leaves nothing to free. */
  async close(): Promise<void> {
    if (this.#stopped) return
    const ended = new Promise<void>((resolve) => this.#thread.once('exit', () => resolve()))
    await this.call('close', {}).catch(ignoreStopped)
    this.#thread.ref()
    await ended
  }

  #settle(answer: Answer): void {
    const pending = this.#pending.get(answer.call)
    this.#pending.delete(answer.call)
    if (this.#pending.size === 0) this.#thread.unref()
    if ('failure' in answer) pending?.reject(fromFailure(answer.failure))
    else pending?.resolve(answer.value)
  }

  #stop(message: string, cause?: Error): void {
    if (this.#stopped) return
    this.#stopped = new RuntimeStoppedError(message, cause ? { cause } : {})
    for (const { reject } of this.#pending.values()) reject(this.#stopped)
    this.#pending.clear()
  }
}

/** A thread that has ended holds no native object any more: what was to be freed there is gone. */
export function ignoreStopped(error: unknown): void {
  if (!(error instanceof RuntimeStoppedError)) throw error
}

async function firstMessage(thread: Worker): Promise<Hello> {
  const ended = new AbortController()
  const { signal } = ended
  try {
    const [hello] = await Promise.race([
      once(thread, 'message', { signal }),
      once(thread, 'exit', { signal }).then(([code]) => {
        throw new RuntimeStoppedError(`The ONNX Runtime thread ended at its start (exit code ${code}).`)
      }),
    ])
    return hello as Hello
  } finally {
    ended.abort()
  }
}

/** The thread's file: TypeScript where this file is TypeScript, JavaScript where it was compiled. */
function entry(): URL {
  const source = import.meta.url.endsWith('.ts')
  const file = new URL(source ? './worker-main.ts' : './worker-main.js', import.meta.url)
  // tsx does not reach into threads by itself on Node 20; other loaders (tap's) are inherited by them.
  const underTsx = process.execArgv.some((argument) => /(^|[\\/=])tsx([\\/]|$)/.test(argument))
  if (!source || !underTsx) return file
  const tsx = import.meta.resolve('tsx/esm/api')
  const program = `import { register } from ${JSON.stringify(tsx)}; register(); await import(${JSON.stringify(file.href)})`
  return new URL(`data:text/javascript,${encodeURIComponent(program)}`)
}
