import { GraphBuilder, int } from '../onnx/graph.js'

/** TensorProto.DataType */
const FLOAT = 1

/**
 * The graph that makes candidates of logits where they lie: repetition penalty and masked tokens, temperature, the K best,
 * and the sum over the whole vocabulary that makes probabilities of them. It has no weights.
 *
 * R rows, V vocabulary, P edits of a row, K candidates; A is the type of the logits.
 * Inputs: `logits` A [R,V]; `edit_ids` i32 [R,P] and `edit_add` f32 [R,P], of equal ids equal adds; `penalty` f32 [R,1];
 *   `temperature` f32 [R,1], not 0; `k` i64 [1], 1 … V. A row without edits has penalty 1 and adds of 0.
 * With `masked` also `allowed` bool [R,V]: what is not allowed scores −∞. A row that allows all is as without.
 * Outputs: `values` f32 [R,K], best first; `ids` i64 [R,K]; `mass` f32 [R,1] = Σᵥ exp(xᵥ − values₀), over all V.
 *
 * Source of the order, and of the penalty: transformers 5.24, generation/utils.py (_get_logits_processor) and
 *   generation/logits_process.py (RepetitionPenaltyLogitsProcessor, MinNewTokensLengthLogitsProcessor, TemperatureLogitsWarper).
 */
export function buildSamplingGraph(
  logitsType: 'f32' | 'f16' | 'bf16',
  { masked = false }: { readonly masked?: boolean } = {},
): Uint8Array {
  const graph = new GraphBuilder('sampling')
  const logits = graph.input('logits', logitsType, ['rows', 'vocabulary'])
  const editIds = graph.input('edit_ids', 'i32', ['rows', 'edits'])
  const editAdd = graph.input('edit_add', 'f32', ['rows', 'edits'])
  const penalty = graph.input('penalty', 'f32', ['rows', 1])
  const temperature = graph.input('temperature', 'f32', ['rows', 1])
  const k = graph.input('k', 'i64', [1])
  const zero = graph.initializer('zero', 'f32', [], new Uint8Array(4))
  const first = graph.integers('first', [0])
  const lastAxis = graph.integers('last_axis', [-1])
  const alongVocabulary = { attributes: { axis: int(1) } }

  // CUDA has no TopK for bf16, and a quotient in half precision would make ties of neighbours.
  const raw = logitsType === 'f32' ? logits : graph.node('Cast', [logits], { attributes: { to: int(FLOAT) } })

  const seen = graph.node('GatherElements', [raw, editIds], alongVocabulary)
  const penalized = graph.node('Where', [
    graph.node('Less', [seen, zero]),
    graph.node('Mul', [seen, penalty]),
    graph.node('Div', [seen, penalty]),
  ])
  const edited = graph.node('Add', [penalized, editAdd])
  const scores = graph.node('ScatterElements', [raw, editIds, edited], alongVocabulary)
  const left = masked ? mask(graph, scores) : scores
  const scaled = graph.node('Div', [left, temperature])

  const values = graph.node('TopK', [scaled, k], {
    outputs: ['values', 'ids'],
    attributes: { axis: int(-1), largest: int(1), sorted: int(1) },
  })
  const best = graph.node('Gather', [values, first], alongVocabulary)
  // In these parts it takes a third of ReduceLogSumExp's time on the CPU.
  const weights = graph.node('Exp', [graph.node('Sub', [scaled, best])])
  graph.node('ReduceSum', [weights, lastAxis], { outputs: ['mass'], attributes: { keepdims: int(1) } })

  graph.output('values', 'f32', ['rows', 'candidates'])
  graph.output('ids', 'i64', ['rows', 'candidates'])
  graph.output('mass', 'f32', ['rows', 1])
  return graph.encode()
}

function mask(graph: GraphBuilder, scores: string): string {
  const allowed = graph.input('allowed', 'bool', ['rows', 'vocabulary'])
  const bytes = new Uint8Array(Float32Array.of(Number.NEGATIVE_INFINITY).buffer)
  return graph.node('Where', [allowed, scores, graph.initializer('impossible', 'f32', [], bytes)])
}
