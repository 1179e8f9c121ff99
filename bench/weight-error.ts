import { Checkpoint } from '../model/export/checkpoint.js'
import { layerTensors } from '../model/export/gemma-tensors.js'
import { dequantizeBlocks, quantizeBlocks, type ScaleChoice } from '../model/export/quantize.js'

/** Rows at once, of up to some ten thousand weights each. */
const ROWS = 256

/**
 * Root mean square of what quantizing loses of a checkpoint's layers, as a share of the weights' own.
 *
 * @param options.dtype  q4 or q8
 */
export async function weightError(
  folder: string,
  options: { readonly dtype: string; readonly blockSize: number; readonly scaleChoice: ScaleChoice },
): Promise<number> {
  const { blockSize, scaleChoice } = options
  const bits = options.dtype === 'q4' ? 4 : 8
  await using checkpoint = await Checkpoint.open(folder)
  let [lost, all] = [0, 0]
  for (let layer = 0; layer < checkpoint.config.layers; layer++) {
    const { inputNorm: _, mlpNorm: __, ...matrices } = layerTensors(layer)
    for (const name of Object.values(matrices)) {
      const { rows, columns } = checkpoint.shape(name)
      for (let first = 0; first < rows; first += ROWS) {
        const count = Math.min(ROWS, rows - first)
        const values = new Float32Array(count * columns)
        await checkpoint.readRows(name, first, count, values, new Uint8Array(values.byteLength))
        const format = { bits, blockSize, scaleType: 'f32' } as const
        const packed = new Uint8Array((values.length * bits) / 8)
        const scales = new Float32Array(values.length / blockSize)
        quantizeBlocks(values, format, packed, scales, scaleChoice)
        const back = dequantizeBlocks(packed, scales, format)
        for (let i = 0; i < values.length; i++) {
          lost += (values[i]! - back[i]!) ** 2
          all += values[i]! ** 2
        }
      }
    }
  }
  return Math.sqrt(lost / all)
}
