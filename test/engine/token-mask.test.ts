import t from 'tap'
import { uniform } from '../../model/engine/random.js'
import type { GenerateRequest } from '../../model/engine/request.js'
import { chooseToken } from '../../model/engine/sampler.js'
import type { TokenMask } from '../../model/engine/token-mask.js'
import { NaiveModel } from '../numerics/naive-model.js'
import { candidatesOf } from './rows.js'
import { generate, tinyModel } from './tiny.js'

const V = 512
const model = await tinyModel(t)
const oracle = await NaiveModel.open(model.runtime, model.folder)
t.teardown(() => oracle[Symbol.asyncDispose]())
const warnings: string[] = []
const engine = await model.open({ log: { info: () => {}, warn: (line) => warnings.push(line) } })
const [endId] = model.folder.endTokenIds as [number]

/** Ids of an answer, with nothing but a whole softmax, masked, on each step's logits. */
async function naive(request: GenerateRequest & { tokenMask: TokenMask }): Promise<number[]> {
  const { promptIds, sampling, maxNewTokens } = await engine.prepare(request)
  oracle.reset()
  let logits = (await oracle.append(promptIds)).at(-1)!
  const ids: number[] = []
  while (ids.length < maxNewTokens) {
    const allowed = request.tokenMask(ids)
    const left = logits.slice()
    if (allowed !== undefined && !(allowed instanceof Uint32Array)) {
      const set = new Set(allowed)
      for (const id of left.keys()) if (!set.has(id)) left[id] = Number.NEGATIVE_INFINITY
    }
    const temperature = sampling.temperature || 1
    const candidates = candidatesOf(left, { edits: new Map(), penalty: 1, temperature }, V)
    const id = chooseToken(candidates, sampling, uniform(sampling.seed, ids.length))!
    ids.push(id)
    if (model.folder.endTokenIds.includes(id)) break
    logits = (await oracle.append([id]))[0]!
  }
  return ids
}

/** The ids that a step would choose last. */
async function leastLikely(prompt: string, count: number): Promise<number[]> {
  const { promptIds } = await engine.prepare({ prompt, maxNewTokens: 1 })
  oracle.reset()
  const logits = (await oracle.append(promptIds)).at(-1)!
  const isText = (id: number) => id > 10
  return [...logits.keys()]
    .filter(isText)
    .sort((a, b) => logits[a]! - logits[b]!)
    .slice(0, count)
}

t.test('a draw is exact among the allowed, also where none of them is among the best', async (t) => {
  const rare = await leastLikely('Hello', 9)
  const some = Array.from({ length: 200 }, (_, index) => 12 + ((index * 5) % 500))
  const masks: [string, TokenMask][] = [
    ['the nine least likely', () => rare],
    ['two hundred', () => some],
    ['other ones for each token', (answer) => some.slice((answer.at(-1) ?? 0) % 150).slice(0, 20)],
    ['all now and then', (answer) => (answer.length % 2 === 0 ? rare : undefined)],
  ]
  for (const [name, tokenMask] of masks) {
    for (const parameters of [
      { temperature: 0 },
      { temperature: 0.7, topK: 50, topP: 0.95, seed: 1 },
      { temperature: 1, seed: 2 },
      { temperature: 3, topK: 4, seed: 3 },
      { temperature: 1, topP: 0.5, seed: 4 },
    ]) {
      const request = { prompt: 'Hello', maxNewTokens: 10, ...parameters, tokenMask }
      const { pieces } = await generate(engine, request)
      t.same(pieces, await model.piecesOf(await naive(request)), `${name}, ${JSON.stringify(parameters)}`)
    }
  }
})

t.test('a bitmask is the same as the ids in it', async (t) => {
  const ids = [11, 31, 32, 63, 64, 300, 511]
  const bits = new Uint32Array(V / 32)
  for (const id of ids) bits[id >> 5]! |= 1 << (id & 31)
  const request = { prompt: 'Hello', maxNewTokens: 20, temperature: 5, seed: 3 }
  const byIds = await generate(engine, { ...request, tokenMask: () => new Set(ids) })
  const byBits = await generate(engine, { ...request, tokenMask: () => bits })
  t.same(byBits.pieces, byIds.pieces)
  t.not(byIds.text, (await generate(engine, request)).text)
})

t.test('a mask writes an answer token by token, and ends it', async (t) => {
  const wanted = [40, 41, 42, endId]
  const seen: number[][] = []
  const answer = await generate(engine, {
    prompt: 'Hello',
    maxNewTokens: 20,
    temperature: 1,
    tokenMask: (answer) => {
      seen.push([...answer])
      return [wanted[answer.length]!]
    },
  })
  t.equal(answer.endedBy, 'end-token')
  t.same(answer.pieces, await model.piecesOf(wanted))
  t.same(seen, [[], [40], [40, 41], [40, 41, 42]], 'once for each token, with the answer so far')
})

t.test('a mask that cannot be followed ends its own request alone, and is no fault of the engine', async (t) => {
  const text = { prompt: 'Hello', maxNewTokens: 10, temperature: 0 }
  const { text: whole } = await generate(engine, text)
  const cases: [GenerateRequest, RegExp][] = [
    [{ ...text, tokenMask: () => [] }, /it allows no token that may come/],
    [{ ...text, tokenMask: () => new Uint32Array(V / 32) }, /it allows no token that may come/],
    [{ ...text, minNewTokens: 2, tokenMask: () => [endId] }, /it allows no token that may come/],
    [{ ...text, tokenMask: () => [V] }, /it allows the id 512, but ids are whole numbers from 0 to 511/],
    [{ ...text, tokenMask: () => [1.5] }, /it allows the id 1\.5/],
    [{ ...text, tokenMask: () => new Uint32Array(3) }, /it has 3 words, but the vocabulary of 512 takes 16/],
    [
      {
        ...text,
        tokenMask: (answer) => {
          if (answer.length > 2) throw new Error('no such grammar')
          return undefined
        },
      },
      /it threw Error: no such grammar/,
    ],
  ]
  for (const [request, message] of cases) {
    const beside = [generate(engine, text), generate(engine, { ...text, tokenMask: () => undefined })]
    await t.rejects(generate(engine, request), { code: 'TOKEN_MASK', message })
    for (const answer of await Promise.all(beside)) t.equal(answer.text, whole)
  }
  t.equal((await generate(engine, { ...text, minNewTokens: 0, tokenMask: () => [endId] })).endedBy, 'end-token')
  t.same(warnings, [])
})
