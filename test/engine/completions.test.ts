import t from 'tap'
import { type CompletionEvent, generateCompletions } from '../../model/engine/completions.js'
import type { EndEvent } from '../../model/engine/request.js'
import { OrtError } from '../../model/errors.js'
import { generate, tinyModel } from './tiny.js'
import { Faults, wrapRuntime } from './wrapped-runtime.js'

const model = await tinyModel(t)
const request = {
  prompt: 'the man in the moon went on and on, over the mode',
  maxNewTokens: 10,
  temperature: 1,
  seed: 3,
}

async function collectAll(events: AsyncIterable<CompletionEvent>) {
  const pieces: string[][] = []
  const ends: EndEvent[] = []
  for await (const { index, event } of events) {
    if (event.type === 'end') ends[index] = event
    else {
      pieces[index] ??= []
      pieces[index].push(event.text)
    }
  }
  return { pieces, ends }
}

t.test('each completion is what a request with its seed gets alone; the prompt is read once', async (t) => {
  const lone = await model.open({ slots: 1 })
  const alone: (readonly string[])[] = []
  for (const seed of [3, 4, 5, 6]) alone.push((await generate(lone, { ...request, seed })).pieces)
  for (const slots of [4, 2]) {
    const engine = await model.open({ slots })
    const prepared = await engine.prepare(request)
    const { pieces, ends } = await collectAll(generateCompletions(engine, prepared, { count: 4 }))
    t.same(pieces, alone)
    t.same(
      ends.map(({ seed }) => seed),
      [3, 4, 5, 6],
    )
    const shared = prepared.promptIds.length - 1 - ((prepared.promptIds.length - 1) % 16)
    t.ok(shared > 0)
    t.same(
      ends.map(({ cachedTokens }) => cachedTokens),
      [0, shared, shared, shared],
    )
  }
})

t.test('seeds at the end of their range go on from 0', async (t) => {
  const engine = await model.open()
  const prepared = await engine.prepare({ ...request, maxNewTokens: 1, seed: Number.MAX_SAFE_INTEGER - 1 })
  const { ends } = await collectAll(generateCompletions(engine, prepared, { count: 4 }))
  t.same(
    ends.map(({ seed }) => seed),
    [Number.MAX_SAFE_INTEGER - 1, Number.MAX_SAFE_INTEGER, 0, 1],
  )
})

t.test('a signal, or who stops reading, ends them all', async (t) => {
  const engine = await model.open({ slots: 2 })
  const prepared = await engine.prepare({ ...request, maxNewTokens: 100, minNewTokens: 100 })
  const left = new AbortController()
  const ended: string[] = []
  for await (const { event } of generateCompletions(engine, prepared, { count: 3, signal: left.signal })) {
    left.abort()
    if (event.type === 'end') ended.push(event.endedBy)
  }
  t.same(ended, ['canceled', 'canceled', 'canceled'])
  for await (const { event } of generateCompletions(engine, prepared, { count: 3 })) {
    t.equal(event.type, 'text')
    break
  }
  t.equal((await generate(engine, { ...request, maxNewTokens: 4 })).outputTokens, 4, 'the slots are free')
})

t.test('where one fails, all end with its reason', async (t) => {
  const faults = new Faults()
  const engine = await model.open({ runtime: wrapRuntime(model.runtime, faults.around), slots: 2 })
  const prepared = await engine.prepare(request)
  faults.next(new OrtError('RunWithBinding', 1, 'a kernel said no'))
  await t.rejects(collectAll(generateCompletions(engine, prepared, { count: 2 })), { code: 'STEP_FAILED' })
  await t.rejects(collectAll(generateCompletions(engine, prepared, { count: 0 })), RangeError)
  t.equal((await collectAll(generateCompletions(engine, prepared, { count: 2 }))).ends.length, 2)
})
