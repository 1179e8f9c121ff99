import t from 'tap'
import type { Engine } from '../../model/engine/engine.js'
import { KVCache } from '../../model/engine/kv-cache.js'
import type { GenerateRequest } from '../../model/engine/request.js'
import { Runner } from '../../model/engine/runner.js'
import type { ExportFormat } from '../../model/export/format.js'
import { type GemmaShape, TINY } from '../export/random-checkpoint.js'
import { type Answer, generate, type TinyModel, tinyModel } from './tiny.js'
import { wrapRuntime } from './wrapped-runtime.js'

/** Heads and blocks as large as Gemma-2B's: kernels that cut their sums into parts do so here too. */
const LARGE_HEADS: GemmaShape = { ...TINY, hiddenSize: 256, intermediateSize: 384, heads: 2, headSize: 256 }
const formats: { format: Partial<ExportFormat>; shape: GemmaShape }[] = [
  { format: { dtype: 'q4', blockSize: 128 }, shape: LARGE_HEADS },
  { format: { dtype: 'q8', blockSize: 128 }, shape: LARGE_HEADS },
  { format: { dtype: 'q4', blockSize: 32 }, shape: { ...TINY, kvHeads: 2 } },
  { format: { dtype: 'f32' }, shape: { ...TINY, kvHeads: 2 } },
]

const long = 'the man in the moon went on and on, over the mode and the user '
const sampling = { maxNewTokens: 10, temperature: 1, topK: 0 }

/** What is reused is a multiple of 16. */
const whole = (tokens: number) => tokens - (tokens % 16)

/** Begins otherwise than any chat, so that a lone slot keeps nothing of one behind it. */
async function forget(engine: Engine): Promise<void> {
  await generate(engine, { prompt: 'x'.repeat(40), raw: true, maxNewTokens: 1, temperature: 0 })
}

/** The turns of a chat whose answers are what the model said, as its next prompts hold them. */
async function chat(engine: Engine, { user, seed, before }: { user: string; seed: number; before?: typeof forget }) {
  const messages: NonNullable<GenerateRequest['messages']>[number][] = []
  const answers: Answer[] = []
  let last: GenerateRequest = { messages, ...sampling }
  for (const [index, content] of [user, 'and then', 'the end'].entries()) {
    messages.push({ role: 'user', content })
    await before?.(engine)
    last = { messages: [...messages], seed: seed + index, ...sampling }
    const answer = await generate(engine, last)
    answers.push(answer)
    messages.push({ role: 'assistant', content: answer.text })
  }
  return { answers, last }
}

for (const { format, shape } of formats) {
  t.test(`${format.dtype} in blocks of ${format.blockSize ?? 'none'}`, async (t) => {
    const model = await tinyModel(t, { format, checkpoint: { shape } })

    await t.test('what is read of a prompt has the same bits wherever it is cut at multiples of 16', async (t) => {
      const usual = await keysAndValues(model, cut(201, 64))
      for (const size of [16, 32]) t.ok((await keysAndValues(model, cut(201, size))).equals(usual), `chunks of ${size}`)
      t.ok((await keysAndValues(model, [0, 48, 64, 112, 128, 160, 176, 192, 201])).equals(usual), 'uneven chunks')
    })

    await t.test(
      'an answer is the same whether its prompt was read now, kept in a slot, or copied from one',
      async (t) => {
        const lone = await model.open({ slots: 1 })
        const { answers: fresh } = await chat(lone, { user: long, seed: 1, before: forget })
        t.same(
          fresh.map(({ cachedTokens }) => cachedTokens),
          [0, 0, 0],
        )
        const engine = await model.open({ slots: 3 })
        const { answers, last } = await chat(engine, { user: long, seed: 1 })
        const [first, second, third] = answers
        t.same(
          [first!.pieces, second!.pieces, third!.pieces],
          fresh.map(({ pieces }) => pieces),
        )
        t.equal(first!.cachedTokens, 0)
        for (const [turn, before] of [
          [second!, first!],
          [third!, second!],
        ] as const) {
          t.equal(turn.cachedTokens, whole(before.promptTokens), 'all of the last prompt')
        }
        // Another chat that begins alike: into a slot of its own, so that the first one's goes on as well.
        await forget(lone)
        const other: GenerateRequest = { prompt: `${long}and so on`, seed: 9, ...sampling }
        const expected = await generate(lone, other)
        const copied = await generate(engine, other)
        t.same(copied.pieces, expected.pieces)
        t.ok(copied.cachedTokens > 0)
        const again = await generate(engine, last)
        t.same([again.pieces, again.cachedTokens], [third!.pieces, whole(third!.promptTokens - 1)])
      },
    )
  })
}

t.test(
  'who comes at once with the same prompt reads it once, and each gets the answer that it gets alone',
  async (t) => {
    const model = await tinyModel(t)
    const lone = await model.open({ slots: 1 })
    const requests = [1, 2, 3, 4, 5, 6].map((seed) => ({ prompt: long.repeat(2), seed, ...sampling }))
    const alone: (readonly string[])[] = []
    for (const request of requests) {
      await forget(lone)
      alone.push((await generate(lone, request)).pieces)
    }
    for (const slots of [2, 6]) {
      const engine = await model.open({ slots })
      const answers = await Promise.all(requests.map((request) => generate(engine, request)))
      t.same(
        answers.map(({ pieces }) => pieces),
        alone,
      )
      const { promptTokens } = answers[0]!
      const most = whole(promptTokens - 1)
      t.same(
        answers.map(({ cachedTokens }) => cachedTokens).sort(),
        [0, ...Array(5).fill(most)].sort(),
        `${slots} slots`,
      )
    }
  },
)

t.test('who leaves while its prompt is read leaves what was read, and not what was not', async (t) => {
  const model = await tinyModel(t)
  let runs = 0
  let leave: AbortController | undefined
  const runtime = wrapRuntime(model.runtime, (run) => async (bindings, signal) => {
    // It leaves while its third chunk is read: that run ends before its time.
    if (leave !== undefined && ++runs === 3) leave.abort()
    await run(bindings, signal)
  })
  const engine = await model.open({ runtime, slots: 2, chunkTokens: 16 })
  const request = { prompt: long.repeat(2), seed: 3, ...sampling }
  leave = new AbortController()
  const left = await generate(engine, request, leave.signal)
  t.same([left.endedBy, left.outputTokens], ['canceled', 0])
  leave = undefined
  const answer = await generate(engine, request)
  t.equal(answer.cachedTokens, 32)
  t.same(answer.pieces, (await generate(await model.open({ slots: 1 }), request)).pieces)
})

/** Chunks of `size` that begin at its multiples, as places where they begin and end. */
function cut(tokens: number, size: number): number[] {
  const places = Array.from({ length: Math.ceil(tokens / size) }, (_, index) => index * size)
  return [...places, tokens]
}

/** Reads a prompt in given chunks, and returns the bytes of all keys and values. */
async function keysAndValues(model: TinyModel, places: readonly number[]): Promise<Buffer> {
  const { runtime, folder } = model
  const { kvHeads, headSize, vocabSize } = folder.config
  const size = { slots: 1, slotTokens: 256 }
  const cache = await KVCache.create(runtime, { config: folder.config, type: 'f32', ...size })
  const runner = await Runner.open({ runtime, folder, cache, chunkTokens: 64, ...size })
  const ids = Array.from({ length: places.at(-1)! }, (_, place) => (place * 37 + 11) % vocabSize)
  for (const [index, start] of places.slice(0, -1).entries()) {
    const chunk = ids.slice(start, places[index + 1])
    await runner.run([{ first: 0, ids: [chunk], lengths: [start], wanted: [] }], [])
  }
  const parts: Buffer[] = []
  for (const tensor of (await cache.window(0, 1)).values()) {
    for (let head = 0; head < kvHeads; head++) {
      const start = head * size.slotTokens * headSize * 4
      parts.push(Buffer.from(tensor.bytes.slice(start, start + ids.length * headSize * 4)))
    }
  }
  await runner[Symbol.asyncDispose]()
  await cache[Symbol.asyncDispose]()
  return Buffer.concat(parts)
}
