import { GraphBuilder, int } from '../onnx/graph.js'
import type { Binding, Runtime, Session, TensorType } from '../runtime/types.js'
import { elements, Views } from './views.js'

/** Most alternatives that a token is told with: OpenAI's limit. */
export const MOST_ALTERNATIVES = 20

/** A token and the natural logarithm of its probability. */
export interface Logprob {
  readonly id: number
  readonly logprob: number
}

/** A token that was chosen, and the likeliest of its step, best first, the chosen one among them where it is so likely. */
export interface ChosenLogprob extends Logprob {
  readonly alternatives: readonly Logprob[]
}

/** A token as it comes to its request. */
export interface ChosenToken {
  readonly id: number
  /** Where the request asked for it. */
  readonly logprob?: ChosenLogprob
}

/** What is asked of one row of logits. */
export interface LogprobQuestion {
  /** Of the last run. */
  readonly row: number
  /** The token that was chosen. */
  readonly id: number
  /** 0 … MOST_ALTERNATIVES */
  readonly alternatives: number
}

/**
 * The graph of log-probabilities: of the logits as the model gave them, before penalty, masks, temperature, top-k and top-p.
 *
 * R rows, V vocabulary, K best; A is the type of the logits. Inputs: `logits` A [R,V]; `chosen` i64 [R,1]; `k` i64 [1].
 * Outputs: `values` f32 [R,K], best first; `ids` i64 [R,K]; `mass` f32 [R,1] = Σᵥ exp(xᵥ − values₀); `logit` f32 [R,1], of `chosen`.
 */
export function buildLogprobGraph(logitsType: 'f32' | 'f16' | 'bf16'): Uint8Array {
  const graph = new GraphBuilder('logprobs')
  const logits = graph.input('logits', logitsType, ['rows', 'vocabulary'])
  const chosen = graph.input('chosen', 'i64', ['rows', 1])
  const k = graph.input('k', 'i64', [1])
  const alongVocabulary = { axis: int(1) }
  const raw = logitsType === 'f32' ? logits : graph.node('Cast', [logits], { attributes: { to: int(FLOAT) } })
  const values = graph.node('TopK', [raw, k], {
    outputs: ['values', 'ids'],
    attributes: { axis: int(-1), largest: int(1), sorted: int(1) },
  })
  const best = graph.node('Gather', [values, graph.integers('first', [0])], { attributes: alongVocabulary })
  const weights = graph.node('Exp', [graph.node('Sub', [raw, best])])
  graph.node('ReduceSum', [weights, graph.integers('last_axis', [-1])], {
    outputs: ['mass'],
    attributes: { keepdims: int(1) },
  })
  graph.node('GatherElements', [raw, chosen], { outputs: ['logit'], attributes: alongVocabulary })
  graph.output('values', 'f32', ['rows', 'best'])
  graph.output('ids', 'i64', ['rows', 'best'])
  graph.output('mass', 'f32', ['rows', 1])
  graph.output('logit', 'f32', ['rows', 1])
  return graph.encode()
}

/** TensorProto.DataType */
const FLOAT = 1

/** Runs that graph on the logits of the last run, where they lie. */
export class LogprobRun implements AsyncDisposable {
  readonly #runtime: Runtime
  readonly #vocabSize: number
  readonly #session: Session
  readonly #tensors: Awaited<ReturnType<typeof createTensors>>
  #binding: Binding

  private constructor(
    runtime: Runtime,
    vocabSize: number,
    parts: { session: Session; tensors: Awaited<ReturnType<typeof createTensors>>; binding: Binding },
  ) {
    this.#runtime = runtime
    this.#vocabSize = vocabSize
    this.#session = parts.session
    this.#tensors = parts.tensors
    this.#binding = parts.binding
  }

  static async open(options: {
    readonly runtime: Runtime
    /** Of the logits. */
    readonly type: 'f32' | 'f16' | 'bf16'
    /** V */
    readonly vocabSize: number
    readonly slots: number
  }): Promise<LogprobRun> {
    const { runtime } = options
    const session = await runtime.openSession({ model: buildLogprobGraph(options.type) })
    const binding = await runtime.createBinding(session)
    return new LogprobRun(runtime, options.vocabSize, {
      session,
      binding,
      tensors: await createTensors(runtime, options.slots),
    })
  }

  /**
   * @param logits  [rows, V] of the last run.
   * @param questions  by rising row, one at least. Rows between them are computed for nothing.
   * @returns an answer to each, in their order.
   */
  async ask(logits: Views, questions: readonly LogprobQuestion[]): Promise<ChosenLogprob[]> {
    const first = questions[0]!.row
    const rows = questions.at(-1)!.row - first + 1
    // A graph has at least one; those beyond what is asked for are not looked at.
    const most = Math.max(1, ...questions.map(({ alternatives }) => alternatives))
    const K = Math.min(most, this.#vocabSize)
    const { chosen, count, values, ids, mass, logit } = this.#tensors
    const chosenIds = elements(chosen, BigInt64Array)
    chosenIds.fill(0n)
    for (const { row, id } of questions) chosenIds[row - first] = BigInt(id)
    elements(count, BigInt64Array)[0] = BigInt(K)

    const binding = this.#binding
    binding.bindInput('logits', await logits.view([rows, this.#vocabSize], first * this.#vocabSize))
    binding.bindInput('chosen', await chosen.view([rows, 1]))
    binding.bindInput('k', await count.view([1]))
    binding.bindOutput('values', await values.view([rows, K]))
    binding.bindOutput('ids', await ids.view([rows, K]))
    binding.bindOutput('mass', await mass.view([rows, 1]))
    binding.bindOutput('logit', await logit.view([rows, 1]))
    await this.#runtime.run([binding])

    return questions.map(({ row, id, alternatives }) => {
      const at = row - first
      const best = elements(values, Float32Array).subarray(at * K, (at + 1) * K)
      const bestIds = elements(ids, BigInt64Array).subarray(at * K, (at + 1) * K)
      // In doubles: where one token has nearly all, its logarithm is the small difference of large numbers.
      const logSumExp = best[0]! + Math.log(elements(mass, Float32Array)[at]!)
      return {
        id,
        logprob: elements(logit, Float32Array)[at]! - logSumExp,
        alternatives: Array.from(best.subarray(0, alternatives), (value, rank) => ({
          id: Number(bestIds[rank]),
          logprob: value - logSumExp,
        })),
      }
    })
  }

  /** As Runner's. */
  async rebuild(): Promise<void> {
    await this.#binding[Symbol.asyncDispose]()
    this.#binding = await this.#runtime.createBinding(this.#session)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#binding[Symbol.asyncDispose]()
    for (const tensor of Object.values(this.#tensors)) await tensor[Symbol.asyncDispose]()
    await this.#session[Symbol.asyncDispose]()
  }
}

async function createTensors(runtime: Runtime, slots: number) {
  const host = async (type: TensorType, size: number) =>
    new Views(await runtime.createTensor({ type, shape: [size], place: 'host' }))
  return {
    chosen: await host('i64', slots),
    count: await host('i64', 1),
    values: await host('f32', slots * MOST_ALTERNATIVES),
    ids: await host('i64', slots * MOST_ALTERNATIVES),
    mass: await host('f32', slots),
    logit: await host('f32', slots),
  }
}
