import { randomFillSync } from 'node:crypto'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { GraphBuilder, int } from '../../model/onnx/graph.js'
import { MICROSOFT } from '../../model/onnx/proto.js'

/** z = x + y, f32 [B, 4]. */
export function addGraph(): Uint8Array {
  const graph = new GraphBuilder('add')
  graph.input('x', 'f32', ['B', 4])
  graph.input('y', 'f32', ['B', 4])
  graph.node('Add', ['x', 'y'], { outputs: ['z'] })
  graph.output('z', 'f32', ['B', 4])
  return graph.encode()
}

/**
 * y = x · w · w … (`layers` times), f32 [n, n]: as slow as asked for, and with as many nodes at which a run can be ended.
 */
export function slowGraph(layers: number, n: number): Uint8Array {
  const graph = new GraphBuilder('slow')
  graph.input('x', 'f32', [n, n])
  const weight = new Float32Array(n * n).fill(1 / n)
  let value = 'x'
  for (let layer = 0; layer < layers; layer++) {
    // One weight each: with one for all, ONNX Runtime would fold the products of constants.
    const w = graph.initializer(`w${layer}`, 'f32', [n, n], new Uint8Array(weight.buffer))
    value = graph.node('MatMul', [value, w], layer === layers - 1 ? { outputs: ['y'] } : {})
  }
  graph.output('y', 'f32', [n, n])
  return graph.encode()
}

/**
 * One attention over a KV cache as the engine uses it: `packed` [B, S, (2 + 2·1)·32] → `attention` [B, S, 2·32], past and
 * present f32 [B, 1, T, 32].
 */
export function attentionGraph(): Uint8Array {
  const graph = new GraphBuilder('attention')
  graph.input('packed', 'f32', ['B', 'S', 128])
  graph.input('past.key', 'f32', ['B', 1, 'T', 32])
  graph.input('past.value', 'f32', ['B', 1, 'T', 32])
  graph.input('seqlens_k', 'i32', ['B'])
  graph.input('total_sequence_length', 'i32', [])
  graph.node(
    'GroupQueryAttention',
    ['packed', '', '', 'past.key', 'past.value', 'seqlens_k', 'total_sequence_length'],
    {
      domain: MICROSOFT,
      outputs: ['attention', 'present.key', 'present.value'],
      attributes: { num_heads: int(2), kv_num_heads: int(1) },
    },
  )
  graph.output('attention', 'f32', ['B', 'S', 64])
  graph.output('present.key', 'f32', ['B', 1, 'T', 32])
  graph.output('present.value', 'f32', ['B', 1, 'T', 32])
  return graph.encode()
}

/**
 * Writes a model of `layers` 4-bit products (y = x · W · W …, f32 [B, size]) with unique random weights beside it, as the
 * exporter lays them out. Returns the graph's path.
 *
 * @param options.size  rows and columns of each weight; from 2048 on, ONNX Runtime saves its packed form at a page's start.
 */
export function writeQuantizedModel(folder: string, options: { layers: number; size: number }): string {
  const { layers, size } = options
  const block = 32
  const blocks = size / block
  mkdirSync(folder, { recursive: true })
  const graph = new GraphBuilder('quantized')
  graph.input('x', 'f32', ['B', size])
  const parts: Uint8Array[] = []
  let offset = 0
  const external = (bytes: Uint8Array) => {
    const padding = new Uint8Array(-bytes.byteLength & 4095)
    const data = { location: 'weights.bin', offset, length: bytes.byteLength }
    parts.push(bytes, padding)
    offset += bytes.byteLength + padding.byteLength
    return data
  }
  let value = 'x'
  for (let layer = 0; layer < layers; layer++) {
    const weights = randomFillSync(new Uint8Array((size * size) / 2))
    const scales = new Float32Array(size * blocks).fill(1 / size)
    const b = graph.initializer(`b${layer}`, 'u8', [size, blocks, block / 2], external(weights))
    const s = graph.initializer(`s${layer}`, 'f32', [size * blocks], external(new Uint8Array(scales.buffer)))
    value = graph.node('MatMulNBits', [value, b, s], {
      domain: MICROSOFT,
      outputs: [layer === layers - 1 ? 'y' : `y${layer}`],
      attributes: { K: int(size), N: int(size), bits: int(4), block_size: int(block), accuracy_level: int(4) },
    })
  }
  graph.output('y', 'f32', ['B', size])
  writeFileSync(join(folder, 'weights.bin'), Buffer.concat(parts))
  const path = join(folder, 'engine.onnx')
  writeFileSync(path, graph.encode())
  return path
}
