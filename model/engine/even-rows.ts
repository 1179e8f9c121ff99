import type { ModelFolder } from '../folder.js'

/**
 * Whether the CPU's products of this model round a row otherwise where it is the last of an odd number: MatMulNBits with int8
 * arithmetic computes rows in pairs, and a last single one by another kernel. With smaller blocks both sum in the same order.
 * Source: ONNX Runtime 1.30 with AVX-512 VNNI, each layout compared bit by bit (docs/engine.md).
 */
export function roundsInPairs({ weightDtype, manifest }: Pick<ModelFolder, 'weightDtype' | 'manifest'>): boolean {
  const { blockSize, embedding } = manifest
  const pairs = (dtype: string, size: number | null) =>
    size !== null && ((dtype === 'q4' && size >= 64) || (dtype === 'q8' && size >= 128))
  return pairs(weightDtype, blockSize) || (embedding !== undefined && pairs(embedding.dtype, embedding.blockSize))
}
