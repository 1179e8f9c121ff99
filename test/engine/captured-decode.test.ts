import t from 'tap'
import type { GenerateRequest } from '../../model/engine/request.js'
import { OrtError } from '../../model/errors.js'
import type { Binding, Runtime } from '../../model/runtime/types.js'
import { generate, tinyModel } from './tiny.js'
import { wrapRuntime } from './wrapped-runtime.js'

// There is no GPU here: the CPU stands for one. It captures nothing, so what runs as a replay elsewhere runs plainly, with
// the same bindings, shapes and order. What a replay must not do is played by leaving the run out.

const model = await tinyModel(t)
const requests: GenerateRequest[] = [
  { prompt: 'Hello', maxNewTokens: 30, temperature: 0 },
  { prompt: 'the man in the moon went on', maxNewTokens: 9, temperature: 0.7, topK: 50, topP: 0.95, seed: 1 },
  { prompt: 'a', maxNewTokens: 40, temperature: 1, seed: 2 },
  { prompt: 'the '.repeat(30), maxNewTokens: 4, temperature: 0.7, topP: 0.9, repetitionPenalty: 1.3, seed: 3 },
  { prompt: 'x'.repeat(100), maxNewTokens: 12, temperature: 5, seed: 4, minNewTokens: 12 },
  { prompt: 'Hello', maxNewTokens: 30, temperature: 0.7, topK: 5, seed: 5 },
  { prompt: 'mode and user', maxNewTokens: 1, temperature: 1, seed: 7 },
]

interface Gpu {
  readonly runtime: Runtime
  /** Runs of each graph, by its number. */
  readonly runs: ReadonlyMap<number, number>
}

/** @param isReplayed  whether the n-th run of a graph really runs. */
function simulatedGpu(isReplayed: (run: number) => boolean = () => true): Gpu {
  const graphs = new Map<Binding, number>()
  const runs = new Map<number, number>()
  const wrapped = wrapRuntime(model.runtime, (run) => (bindings, signal) => {
    const executed = bindings.filter((binding) => {
      const graph = graphs.get(binding)
      if (graph === undefined) return true
      runs.set(graph, (runs.get(graph) ?? 0) + 1)
      return isReplayed(runs.get(graph)!)
    })
    return run(executed, signal)
  })
  const runtime: Runtime = {
    ...wrapped,
    device: { kind: 'cuda', id: 0 },
    async createBinding(session, options) {
      const binding = await model.runtime.createBinding(session, options)
      if (options?.graph !== undefined) graphs.set(binding, options.graph)
      return binding
    },
  }
  return { runtime, runs }
}

/** What a proof takes of each graph. */
const PROOF_RUNS = 6

t.test('answers from captured steps of every size are those that each request gets alone', async (t) => {
  const plain = await model.open({ slots: 1 })
  const gpu = simulatedGpu()
  const engine = await model.open({ runtime: gpu.runtime, slots: 5 })
  t.same([...gpu.runs.keys()], [1, 2, 4, 5])
  for (const [size, runs] of gpu.runs) t.ok(runs >= PROOF_RUNS, `the graph of ${size} rows was proven at the start`)

  const answers = await Promise.all(requests.map((request) => generate(engine, request)))
  for (const [index, request] of requests.entries()) {
    t.same(answers[index]!.pieces, (await generate(plain, request)).pieces, JSON.stringify(request))
  }
  t.ok(gpu.runs.get(5)! > PROOF_RUNS, 'all five at once')
  t.ok([...gpu.runs.values()].reduce((sum, runs) => sum + runs) > 4 * PROOF_RUNS + 40, 'every step of theirs')
})

t.test('a flat distribution, which few candidates do not decide, reads the logits of its own row', async (t) => {
  const request = { prompt: 'Hello', maxNewTokens: 20, temperature: 5, topK: 0, topP: 1, seed: 11 }
  const plain = await model.open({ slots: 1 })
  const engine = await model.open({ runtime: simulatedGpu().runtime, slots: 3 })
  const others = [1, 2].map((seed) => generate(engine, { prompt: 'a', maxNewTokens: 30, temperature: 1, seed }))
  t.same((await generate(engine, request)).pieces, (await generate(plain, request)).pieces)
  await Promise.all(others)
})

t.test('a graph that repeats its capture is found out, and steps run without graphs', async (t) => {
  const gpu = simulatedGpu((run) => run <= 3)
  const warnings: string[] = []
  const log = { info: () => {}, warn: (message: string) => warnings.push(message) }
  const engine = await model.open({ runtime: gpu.runtime, slots: 2, log })
  t.equal(warnings.length, 1)
  t.match(warnings[0], /^Decode steps run without CUDA graphs, which is slower: a captured step of 1 rows gives /)
  const before = gpu.runs.get(1)
  t.equal((await generate(engine, requests[0]!)).outputTokens, 30)
  t.equal(gpu.runs.get(1), before)
})

t.test('a model that cannot be captured is opened without', async (t) => {
  const gpu = simulatedGpu()
  const warnings: string[] = []
  const runtime: Runtime = {
    ...gpu.runtime,
    async openSession(options) {
      if (options.capture) throw new OrtError('CreateSession', 1, 'not all nodes are on CUDA')
      return model.runtime.openSession(options)
    },
  }
  const log = { info: () => {}, warn: (message: string) => warnings.push(message) }
  const engine = await model.open({ runtime, slots: 2, log })
  t.match(warnings, [/without CUDA graphs.*not all nodes are on CUDA/])
  t.equal((await generate(engine, requests[0]!)).outputTokens, 30)
  t.equal(gpu.runs.size, 0)
})
