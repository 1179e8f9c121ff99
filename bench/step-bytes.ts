import type { ModelFolder } from '../model/folder.js'

/**
 * Bytes of weights that a decode step of one sequence reads: every matrix once, the embedding as the output matrix.
 *
 * For q4 and q8 ONNX Runtime's kernels read, beside the values, a scale and a sum of each block, both in f32, whatever the
 * file holds: 4.5 bits a weight at block 128, 6 at block 32. (MLAS, sqnbitgemm: QuantBBlkSum.)
 */
export function stepBytes({ config, weightDtype, manifest }: ModelFolder): number {
  const { hiddenSize: H, intermediateSize: I, headSize: D, heads, kvHeads, vocabSize: V, layers } = config
  const embedding = V * H
  const matrices = layers * H * (2 * heads * D + 2 * kvHeads * D + 3 * I)
  if (weightDtype === 'f32') return (embedding + matrices) * 4
  if (weightDtype === 'f16' || weightDtype === 'bf16') return (embedding + matrices) * 2
  const own = { dtype: weightDtype, blockSize: manifest.blockSize! }
  return matrices * weightBytes(own) + embedding * weightBytes(manifest.embedding ?? own)
}

function weightBytes({ dtype, blockSize }: { dtype: 'q4' | 'q8'; blockSize: number }): number {
  return (dtype === 'q4' ? 0.5 : 1) + 8 / blockSize
}
