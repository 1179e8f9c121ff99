/** @huggingface/transformers on our portable model.onnx: its own forward pass, its own cache. */
import path from 'node:path'
import { AutoModelForCausalLM, BaseStreamer, env, Tensor, type TextStreamer } from '@huggingface/transformers'
import { type Contestant, type ContestantOptions, steadyRate } from '../contestants/contestant.js'
import { serve } from '../contestants/serve.js'

/** Notes when tokens came: called with the prompt first, then with each step's. */
class Clock extends BaseStreamer {
  readonly moments: number[] = []

  override put(): void {
    this.moments.push(performance.now())
  }

  override end(): void {}
}

async function open({ model: folder, threads }: ContestantOptions): Promise<Contestant> {
  env.allowRemoteModels = false
  env.localModelPath = path.dirname(path.resolve(folder))
  const model = await AutoModelForCausalLM.from_pretrained(path.basename(path.resolve(folder)), {
    subfolder: '',
    device: 'cpu',
    session_options: { intraOpNumThreads: threads },
  })
  const int64 = (values: bigint[], shape: number[]) => new Tensor('int64', BigInt64Array.from(values), shape)
  const batch = (rows: number, tokens: number) =>
    Array.from({ length: rows * tokens }, (_, i) => BigInt((i % 200) + 300))
  const generate = async (rows: number, tokens: number, newTokens: number) => {
    const clock = new Clock()
    const shape = [rows, tokens]
    await model.generate({
      inputs: int64(batch(rows, tokens), shape),
      attention_mask: int64(new Array(rows * tokens).fill(1n), shape),
      max_new_tokens: newTokens,
      min_new_tokens: newTokens,
      do_sample: false,
      // Its types ask for a TextStreamer, its code for the two methods.
      streamer: clock as BaseStreamer as TextStreamer,
    })
    return clock.moments.slice(1)
  }
  return {
    async prefill(tokens) {
      const start = performance.now()
      await model.forward({
        input_ids: int64(batch(1, tokens), [1, tokens]),
        attention_mask: int64(new Array(tokens).fill(1n), [1, tokens]),
      })
      return (tokens / (performance.now() - start)) * 1000
    },
    async decode(sequences, depth, newTokens) {
      const moments = await generate(sequences, depth, newTokens)
      return steadyRate(Array.from({ length: sequences }, () => moments))
    },
  }
}

await serve(open)
