/**
 * What each dtype and layout costs in quality: KL divergence from the f32 model and top-1 agreement with it, on real text.
 *
 *   npm run bench:quality -- [--checkpoint <folder>] [--text <file>] [--tokens <most>] [--formats <names>] [<exported folder> …]
 *
 * Exports the checkpoint (by default the demo model's) to f32 and to each format, runs all on the same tokens, and prints one
 * JSON object and a table. Further exported folders of the same model, such as an imported GGUF file, are compared as they are.
 */
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { cpus, tmpdir } from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { PromptMaker } from '../model/engine/prompt.js'
import { exportModel } from '../model/export/export.js'
import type { BlockSize, ExportFormat } from '../model/export/format.js'
import type { ScaleChoice } from '../model/export/quantize.js'
import { type ModelFolder, openModelFolder } from '../model/folder.js'
import { packageRoot } from '../model/package-root.js'
import { openRuntime } from '../model/runtime/runtime.js'
import { NaiveModel } from '../test/numerics/naive-model.js'
import { Divergence, logSoftmax } from './divergence.js'
import { conversationSamples, type Sample, textSamples } from './quality-samples.js'
import { table } from './report.js'
import { weightError } from './weight-error.js'

interface Format extends ExportFormat {
  readonly scaleChoice: ScaleChoice
  readonly embedding?: 'q8'
}

const KINDS = {
  q8: { dtype: 'q8', scaleChoice: 'best' },
  q4: { dtype: 'q4', scaleChoice: 'best' },
  'q4-plain': { dtype: 'q4', scaleChoice: 'plain' },
  // At block 32 what llama.cpp's usual Q4_0 file is, but that its embedding has 6 bits.
  'q4-plain-embedding-q8': { dtype: 'q4', scaleChoice: 'plain', embedding: 'q8' },
  'q4-embedding-q8': { dtype: 'q4', scaleChoice: 'best', embedding: 'q8' },
} as const

const FORMATS: Readonly<Record<string, Format>> = Object.fromEntries(
  [128, 64, 32].flatMap((blockSize) =>
    Object.entries(KINDS).map(([name, kind]) => [
      `${name}-b${blockSize}`,
      { target: 'cpu', blockSize: blockSize as BlockSize, ...kind } as const,
    ]),
  ),
)

/** Tokens of a run, so that logits [S, V] of a large vocabulary stay within memory. */
const PIECE = 64

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    checkpoint: { type: 'string', default: path.join(packageRoot, 'model', 'demo', 'checkpoint') },
    text: { type: 'string' },
    tokens: { type: 'string' },
    formats: { type: 'string' },
  },
})
const names = values.formats?.split(',') ?? Object.keys(FORMATS)
const unknown = names.find((name) => !Object.hasOwn(FORMATS, name))
if (unknown !== undefined) {
  throw new Error(`--formats: "${unknown}" is none of ${Object.keys(FORMATS).join(', ')}.`)
}

const temporary = await mkdtemp(path.join(tmpdir(), 'bezel-quality-'))
await using runtime = await openRuntime({ device: 'cpu' })
try {
  const reference = await exportAs('f32', { target: 'cpu', dtype: 'f32', blockSize: 32, scaleChoice: 'best' })
  const samples = await readSamples(reference)
  const wanted = await logProbabilities(reference, samples)
  const rows = []
  for (const name of names) {
    const format = FORMATS[name]!
    const folder = await exportAs(name, format)
    const error = await weightError(values.checkpoint, format)
    rows.push({
      name,
      weightBytes: folder.weightBytes,
      weightError: error,
      ...(await compare(folder, samples, wanted)),
    })
    await rm(folder.path, { recursive: true })
  }
  for (const given of positionals) {
    const folder = await openModelFolder(given)
    rows.push({ name: given, weightBytes: folder.weightBytes, ...(await compare(folder, samples, wanted)) })
  }
  const positions = samples.reduce((sum, { rows }) => sum + rows.length, 0)
  console.log(
    JSON.stringify({
      date: new Date().toISOString(),
      cpu: cpus()[0]?.model,
      checkpoint: values.checkpoint,
      text: values.text ?? 'the demo model’s held-out conversations',
      positions,
      rows,
    }),
  )
  const percent = (share: number | undefined, digits: number) =>
    share === undefined ? '' : `${(share * 100).toFixed(digits)} %`
  console.log(
    table([
      ['', 'MB', 'RMS error of the weights', 'mean KL, nats', '99 % below', 'same top-1', 'perplexity'],
      ...rows.map((row) => [
        row.name,
        (row.weightBytes / 1e6).toFixed(2),
        percent('weightError' in row ? row.weightError : undefined, 2),
        row.meanKL.toExponential(2),
        row.p99KL.toExponential(2),
        percent(row.sameTop1, 2),
        `${row.perplexityRatio.toFixed(4)} ×`,
      ]),
    ]),
  )
  console.log(`${positions} positions; perplexity as a ratio to f32's`)
} finally {
  await rm(temporary, { recursive: true, force: true })
}

async function exportAs(name: string, format: Format): Promise<ModelFolder> {
  const out = path.join(temporary, name)
  await exportModel({ checkpoint: values.checkpoint, out, ...format })
  return openModelFolder(out)
}

async function readSamples(folder: ModelFolder): Promise<Sample[]> {
  const prompts = await PromptMaker.open(folder)
  const samples =
    values.text === undefined
      ? await conversationSamples(prompts)
      : await textSamples(prompts, await readFile(values.text, 'utf8'), folder.config.maxPositions)
  let left = Number(values.tokens ?? Number.POSITIVE_INFINITY)
  return samples.filter(({ ids }) => {
    left -= ids.length
    return left >= 0
  })
}

/** Log-probabilities [positions][V] of a model at all positions that count, as f32. */
async function logProbabilities(folder: ModelFolder, samples: readonly Sample[]): Promise<Float32Array[]> {
  const found: Float32Array[] = []
  for await (const { logits } of run(folder, samples)) found.push(logSoftmax(logits))
  return found
}

async function compare(folder: ModelFolder, samples: readonly Sample[], wanted: readonly Float32Array[]) {
  const divergence = new Divergence()
  let position = 0
  for await (const { logits, next } of run(folder, samples)) {
    divergence.add(wanted[position++]!, logSoftmax(logits), next)
  }
  return divergence.figures()
}

/** The logits [V] at each position that counts, and the token that follows it in the text. */
async function* run(
  folder: ModelFolder,
  samples: readonly Sample[],
): AsyncGenerator<{ logits: Float32Array; next: number }> {
  await using model = await NaiveModel.open(runtime, folder)
  for (const { ids, rows } of samples) {
    model.reset()
    const counted = new Set(rows)
    for (let start = 0; start < ids.length - 1; start += PIECE) {
      const piece = ids.slice(start, Math.min(start + PIECE, ids.length - 1))
      for (const [index, logits] of (await model.append(piece)).entries()) {
        if (counted.has(start + index)) yield { logits, next: ids[start + index + 1]! }
      }
    }
  }
}
