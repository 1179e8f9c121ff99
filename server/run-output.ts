import { AsyncLocalStorage } from 'node:async_hooks'
import type { LogSource } from './predictor.js'

/** Takes whole lines, without their line feed. */
export type LineSink = (line: string, source: LogSource) => void

/** What one run writes: unfinished lines by source, and where whole ones go. */
interface Writer {
  readonly sink: LineSink
  readonly unfinished: Map<LogSource, string>
}

const writers = new AsyncLocalStorage<Writer>()

/** A line without an end is cut after so many characters: Cog's number is 4 MiB for a write. */
const LONGEST_LINE = 4 * 1024 * 1024

/**
 * Runs `action`; what is written to a captured stream by it, or by anything that it starts, goes to `sink`.
 *
 * Runs side by side stay apart: the run is known by its asynchronous context, not by time. An unfinished last line
 * is given to the sink at the end (Cog loses it).
 */
export async function withOutput<Result>(sink: LineSink, action: () => Promise<Result>): Promise<Result> {
  const writer: Writer = { sink, unfinished: new Map() }
  try {
    return await writers.run(writer, action)
  } finally {
    for (const [source, line] of writer.unfinished) if (line !== '') sink(line, source)
    writer.unfinished.clear()
  }
}

/**
 * From now on, what runs write to this stream goes to their sinks; all else is written as before.
 *
 * `console` writes to `process.stdout` and `process.stderr`, so that capturing these two captures it. What native code
 * writes does not come by here.
 *
 * @returns a function that ends the capture.
 */
export function captureStream(stream: NodeJS.WriteStream, source: LogSource): () => void {
  const original = stream.write
  const write = (chunk: string | Uint8Array, ...rest: readonly unknown[]): boolean => {
    const writer = writers.getStore()
    if (!writer) return Reflect.apply(original, stream, [chunk, ...rest])
    add(writer, source, typeof chunk === 'string' ? chunk : Buffer.from(chunk).toString('utf8'))
    const done = rest.at(-1)
    if (typeof done === 'function') process.nextTick(done)
    return true
  }
  stream.write = write
  return () => {
    stream.write = original
  }
}

function add({ sink, unfinished }: Writer, source: LogSource, text: string): void {
  const lines = ((unfinished.get(source) ?? '') + text).split('\n')
  const last = lines.pop()!
  for (const line of lines) sink(line, source)
  if (last.length < LONGEST_LINE) unfinished.set(source, last)
  else {
    sink(last, source)
    unfinished.set(source, '')
  }
}
