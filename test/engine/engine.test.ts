import t from 'tap'
import type { Engine } from '../../model/engine/engine.js'
import type { GenerateRequest, PreparedRequest } from '../../model/engine/request.js'
import { RuntimeStoppedError } from '../../model/errors.js'
import { type Answer, collect, generate, legibleTokenizer, tinyModel } from './tiny.js'
import { Gate, wrapRuntime } from './wrapped-runtime.js'

const model = await tinyModel(t)
const engine = await model.open()
const greedy = { maxNewTokens: 12, temperature: 0 }
const legible = legibleTokenizer()

/** An engine whose runs wait until the test lets them pass. */
async function gatedEngine(options: { slots?: number; chunkTokens?: number } = {}) {
  const gate = new Gate()
  const engine = await model.open({ runtime: wrapRuntime(model.runtime, gate.around), ...options })
  gate.runs = 0
  return { gate, engine }
}

/** Starts a request at once, and says how it ended. */
async function start(
  engine: Engine,
  request: GenerateRequest,
  signal?: AbortSignal,
): Promise<{ answer: Promise<Answer> }> {
  const prepared = await engine.prepare(request)
  return { answer: collect(engine.generate(prepared, signal ? { signal } : {})) }
}

t.test('says what it is', async (t) => {
  t.same(engine.describe(), {
    model: model.folder.path,
    dtype: 'q4',
    device: 'cpu',
    threads: 2,
    contextLength: 256,
    slots: 4,
    chunkTokens: engine.describe().chunkTokens,
    weightBytes: model.folder.weightBytes,
    cacheBytes: 4 * 256 * (2 * 2 * 32 * 4),
    runBytes: engine.describe().runBytes,
    memory: engine.describe().memory,
  })
})

t.test('an answer is pieces of text, then what it took', async (t) => {
  let time = 0
  const timed = await model.open({ now: () => time++ })
  const prepared = await timed.prepare({ prompt: 'Hello', ...greedy, seed: 7 })
  const { text, pieces, ...end } = await collect(timed.generate(prepared))
  t.equal(pieces.length, 12)
  t.equal(pieces.join(''), text)
  t.same(end, {
    type: 'end',
    finishReason: 'length',
    endedBy: 'max-new-tokens',
    seed: 7,
    promptTokens: prepared.promptIds.length,
    cachedTokens: 0,
    outputTokens: 12,
    queueMs: 1,
    prefillMs: 3,
    decodeMs: 11,
    timeToFirstTokenMs: 4,
    totalMs: 16,
  })
  t.equal(prepared.promptIds[0], model.folder.config.bosTokenId)
})

t.test('the end is told: end token, stop string, limit, full slot', async (t) => {
  const whole = await generate(engine, { prompt: 'Hello', ...greedy })
  t.same([whole.endedBy, whole.finishReason], ['max-new-tokens', 'length'])

  const stop = whole.pieces[3]!.slice(1) + whole.pieces[4]!.slice(0, 2)
  const stopped = await generate(engine, { prompt: 'Hello', ...greedy, stop: ['never', stop] })
  t.same([stopped.endedBy, stopped.finishReason, stopped.outputTokens], ['stop-string', 'stop', 5])
  t.equal(stopped.text, whole.text.slice(0, whole.text.indexOf(stop)))
  const held = await generate(engine, { prompt: 'Hello', ...greedy, stop: [`${whole.text.slice(-3)}x`] })
  t.equal(held.text, whole.text, 'what was held back for a stop string that did not come is given out')

  // The third token becomes an end token, and then is put off by minNewTokens.
  const id = [...Array(512).keys()].find((id) => pieceOf(id) === whole.pieces[2])!
  const ending = await model.open({ folder: { ...model.folder, endTokenIds: [1, id] } })
  const ended = await generate(ending, { prompt: 'Hello', ...greedy })
  t.same([ended.endedBy, ended.finishReason, ended.outputTokens], ['end-token', 'stop', 3])
  t.equal(ended.text, whole.pieces.slice(0, 2).join(''), 'an end token is no text')
  const putOff = await generate(ending, { prompt: 'Hello', ...greedy, minNewTokens: 3 })
  t.same(putOff.pieces.slice(0, 2), whole.pieces.slice(0, 2))
  t.not(putOff.pieces[2], whole.pieces[2])
  t.ok(putOff.outputTokens > 3)

  const small = await model.open({ contextLength: 32, slots: 1 })
  const full = await generate(small, { prompt: 'Hello', temperature: 0, maxNewTokens: 1000 })
  t.same([full.endedBy, full.finishReason], ['slot-full', 'length'])
  t.equal(full.promptTokens + full.outputTokens, 32)
  const exact = await generate(small, { prompt: 'Hello', temperature: 0, maxNewTokens: full.outputTokens })
  t.same([exact.endedBy, exact.text], ['max-new-tokens', full.text], 'a limit that just fits is the limit')
})

t.test('the same seed gives the same answer; one that was drawn is told and does so too', async (t) => {
  const request = { prompt: 'Hello', maxNewTokens: 20, temperature: 1, topK: 50, topP: 0.95 }
  const drawn = await generate(engine, request)
  t.ok(Number.isSafeInteger(drawn.seed))
  t.equal((await generate(engine, { ...request, seed: drawn.seed })).text, drawn.text)
  t.not((await generate(engine, { ...request, seed: drawn.seed + 1 })).text, drawn.text)
  const again = await generate(engine, request)
  t.not(again.seed, drawn.seed)
})

t.test('a request that cannot be served is refused by field', async (t) => {
  const cases: [Partial<GenerateRequest>, field: string, message: RegExp][] = [
    [{ maxNewTokens: 0 }, 'maxNewTokens', /maxNewTokens is 0; it must be an integer from 1/],
    [{ minNewTokens: -1 }, 'minNewTokens', /from 0/],
    [{ temperature: Number.NaN }, 'temperature', /temperature is NaN/],
    [{ temperature: -0.1 }, 'temperature', /0 or more/],
    [{ topP: 1.5 }, 'topP', /from 0 to 1/],
    [{ topK: 1.5 }, 'topK', /an integer/],
    [{ repetitionPenalty: 0 }, 'repetitionPenalty', /greater than 0/],
    [{ seed: 2 ** 53 }, 'seed', /9007199254740992/],
    [{ stop: ['a', ''] }, 'stop', /empty/],
    [{ prompt: 'a\ud800' }, 'prompt', /lone surrogate/],
    [{ systemPrompt: '\udfff' }, 'systemPrompt', /lone surrogate/],
    [{ messages: [{ role: 'user', content: 'a' }] }, 'prompt', /Either prompt or messages/],
    [{ raw: true, systemPrompt: 'Be kind.' }, 'systemPrompt', /raw takes a prompt only/],
  ]
  for (const [change, field, message] of cases) {
    await t.rejects(engine.prepare({ prompt: 'Hello', maxNewTokens: 1, ...change }), {
      code: 'INVALID_REQUEST',
      field,
      message,
    })
  }
  const messages = [
    { role: 'user', content: 'a' },
    { role: 'assistant', content: 'b\ud800' },
  ] as const
  await t.rejects(engine.prepare({ messages, maxNewTokens: 1 }), /messages\[1\]\.content holds a lone surrogate/)
  await t.rejects(
    engine.prepare({ messages: messages.slice(0, 1), raw: true, maxNewTokens: 1 }),
    /raw takes a prompt only: leave messages out/,
  )

  const fits = await engine.prepare({ prompt: 'a'.repeat(256 - 10), maxNewTokens: 9 })
  t.same([fits.promptIds.length, fits.maxNewTokens, fits.limitedBySlot], [255, 1, true])
  await t.rejects(engine.prepare({ prompt: 'a'.repeat(256 - 9), maxNewTokens: 9 }), {
    code: 'PROMPT_TOO_LONG',
    promptTokens: 256,
    slotTokens: 256,
  })
})

t.test('raw takes the prompt as it is, with one <bos>', async (t) => {
  const ids = async (prompt: string) => (await engine.prepare({ prompt, raw: true, maxNewTokens: 1 })).promptIds
  const [a] = (await ids('a')).slice(1)
  t.same(await ids('a'), [2, a])
  t.same(await ids('<bos>a'), [2, a])
  t.same(await ids('<bos><bos>a<bos>'), [2, a, 2])
  t.same(await ids(''), [2])
  t.same(await ids('<start_of_turn>a<end_of_turn>'), [2, 4, a, 5])
})

t.test('who leaves the queue never runs', async (t) => {
  const { gate, engine } = await gatedEngine({ slots: 1 })
  const first = await start(engine, { prompt: 'one', ...greedy })
  const left = new AbortController()
  const queued = await start(engine, { prompt: 'two', ...greedy }, left.signal)
  left.abort()
  const answer = await queued.answer
  t.same([answer.endedBy, answer.finishReason, answer.outputTokens, answer.text], ['canceled', 'canceled', 0, ''])
  t.equal(answer.timeToFirstTokenMs, undefined)
  t.equal((await first.answer).outputTokens, 12)
  t.equal(gate.runs, 12, 'the runs of the first alone')
  const aborted = await start(engine, { prompt: 'three', ...greedy }, AbortSignal.abort())
  t.equal((await aborted.answer).endedBy, 'canceled')
  t.equal(gate.runs, 12)
})

t.test('who leaves while the prompt is read ends that run; the slot is free for the next', async (t) => {
  const { gate, engine } = await gatedEngine({ slots: 1, chunkTokens: 8 })
  gate.close()
  const left = new AbortController()
  const arrived = gate.step()
  const { answer } = await start(engine, { prompt: 'a long prompt of several chunks', ...greedy }, left.signal)
  await arrived
  await gate.step()
  t.equal(gate.runs, 2)
  t.notOk(gate.signal!.aborted)
  left.abort()
  t.ok(gate.signal!.aborted, 'the run itself is told to end')
  gate.open()
  t.equal((await answer).endedBy, 'canceled')
  t.equal(gate.runs, 2, 'no further chunk was read')
  t.equal((await generate(engine, { prompt: 'next', ...greedy })).outputTokens, 12)
})

t.test('who leaves while a token is made for nobody else ends that run', async (t) => {
  const { gate, engine } = await gatedEngine({ slots: 2 })
  const left = new AbortController()
  const leaving = engine.generate(await engine.prepare({ prompt: 'leaving', ...greedy }), { signal: left.signal })
  await leaving.next()
  await leaving.next()
  gate.close()
  const rest = collect(leaving)
  await gate.step()
  left.abort()
  t.ok(gate.signal!.aborted)
  gate.open()
  t.equal((await rest).endedBy, 'canceled')
  t.equal((await generate(engine, { prompt: 'next', ...greedy })).outputTokens, 12)
})

t.test('who leaves while tokens are made drops out before the next step, and disturbs nobody', async (t) => {
  const { gate, engine } = await gatedEngine({ slots: 2 })
  const alone = await generate(engine, { prompt: 'neighbour', ...greedy })
  const left = new AbortController()
  const leaving = engine.generate(await engine.prepare({ prompt: 'leaving', ...greedy }), { signal: left.signal })
  const staying = await start(engine, { prompt: 'neighbour', ...greedy })
  await leaving.next()
  await leaving.next()
  gate.close()
  const next = leaving.next()
  await gate.step()
  left.abort()
  t.notOk(gate.signal!.aborted, 'the run goes on for the other')
  gate.open()
  const rest = [await next]
  for await (const event of leaving) rest.push({ value: event, done: false })
  t.equal(rest.filter(({ value }) => value?.type === 'end').length, 1)
  t.match(rest.at(-1)!.value, { type: 'end', endedBy: 'canceled' })
  t.equal((await staying.answer).text, alone.text)
})

t.test('who stops reading cancels, and the slot is free when that is through', async (t) => {
  const single = await model.open({ slots: 1 })
  for await (const event of single.generate(await single.prepare({ prompt: 'Hi', maxNewTokens: 200 }))) {
    t.equal(event.type, 'text')
    break
  }
  t.equal((await generate(single, { prompt: 'Hello', ...greedy })).queueMs < 1000, true)
})

t.test('200 aborted streams leave no slot taken', async (t) => {
  const random = lcg(5)
  const streams = Array.from({ length: 200 }, async () => {
    const left = new AbortController()
    const prompt = 'a'.repeat(1 + Math.floor(random() * 100))
    const prepared = await engine.prepare({ prompt, maxNewTokens: 100, minNewTokens: 100 })
    let untilLeaving = Math.floor(random() * 6)
    let last: string | undefined
    if (untilLeaving === 0) left.abort()
    for await (const event of engine.generate(prepared, { signal: left.signal })) {
      last = event.type === 'end' ? event.endedBy : event.type
      if (--untilLeaving === 0) left.abort()
    }
    return last
  })
  const ends = await Promise.all(streams)
  t.same(new Set(ends), new Set(['canceled']))
  const answers = await Promise.all([1, 2, 3, 4].map(() => generate(engine, { prompt: 'Hello', ...greedy })))
  t.ok(answers.every(({ outputTokens }) => outputTokens === 12))
})

t.test('a reader that is slow or gone holds up nobody', async (t) => {
  const stalled = engine.generate(await engine.prepare({ prompt: 'slow', ...greedy }))
  await stalled.next()
  const others = await Promise.all([1, 2, 3, 4, 5].map(() => generate(engine, { prompt: 'Hello', ...greedy })))
  t.ok(others.every(({ outputTokens }) => outputTokens === 12))
  const rest = await collect(stalled)
  t.equal(rest.outputTokens, 12, 'and nothing is lost for it')
})

t.test('while a stream runs, a long prompt is read in chunks as short as the pause that it may make', async (t) => {
  const readBeside = async (streamPauseMs: number) => {
    let [time, runs] = [0, 0]
    const slow = wrapRuntime(model.runtime, (run) => async (bindings, signal) => {
      await run(bindings, signal)
      time += 100
      runs++
    })
    const engine = await model.open({ runtime: slow, slots: 2, now: () => time, streamPauseMs })
    const other = await engine.prepare({ prompt: 'b'.repeat(120), raw: true, maxNewTokens: 1, temperature: 0 })
    const stream = engine.generate(await engine.prepare({ prompt: 'Hello', ...greedy, maxNewTokens: 60 }))
    await stream.next()
    runs = 0
    const [{ text }, { outputTokens }] = await Promise.all([collect(engine.generate(other)), collect(stream)])
    return { text, chunks: runs - (outputTokens - 1) }
  }
  const patient = await readBeside(1_000_000)
  t.equal(patient.chunks, 3, '16 tokens while nothing is known, then up to the next multiples of 64')
  const hurried = await readBeside(1)
  t.equal(hurried.chunks, 8)
  t.equal(hurried.text, patient.text)
})

t.test('an engine that is disposed ends its requests, and takes no more', async (t) => {
  const { gate, engine } = await gatedEngine({ slots: 1 })
  const running = engine.generate(await engine.prepare({ prompt: 'Hello', maxNewTokens: 200, minNewTokens: 200 }))
  await running.next()
  const prepared: PreparedRequest = await engine.prepare({ prompt: 'Hello', ...greedy })
  const queued = collect(engine.generate(prepared))
  const rest = collect(running)
  await engine[Symbol.asyncDispose]()
  await engine[Symbol.asyncDispose]()
  t.equal((await rest).endedBy, 'canceled')
  t.equal((await queued).endedBy, 'canceled')
  const { runs } = gate
  await t.rejects(collect(engine.generate(prepared)), RuntimeStoppedError)
  t.equal(gate.runs, runs)
})

t.test('fewer slots than wanted are made where memory is short, and the log says so', async (t) => {
  const lines: string[] = []
  const log = { info: () => {}, warn: (line: string) => lines.push(line) }
  const progress: number[] = []
  const { cacheBytes, weightBytes, runBytes } = engine.describe()
  const memory = { bytes: weightBytes + runBytes + cacheBytes / 2, boundBy: "the container's limit of 1 MB" }
  const smaller = await model.open({ slots: 4, memory, log, progress: ({ done }) => progress.push(done) })
  t.equal(smaller.slots, 2)
  t.match(smaller.describe(), { memory, cacheBytes: cacheBytes / 2 })
  t.match(lines, [/4 slots of 256 tokens.*left of the container's limit of 1 MB: 2 are made/])
  t.same(progress, [0, 1, 2, 3, 4])
})

t.test('a full machine is refused before anything is loaded', async (t) => {
  const runtime = {
    ...wrapRuntime(model.runtime, (run) => run),
    openSession: () => t.fail('a session was opened') as never,
  }
  const memory = { bytes: 1_000_000, boundBy: 'this machine' }
  await t.rejects(model.open({ runtime, memory }), {
    code: 'NOT_ENOUGH_MEMORY',
    message: /but 1 MB are left of this machine/,
  })
})

function pieceOf(id: number): string | undefined {
  const { vocab } = (legible.tokenizer as { model: { vocab: Record<string, number> } }).model
  return Object.keys(vocab).find((piece) => vocab[piece] === id)
}

/** A generator of numbers in [0, 1) that is the same in each run. */
function lcg(seed: number): () => number {
  let state = seed
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
}
