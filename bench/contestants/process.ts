import { type ChildProcess, fork, spawn } from 'node:child_process'
import type { Answer, ContestantOptions, Opened, Question } from './contestant.js'

/** A contestant in its process, seen from the benchmark. */
export class ContestantProcess {
  readonly opened: Opened
  readonly #child: ChildProcess
  #usable = true

  private constructor(child: ChildProcess, opened: Opened) {
    this.#child = child
    this.opened = opened
  }

  /**
   * @param entry  a TypeScript file that serves a contestant, or with `python` a Python one that answers on its own two pipes
   * @throws it did not open within `limitMs`, or ended
   */
  static async start(
    entry: string,
    options: ContestantOptions,
    { limitMs, python }: { limitMs: number; python?: string | undefined },
  ): Promise<ContestantProcess> {
    const words = [JSON.stringify(options)]
    const child =
      python === undefined
        ? fork(entry, words)
        : spawn(python, [entry, ...words], { stdio: ['inherit', 'inherit', 'inherit', 'ipc'] })
    try {
      return new ContestantProcess(child, (await hear(child, limitMs)) as Opened)
    } catch (error) {
      child.kill('SIGKILL')
      throw error
    }
  }

  /** @throws it said why it cannot, took too long, or has ended; after the latter two it is of no more use. */
  async ask(question: Question, limitMs: number): Promise<Exclude<Answer, { error: string }>> {
    if (!this.#usable) throw new Error('ended before')
    this.#child.send(question)
    let answer: Answer
    try {
      answer = (await hear(this.#child, limitMs)) as Answer
    } catch (error) {
      this.stop()
      throw error
    }
    if ('error' in answer) throw new Error(answer.error)
    return answer
  }

  stop(): void {
    this.#usable = false
    this.#child.kill('SIGKILL')
  }
}

function hear(child: ChildProcess, limitMs: number): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const done = () => {
      clearTimeout(timer)
      child.off('message', message).off('exit', exit).off('error', fail)
    }
    const message = (value: unknown) => {
      done()
      resolve(value)
    }
    const fail = (error: Error) => {
      done()
      reject(error)
    }
    const exit = (code: number | null) => fail(new Error(`ended with exit code ${code}`))
    const timer = setTimeout(() => fail(new Error(`took longer than ${limitMs / 1000} s`)), limitMs)
    child.on('message', message).on('exit', exit).on('error', fail)
  })
}
