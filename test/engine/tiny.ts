import { join } from 'node:path'
import type { Test } from 'tap'
import { Engine, type EngineOptions } from '../../model/engine/engine.js'
import type { EndEvent, GenerateEvent, GenerateRequest } from '../../model/engine/request.js'
import { type ExportFormat, exportModel } from '../../model/export/export.js'
import { type ModelFolder, openModelFolder } from '../../model/folder.js'
import { openRuntime } from '../../model/runtime/runtime.js'
import type { Runtime } from '../../model/runtime/types.js'
import { type RandomCheckpointOptions, writeRandomCheckpoint } from '../export/random-checkpoint.js'

export interface TinyModel {
  readonly folder: ModelFolder
  readonly runtime: Runtime
  /** An engine that ends with the test. */
  open(options?: Partial<EngineOptions>): Promise<Engine>
}

/** A random model of Gemma's shape, exported and ready to be opened, on the real runtime. */
export async function tinyModel(
  t: Test,
  options: { checkpoint?: RandomCheckpointOptions; format?: Partial<ExportFormat> } = {},
): Promise<TinyModel> {
  const root = t.testdir({})
  const [checkpoint, out] = [join(root, 'checkpoint'), join(root, 'export')]
  await writeRandomCheckpoint(checkpoint, options.checkpoint)
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
