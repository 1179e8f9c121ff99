import { GraphBuilder } from '../onnx/graph.js'

/**
 * The graph that copies pieces of memory on the device, whichever that is: `from.0` … `from.{pieces − 1}`, each of any length,
 * to `to.0` …, which a binding lays over other memory. It has no weights.
 */
export function buildCopyGraph(type: 'f32' | 'f16' | 'bf16', pieces: number): Uint8Array {
  const graph = new GraphBuilder('copy')
  for (let piece = 0; piece < pieces; piece++) {
    const length = `length_${piece}`
    graph.node('Identity', [graph.input(`from.${piece}`, type, [length])], { outputs: [`to.${piece}`] })
    graph.output(`to.${piece}`, type, [length])
  }
  return graph.encode()
}
