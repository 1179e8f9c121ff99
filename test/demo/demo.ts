import path from 'node:path'
import { Engine } from '../../model/engine/engine.js'
import { type ModelFolder, openModelFolder } from '../../model/folder.js'
import { packageRoot } from '../../model/package-root.js'
import { openRuntime } from '../../model/runtime/runtime.js'

export const DEMO = path.join(packageRoot, 'model', 'demo')

export type Chat = { role: 'user' | 'assistant'; content: string }[]

/** Sampling as the hosted model's defaults have it. */
const DEFAULTS = { maxNewTokens: 256, temperature: 0.7, topP: 0.95, topK: 50 }

/** The embedded model on the engine that serves it. */
export class Demo implements AsyncDisposable {
  readonly folder: ModelFolder
  readonly engine: Engine
  readonly #close: () => Promise<void>

  private constructor(folder: ModelFolder, engine: Engine, close: () => Promise<void>) {
    this.folder = folder
    this.engine = engine
    this.#close = close
  }

  static async open(): Promise<Demo> {
    const folder = await openModelFolder(path.join(DEMO, 'onnx'))
    const runtime = await openRuntime({ device: 'cpu', threads: 1 })
    const engine = await Engine.open({ folder, runtime, slots: 8, contextLength: 1024 })
    return new Demo(folder, engine, async () => {
      await engine[Symbol.asyncDispose]()
      await runtime[Symbol.asyncDispose]()
    })
  }

  /** The whole answer to a conversation that ends with the user, and what ended it. */
  async answer(messages: Chat, seed: number): Promise<{ text: string; endedBy: string }> {
    const prepared = await this.engine.prepare({ messages, seed, ...DEFAULTS })
    let text = ''
    let endedBy = ''
    for await (const event of this.engine.generate(prepared, { signal: new AbortController().signal })) {
      if (event.type === 'text') text += event.text
      else endedBy = event.endedBy
    }
    return { text, endedBy }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#close()
  }
}
