/** ONNX Runtime's own JavaScript session by the book: the portable graph, each step's `present` as the next step's past. */
import { InferenceSession, Tensor } from 'onnxruntime-node'
import { openModelFolder } from '../../model/folder.js'
import { type Contestant, type ContestantOptions, steadyRate } from './contestant.js'
import { serve } from './serve.js'

interface State {
  readonly past: Record<string, Tensor>
  readonly length: number
  readonly next: number
}

async function open({ model, threads }: ContestantOptions): Promise<Contestant> {
  const folder = await openModelFolder(model)
  const { layers, kvHeads, headSize } = folder.config
  const session = await InferenceSession.create(folder.portableModel, { intraOpNumThreads: threads })
  const names = Array.from({ length: layers }, (_, layer) => ['key', 'value'].map((kind) => `${layer}.${kind}`)).flat()
  const none = () => new Tensor('float32', new Float32Array(0), [1, kvHeads, 0, headSize])
  const empty: State = {
    past: Object.fromEntries(names.map((name) => [`past_key_values.${name}`, none()])),
    length: 0,
    next: 0,
  }
  const step = async ({ past, length }: State, ids: readonly number[]): Promise<State> => {
    const total = length + ids.length
    const results = await session.run({
      ...past,
      input_ids: new Tensor('int64', BigInt64Array.from(ids, BigInt), [1, ids.length]),
      attention_mask: new Tensor('int64', new BigInt64Array(total).fill(1n), [1, total]),
    })
    const next = argmax(results.logits!.data as Float32Array)
    return {
      past: Object.fromEntries(names.map((name) => [`past_key_values.${name}`, results[`present.${name}`] as Tensor])),
      length: total,
      next,
    }
  }
  const prompt = (tokens: number) => Array.from({ length: tokens }, (_, i) => (i % 200) + 300)
  const prompts = new Map<number, State>()
  return {
    async prefill(tokens) {
      const start = performance.now()
      await step(empty, prompt(tokens))
      return (tokens / (performance.now() - start)) * 1000
    },
    async decode(sequences, depth, newTokens) {
      if (sequences > 1) throw new Error('its API has no way to run rows of different lengths in place')
      let state = prompts.get(depth) ?? (await step(empty, prompt(depth)))
      prompts.set(depth, state)
      const moments: number[] = []
      for (let i = 0; i < newTokens; i++) {
        state = await step(state, [state.next])
        moments.push(performance.now())
      }
      return steadyRate([moments])
    },
  }
}

function argmax(values: Float32Array): number {
  let best = 0
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i
  return best
}

await serve(open)
