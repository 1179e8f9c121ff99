import { cp, readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import t from 'tap'
import { Checkpoint } from '../../model/export/checkpoint.js'
import { exportModel } from '../../model/export/export.js'
import type { ExportFormat } from '../../model/export/format.js'
import { type BlockFormat, dequantizeBlocks, quantizeBlocks } from '../../model/export/quantize.js'
import { type ModelFolder, openModelFolder } from '../../model/folder.js'
import { ModelProto } from '../../model/onnx/proto.js'
import { openRuntime } from '../../model/runtime/runtime.js'
import { gemmaTensors, safetensorsHeader } from '../export/random-checkpoint.js'
import { largestDifference, NaiveModel } from './naive-model.js'
import { copyCheckpoint, randomFixtures, readReference } from './reference.js'

/** With MatMulNBits computing in f32 (accuracy level 0) only the order of sums differs: 2e-5 was seen, on logits up to 10. */
const TOLERANCE = 1e-3

/**
 * As exported (accuracy level 4), MatMulNBits rounds its inputs to int8, block by block; the dequantized model does not. Root
 * mean square of the difference as a share of the logits' own: 3.8 to 4.9 % was seen, the same for q4 and q8, since it comes
 * from the inputs. These models have large random weights, which amplify it; 140 % is what unrelated logits would give.
 */
const INT8_TOLERANCE = 0.08

/** Exports for CUDA, run on the CPU: everything is rounded to f16 on the way. See cuda-export.test.ts. */
const F16_TOLERANCE = 0.25

const runtime = await openRuntime({ device: 'cpu', threads: 1 })
t.teardown(() => runtime[Symbol.asyncDispose]())

for (const name of await randomFixtures()) {
  for (const [dtype, blockSize] of [
    ['q4', 32],
    ['q4', 64],
    ['q8', 64],
  ] as const) {
    t.test(`${name}: ${dtype} in blocks of ${blockSize} says what its weights say when dequantized`, async (t) => {
      const { prompt } = await readReference(name)
      const folder = t.testdir({ original: {}, dequantized: {} })
      const original = path.join(folder, 'original')
      const dequantized = path.join(folder, 'dequantized')
      await copyCheckpoint(name, original)
      await dequantizeCheckpoint(original, dequantized, { bits: dtype === 'q4' ? 4 : 8, blockSize, scaleType: 'f32' })

      const exact = await exportFrom(dequantized, { target: 'cpu', dtype: 'f32', blockSize })
      const quantized = await exportFrom(original, { target: 'cpu', dtype, blockSize })
      const wanted = await logitsOf(exact, prompt)
      const difference = largestDifference(await logitsOf(await withoutInt8(quantized), prompt), wanted)
      t.ok(difference <= TOLERANCE, `computed in f32, max |Δ| of the logits is ${difference}`)

      const found = await logitsOf(quantized, prompt)
      const share = rootMeanSquare(found.map((value, i) => value - wanted[i]!)) / rootMeanSquare(wanted)
      t.ok(share <= INT8_TOLERANCE, `computed in int8, the logits differ by ${(share * 100).toFixed(2)} %`)
    })
  }

  for (const dtype of ['q4', 'q8'] as const) {
    t.test(`${name}: ${dtype} for CUDA, run on the CPU, says what its weights say when dequantized`, async (t) => {
      const { prompt } = await readReference(name)
      const folder = t.testdir({ original: {}, dequantized: {} })
      const original = path.join(folder, 'original')
      const dequantized = path.join(folder, 'dequantized')
      await copyCheckpoint(name, original)
      await dequantizeCheckpoint(original, dequantized, {
        bits: dtype === 'q4' ? 4 : 8,
        blockSize: 32,
        scaleType: 'f16',
      })
      const exact = await exportFrom(dequantized, { target: 'cpu', dtype: 'f32', blockSize: 32 })
      const quantized = await exportFrom(original, { target: 'cuda', dtype, blockSize: 32 })
      const difference = largestDifference(await logitsOf(quantized, prompt), await logitsOf(exact, prompt))
      t.ok(difference <= F16_TOLERANCE, `max |Δ| of the logits is ${difference}`)
    })
  }
}

async function exportFrom(checkpoint: string, format: ExportFormat): Promise<ModelFolder> {
  const out = path.join(checkpoint, `export-${format.dtype}`)
  await exportModel({ checkpoint, out, ...format })
  return openModelFolder(out)
}

/** The logits of every position, one after another. */
async function logitsOf(folder: ModelFolder, prompt: number[]): Promise<Float32Array> {
  await using model = await NaiveModel.open(runtime, folder)
  return Float32Array.from((await model.append(prompt)).flatMap((row) => [...row]))
}

/** The same folder with a second engine graph over the same data, in which MatMulNBits computes in f32. */
async function withoutInt8(folder: ModelFolder): Promise<ModelFolder> {
  const model = ModelProto.toObject(ModelProto.decode(await readFile(folder.engineModel)))
  for (const node of model.graph.node) {
    for (const attribute of node.attribute ?? []) if (attribute.name === 'accuracy_level') attribute.i = 0
  }
  const engineModel = path.join(folder.path, 'engine-f32.onnx')
  await writeFile(engineModel, ModelProto.encode(ModelProto.fromObject(model)).finish())
  return { ...folder, engineModel }
}

/** A checkpoint in f32 whose matrices are what is left of the original's after quantization. */
async function dequantizeCheckpoint(from: string, to: string, format: BlockFormat): Promise<void> {
  for (const file of ['config.json', 'tokenizer.json', 'tokenizer_config.json']) {
    await cp(path.join(from, file), path.join(to, file))
  }
  await using checkpoint = await Checkpoint.open(from)
  const tensors = gemmaTensors(checkpoint.config)
  const parts: Uint8Array[] = [safetensorsHeader(tensors, 'F32')]
  for (const { name, shape } of tensors) {
    const { rows, columns } = checkpoint.shape(name)
    let values: Float32Array = new Float32Array(rows * columns)
    await checkpoint.readRows(name, 0, rows, values, new Uint8Array(values.byteLength))
    if (shape.length === 2) {
      const packed = new Uint8Array((values.length * format.bits) / 8)
      const blocks = values.length / format.blockSize
      const scales = format.scaleType === 'f16' ? new Uint16Array(blocks) : new Float32Array(blocks)
      quantizeBlocks(values, format, packed, scales)
      values = dequantizeBlocks(packed, scales, format)
    }
    parts.push(new Uint8Array(values.buffer, 0, values.byteLength))
  }
  await writeFile(path.join(to, 'model.safetensors'), Buffer.concat(parts))
}

function rootMeanSquare(values: Float32Array): number {
  return Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / values.length)
}
