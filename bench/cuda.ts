/**
 * Decode steps as captured CUDA graphs beside the same steps launched one by one, in turn, and whether both give the same text.
 *
 *   npm run bench:cuda -- <folder of an export for cuda> [rounds]
 *
 * Prints one JSON object and a table.
 */
import { Engine } from '../model/engine/engine.js'
import type { EndEvent } from '../model/engine/request.js'
import { openModelFolder } from '../model/folder.js'
import { openRuntime } from '../model/runtime/runtime.js'
import type { Runtime } from '../model/runtime/types.js'
import { median, table } from './report.js'

const SLOTS = 8
const CONTEXT_LENGTH = 2048
const NEW_TOKENS = 128
const SEQUENCES = [1, 2, 4, 8] as const

interface Round {
  /** Tokens a second of all sequences together, by how many there are. */
  readonly decode: readonly number[]
  /** Tokens a second. */
  readonly prefill512: number
  readonly texts: readonly string[]
}

const [path, rounds = '3'] = process.argv.slice(2)
if (path === undefined) throw new Error('Say which export for cuda to measure: npm run bench:cuda -- <folder> [rounds]')
const folder = await openModelFolder(path)
await using runtime = await openRuntime({ device: 'cuda' })

const warnings: string[] = []
const log = { info: () => {}, warn: (message: string) => warnings.push(message) }
const captured: Round[] = []
const launched: Round[] = []
for (let round = 0; round < Number(rounds); round++) {
  captured.push(await measure(runtime))
  launched.push(await measure(withoutGraphs(runtime)))
}

const middle = (results: readonly Round[], pick: (round: Round) => number) => median(results.map(pick))
const rows = [
  ...SEQUENCES.map((count, index) => [`decode, ${count}`, (round: Round) => round.decode[index]!] as const),
  ['prefill 512', (round: Round) => round.prefill512] as const,
]
const sameText = captured.every(({ texts }) => texts.join('\n') === launched[0]!.texts.join('\n'))
console.log(JSON.stringify({ date: new Date().toISOString(), model: path, captured, launched, warnings, sameText }))
console.log(
  table([
    ['tokens a second', 'captured', 'launched', 'ratio'],
    ...rows.map(([name, pick]) => {
      const [ours, theirs] = [middle(captured, pick), middle(launched, pick)]
      return [name, ours.toFixed(1), theirs.toFixed(1), (ours / theirs).toFixed(2)]
    }),
  ]),
)
for (const warning of new Set(warnings)) console.log(warning)
console.log(sameText ? 'both give the same text' : 'THE TEXTS DIFFER')
if (!sameText) process.exitCode = 1

async function measure(runtime: Runtime): Promise<Round> {
  await using engine = await Engine.open({ folder, runtime, slots: SLOTS, contextLength: CONTEXT_LENGTH, log })
  const texts: string[] = []
  const run = async (prompt: string, newTokens: number): Promise<EndEvent> => {
    const limits = { maxNewTokens: newTokens, minNewTokens: newTokens, temperature: 0 }
    let text = ''
    for await (const event of engine.generate(await engine.prepare({ prompt, raw: true, ...limits }))) {
      if (event.type === 'text') text += event.text
      else {
        texts.push(text)
        return event
      }
    }
    throw new Error('no end event')
  }
  await run('Hello', 8)
  const decode: number[] = []
  for (const count of SEQUENCES) {
    const prompts = Array.from({ length: count }, (_, index) => `${index} and so on`)
    const ends = await Promise.all(prompts.map((prompt) => run(prompt, NEW_TOKENS)))
    decode.push(ends.reduce((sum, { outputTokens, decodeMs }) => sum + ((outputTokens - 1) / decodeMs) * 1000, 0))
  }
  const { promptTokens, prefillMs } = await run(' a'.repeat(511), 1)
  return { decode, prefill512: (promptTokens / prefillMs) * 1000, texts: texts.sort() }
}

/** The same bindings, each of whose kernels is launched by the CPU. */
function withoutGraphs(runtime: Runtime): Runtime {
  return {
    device: runtime.device,
    version: runtime.version,
    threads: runtime.threads,
    openSession: (options) => runtime.openSession({ ...options, capture: false }),
    createTensor: (options) => runtime.createTensor(options),
    createBinding: (session) => runtime.createBinding(session),
    run: (bindings, signal) => runtime.run(bindings, signal),
    [Symbol.asyncDispose]: () => runtime[Symbol.asyncDispose](),
  }
}
