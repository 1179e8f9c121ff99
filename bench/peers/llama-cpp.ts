/** llama.cpp through node-llama-cpp, with that package's own defaults (KV cache in f16, batches of 512, flash attention where it helps). */
import { getLlama, type LlamaContext, type LlamaContextSequence, LlamaLogLevel, type Token } from 'node-llama-cpp'
import { type Contestant, type ContestantOptions, steadyRate } from '../contestants/contestant.js'
import { serve } from '../contestants/serve.js'

/** Tokens of the prompts of those that generate together; depths have a context of their own. */
const SHORT = 256

async function open({ model: modelPath, threads, sequences, contextLength }: ContestantOptions): Promise<Contestant> {
  const llama = await getLlama({ gpu: false, build: 'never', maxThreads: threads, logLevel: LlamaLogLevel.error })
  const model = await llama.loadModel({ modelPath, gpuLayers: 0 })
  let several: Promise<LlamaContext> | undefined
  const long = await model.createContext({ sequences: 1, contextSize: contextLength, threads })
  const alone = long.getSequence()
  const shared: LlamaContextSequence[] = []
  let fresh = 0

  const prompt = (tokens: number, seed: number) =>
    Array.from({ length: tokens }, (_, i) => (1000 + ((i * 7 + seed * 131) % 5000)) as Token)
  const generate = async (sequence: LlamaContextSequence, last: Token, newTokens: number) => {
    const moments: number[] = []
    const options = { temperature: 0, yieldEogToken: true, contextShift: { size: 1 } } as const
    for await (const _ of sequence.evaluate([last], options)) {
      moments.push(performance.now())
      if (moments.length === newTokens) break
    }
    return moments
  }
  /** Brings a sequence to exactly this prompt; what it holds of it already is kept. */
  const fill = async (sequence: LlamaContextSequence, wanted: Token[]) => {
    const { firstDifferentIndex } = sequence.compareContextTokens(wanted)
    await sequence.eraseContextTokenRanges([{ start: firstDifferentIndex, end: sequence.nextTokenIndex }])
    const missing = wanted.slice(firstDifferentIndex)
    if (missing.length > 0) await sequence.evaluateWithoutGeneratingNewTokens(missing)
  }
  return {
    async prefill(tokens) {
      await alone.clearHistory()
      const start = performance.now()
      await alone.evaluateWithoutGeneratingNewTokens(prompt(tokens, ++fresh))
      return (tokens / (performance.now() - start)) * 1000
    },
    async decode(count, depth, newTokens) {
      if (count === 1) {
        const wanted = prompt(depth, 0)
        await fill(alone, wanted.slice(0, -1))
        return steadyRate([await generate(alone, wanted.at(-1)!, newTokens)])
      }
      several ??= model.createContext({ sequences, contextSize: SHORT, threads })
      const context = await several
      while (shared.length < count) shared.push(context.getSequence())
      const used = shared.slice(0, count)
      await Promise.all(used.map((sequence, index) => fill(sequence, prompt(depth, index).slice(0, -1))))
      const last = (index: number) => prompt(depth, index).at(-1)!
      const all = used.map((sequence, index) => generate(sequence, last(index), newTokens))
      return steadyRate(await Promise.all(all))
    },
  }
}

await serve(open)
