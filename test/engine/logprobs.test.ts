import t from 'tap'
import type { Engine } from '../../model/engine/engine.js'
import type { GenerateRequest, TokenLogprobs } from '../../model/engine/request.js'
import { NaiveModel } from '../numerics/naive-model.js'
import { tinyModel } from './tiny.js'

const model = await tinyModel(t)
const oracle = await NaiveModel.open(model.runtime, model.folder)
t.teardown(() => oracle[Symbol.asyncDispose]())
const engine = await model.open()

interface Told {
  readonly text: string
  readonly endedBy: string
  readonly tokens: readonly TokenLogprobs[]
}

async function told(engine: Engine, request: GenerateRequest): Promise<Told> {
  const tokens: TokenLogprobs[] = []
  let text = ''
  for await (const event of engine.generate(await engine.prepare(request))) {
    if (event.type === 'text') {
      text += event.text
      if (request.logprobs !== undefined) t.equal(event.logprobs?.length, event.tokens)
    }
    tokens.push(...(event.logprobs ?? []))
    if (event.type === 'end') return { text, endedBy: event.endedBy, tokens }
  }
  throw new Error('no end')
}

/** log softmax over the whole vocabulary, in doubles. */
function logSoftmax(logits: Float32Array): number[] {
  const best = logits.reduce((a, b) => Math.max(a, b))
  const mass = logits.reduce((sum, logit) => sum + Math.exp(logit - best), 0)
  return Array.from(logits, (logit) => logit - best - Math.log(mass))
}

/** The model's own distribution before each of an answer's tokens, one sequence alone, without the engine. */
async function distributions(promptIds: readonly number[], ids: readonly number[]): Promise<number[][]> {
  oracle.reset()
  const all = [logSoftmax((await oracle.append(promptIds)).at(-1)!)]
  for (const id of ids.slice(0, -1)) all.push(logSoftmax((await oracle.append([id]))[0]!))
  return all
}

const requests: GenerateRequest[] = [
  { prompt: 'Hello', maxNewTokens: 12, temperature: 0, logprobs: 20 },
  { prompt: 'the man in the moon', maxNewTokens: 10, temperature: 0.7, topK: 5, topP: 0.8, seed: 1, logprobs: 5 },
  { prompt: 'over', maxNewTokens: 12, temperature: 5, repetitionPenalty: 3, minNewTokens: 12, seed: 2, logprobs: 0 },
  { prompt: 'a', maxNewTokens: 8, temperature: 1, seed: 3, logprobs: 3, tokenMask: () => [11, 12, 13, 500] },
]

t.test("each token's and the likeliest ones' are those of a full softmax over the model's own logits", async (t) => {
  for (const request of requests) {
    const { tokens } = await told(engine, request)
    t.ok(tokens.length > 0)
    const { promptIds } = await engine.prepare(request)
    const all = await distributions(
      promptIds,
      tokens.map(({ id }) => id),
    )
    for (const [index, { id, logprob, alternatives }] of tokens.entries()) {
      const wanted = all[index]!
      const about = `${request.prompt}, token ${index}`
      t.ok(Math.abs(logprob - wanted[id]!) < 1e-5, `${about}: ${logprob}, not ${wanted[id]}`)
      const best = [...wanted.keys()].sort((a, b) => wanted[b]! - wanted[a]! || a - b).slice(0, request.logprobs)
      t.same(
        alternatives.map(({ id }) => id),
        best,
        about,
      )
      for (const one of alternatives) t.ok(Math.abs(one.logprob - wanted[one.id]!) < 1e-5, about)
    }
  }
})

t.test('every token is told once, with its text, also where its text came later or never', async (t) => {
  const whole = await told(engine, requests[0]!)
  t.equal(whole.tokens.length, 12)
  t.equal(Buffer.concat(whole.tokens.map(({ bytes }) => bytes)).toString(), whole.text)
  t.equal(whole.tokens.map(({ text }) => text).join(''), whole.text)

  const stop = whole.tokens[3]!.text + whole.tokens[4]!.text
  const stopped = await told(engine, { ...requests[0]!, stop: [stop] })
  t.equal(stopped.endedBy, 'stop-string')
  t.same(stopped.tokens, whole.tokens.slice(0, stopped.tokens.length), 'those of the stop string too')
  t.ok(stopped.tokens.length >= 5)

  const ending = await model.open({ folder: { ...model.folder, endTokenIds: [whole.tokens[2]!.id] } })
  const ended = await told(ending, requests[0]!)
  t.same([ended.endedBy, ended.tokens.length], ['end-token', 3])
  const { logprobs: _none, ...without } = requests[0]!
  const none = await told(engine, without)
  t.same([none.text, none.tokens], [whole.text, []])
})

t.test('rows with and without them, and with and without masks, do not disturb one another', async (t) => {
  const plain = requests.map(({ logprobs, ...request }) => request)
  const all = [...requests, ...plain]
  const alone: Told[] = []
  for (const request of all) alone.push(await told(engine, request))
  for (const order of [all.keys(), [7, 0, 6, 1, 5, 2, 4, 3], [3, 3, 4, 4, 0, 0, 5, 2]]) {
    const wide = await model.open({ slots: 8 })
    const which = [...order]
    const together = await Promise.all(which.map((index) => told(wide, all[index]!)))
    for (const [place, found] of together.entries()) t.same(found, alone[which[place]!], `request ${which[place]}`)
  }
})

t.test('a number of alternatives that is none is refused', async (t) => {
  for (const logprobs of [-1, 21, 1.5, Number.NaN]) {
    await t.rejects(engine.prepare({ prompt: 'a', maxNewTokens: 1, logprobs }), {
      code: 'INVALID_REQUEST',
      field: 'logprobs',
      message: `logprobs is ${logprobs}; it must be an integer from 0 to 20.`,
    })
  }
})
