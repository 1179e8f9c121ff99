import { join } from 'node:path'
import type { Test } from 'tap'
import { Detokenizer } from '../../model/engine/detokenizer.js'
import { Engine, type EngineOptions } from '../../model/engine/engine.js'
import type { EndEvent, GenerateEvent, GenerateRequest } from '../../model/engine/request.js'
import { Tokenizer } from '../../model/engine/tokenizer.js'
import { exportModel } from '../../model/export/export.js'
import type { ExportFormat } from '../../model/export/format.js'
import { type ModelFolder, openModelFolder } from '../../model/folder.js'
import { openRuntime } from '../../model/runtime/runtime.js'
import type { Runtime } from '../../model/runtime/types.js'
import { type RandomCheckpointOptions, tinyTokenizer, writeRandomCheckpoint } from '../export/random-checkpoint.js'

export interface TinyModel {
  readonly folder: ModelFolder
  readonly runtime: Runtime
  /** What an answer of these ids is made of. */
  piecesOf(ids: readonly number[]): Promise<string[]>
  /** An engine that ends with the test. */
  open(options?: Partial<EngineOptions>): Promise<Engine>
}

/**
 * The tiny tokenizer with its byte pieces spelt out. A random model writes them in any order, and what is no UTF-8 would all
 * look the same: so each token of an answer can be told from each other one.
 */
export function legibleTokenizer(): NonNullable<RandomCheckpointOptions['tokenizer']> {
  const { tokenizer, config } = tinyTokenizer()
  return { tokenizer: JSON.parse(JSON.stringify(tokenizer).replaceAll(/<0x(..)>/g, '[byte $1]')), config }
}

/** A random model of Gemma's shape, exported and ready to be opened, on the real runtime. */
export async function tinyModel(
  t: Test,
  options: { checkpoint?: RandomCheckpointOptions; format?: Partial<ExportFormat> } = {},
): Promise<TinyModel> {
  const root = t.testdir({})
  const [checkpoint, out] = [join(root, 'checkpoint'), join(root, 'export')]
  await writeRandomCheckpoint(checkpoint, { tokenizer: legibleTokenizer(), ...options.checkpoint })
  await exportModel({ checkpoint, out, target: 'cpu', dtype: 'q4', blockSize: 32, ...options.format })
  const folder = await openModelFolder(out)
  const runtime = await openRuntime({ device: 'cpu', threads: 2 })
  const engines: Engine[] = []
  t.teardown(async () => {
    for (const engine of engines) await engine[Symbol.asyncDispose]()
    await runtime[Symbol.asyncDispose]()
  })
  return {
    folder,
    runtime,
    async piecesOf(ids) {
      const tokenizer = await Tokenizer.open(folder.tokenizerFile)
      const detokenizer = new Detokenizer(tokenizer)
      return ids
        .filter((id) => !folder.endTokenIds.includes(id))
        .map((id) => detokenizer.push(id))
        .filter((piece) => piece !== '')
    },
    async open(options = {}) {
      const engine = await Engine.open({ folder, runtime, slots: 4, ...options })
      engines.push(engine)
      return engine
    },
  }
}

export interface Answer extends EndEvent {
  readonly text: string
  readonly pieces: readonly string[]
}

/** Prepares, generates, and collects. */
export async function generate(engine: Engine, request: GenerateRequest, signal?: AbortSignal): Promise<Answer> {
  return collect(engine.generate(await engine.prepare(request), signal ? { signal } : {}))
}

export async function collect(events: AsyncIterable<GenerateEvent>): Promise<Answer> {
  const pieces: string[] = []
  for await (const event of events) {
    if (event.type === 'end') return { ...event, text: pieces.join(''), pieces }
    pieces.push(event.text)
  }
  throw new Error('the events ended without an end event')
}
