import t from 'tap'
import { KVCache } from '../../model/engine/kv-cache.js'
import type { GenerateRequest } from '../../model/engine/request.js'
import { Runner } from '../../model/engine/runner.js'
import { Sampler } from '../../model/engine/sampler.js'
import { type GemmaShape, TINY } from '../export/random-checkpoint.js'
import { collect, generate, tinyModel } from './tiny.js'

const requests: GenerateRequest[] = [
  { prompt: 'Hello', maxNewTokens: 30, temperature: 0 },
  { prompt: 'the man in the moon went on', maxNewTokens: 25, temperature: 0.7, topK: 50, topP: 0.95, seed: 1 },
  { prompt: 'a', maxNewTokens: 40, temperature: 1, seed: 2 },
  { prompt: 'the '.repeat(30), maxNewTokens: 20, temperature: 0.7, topP: 0.9, repetitionPenalty: 1.3, seed: 3 },
  { prompt: 'over and over and over', maxNewTokens: 30, temperature: 0, repetitionPenalty: 1.2 },
  { prompt: 'x'.repeat(100), maxNewTokens: 12, temperature: 5, seed: 4, minNewTokens: 12 },
  { prompt: 'Hello', maxNewTokens: 30, temperature: 0.7, topK: 5, seed: 5 },
  { prompt: '', raw: true, maxNewTokens: 15, temperature: 1, topK: 100, seed: 6 },
  { prompt: 'mode and user', maxNewTokens: 1, temperature: 1, seed: 7 },
  { prompt: 'the user', maxNewTokens: 35, temperature: 1.5, topP: 0.99, seed: 8 },
]

/** Blocks of 128, for which products of an odd number of rows take two kernels, and heads for which chunks may change sums. */
const LARGE: GemmaShape = { ...TINY, hiddenSize: 256, intermediateSize: 384, heads: 2, headSize: 256 }

const small = { shape: { ...TINY, kvHeads: 2 }, aloneSlots: 1, chunks: [256, 8, 3, 16] }
// A lone slot's steps are of one row, those of several slots of an even number: so the same server answers the same.
const large = { shape: LARGE, aloneSlots: 2, chunks: [64, 16, 32, 16] }

for (const { format, shape, aloneSlots, chunks } of [
  { format: { dtype: 'q4' }, ...small },
  { format: { dtype: 'f32' }, ...small },
  { format: { dtype: 'q4', blockSize: 128 }, ...large },
  { format: { dtype: 'q8', blockSize: 128 }, ...large },
] as const) {
  t.test(`${JSON.stringify(format)}: an answer is the same to the last token`, async (t) => {
    const model = await tinyModel(t, { format, checkpoint: { shape } })
    const oracle = await model.open({ slots: aloneSlots })
    const alone: string[][] = []
    for (const request of requests) alone.push([...(await generate(oracle, request)).pieces])

    // A prompt and a single token go through different attention kernels. What that changes in the last bit stays there in
    // f32; 4-bit products round their inputs to 8 bits, which makes it large enough to turn a draw now and then.
    if (format.dtype === 'f32')
      await t.test('computed anew from the whole sequence for each token', async (t) => {
        const size = { slots: 1, slotTokens: 256 }
        const cache = await KVCache.create(model.runtime, { config: model.folder.config, type: 'f32', ...size })
        const options = { runtime: model.runtime, folder: model.folder, cache, chunkTokens: 256, ...size }
        const runner = await Runner.open(options)
        for (const [index, request] of requests.entries()) {
          const prepared = await oracle.prepare(request)
          const sampler = new Sampler(
            prepared.sampling,
            { endTokenIds: model.folder.endTokenIds, vocabSize: 512 },
            prepared.promptIds,
          )
          const ids = [...prepared.promptIds]
          for (let count = 0; count < prepared.maxNewTokens; count++) {
            // 512 candidates are all of this vocabulary.
            const row = { ...sampler.row(), candidates: 512 }
            const [candidates] = await runner.run(
              [{ first: 0, ids: [ids], lengths: [0], wanted: [ids.length - 1] }],
              [row],
            )
            const id = sampler.choose(candidates!)!
            sampler.accept(id)
            ids.push(id)
            if (model.folder.endTokenIds.includes(id)) break
          }
          const generated = ids.slice(prepared.promptIds.length)
          const pieces = await model.piecesOf(generated)
          t.same(alone[index], pieces, JSON.stringify(request.prompt))
        }
        await runner[Symbol.asyncDispose]()
        await cache[Symbol.asyncDispose]()
      })

    await t.test(
      'whoever is served beside it, in any slot, read in any chunks, with idle rows between or not',
      async (t) => {
        for (const [index, slots] of [4, 4, 3, 8].entries()) {
          const chunkTokens = chunks[index]!
          const engine = await model.open({ slots, chunkTokens })
          const order = shuffled(requests.length, slots * 31 + chunkTokens)
          // Each begins after one more piece of all those before it, so that they come and go at different times.
          let pieces = 0
          const waiting: { at: number; go: () => void }[] = []
          const arrived = (at: number) => new Promise<void>((go) => waiting.push({ at, go }))
          const answers = order.map(async (which, place) => {
            const prepared = await engine.prepare(requests[which]!)
            if (place > 2) await arrived(place * 4)
            const events = engine.generate(prepared)
            const counted = (async function* () {
              for await (const event of events) {
                if (event.type === 'text') pieces++
                while (waiting[0] !== undefined && waiting[0].at <= pieces) waiting.shift()!.go()
                yield event
              }
            })()
            return { which, pieces: (await collect(counted)).pieces }
          })
          for (const { which, pieces } of await Promise.all(answers)) {
            t.same(pieces, alone[which], `request ${which}, ${slots} slots, chunks of ${chunkTokens}`)
          }
        }
      },
    )
  })
}

/** 0 … count − 1 in an order that `seed` decides. */
function shuffled(count: number, seed: number): number[] {
  let state = seed
  const keys = Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state
  })
  return [...keys.keys()].sort((a, b) => keys[a]! - keys[b]!)
}
