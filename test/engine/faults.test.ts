import t from 'tap'
import { Engine } from '../../model/engine/engine.js'
import { FaultWatch, stepError } from '../../model/engine/faults.js'
import {
  type EngineDefunctError,
  LogitsError,
  ModelFolderError,
  OrtError,
  RunCanceledError,
  RuntimeStoppedError,
  StepFailedError,
  StepOutOfMemoryError,
} from '../../model/errors.js'
import { GraphBuilder, int } from '../../model/onnx/graph.js'
import { isOutOfMemory } from '../../model/runtime/out-of-memory.js'
import { openRuntime } from '../../model/runtime/runtime.js'
import type { Runtime, Tensor } from '../../model/runtime/types.js'
import { collect, generate, tinyModel } from './tiny.js'
import { Faults, Gate, wrapRuntime } from './wrapped-runtime.js'

const model = await tinyModel(t)
const greedy = { prompt: 'Hello', maxNewTokens: 12, temperature: 0 }
const kernelFault = () => new OrtError('RunWithBinding', 1, 'a kernel said no\nand here is its trace')

/** An engine with fault switches below it, and what it said. */
async function faulty(options: { slots?: number; chunkTokens?: number } = {}) {
  const faults = new Faults()
  const hostFloats: Tensor[] = []
  const caches: Tensor[] = []
  const warnings: string[] = []
  const defunct: EngineDefunctError[] = []
  const runtime: Runtime = {
    ...wrapRuntime(model.runtime, faults.around),
    async createTensor(options) {
      const tensor = await model.runtime.createTensor(options)
      if (options.type === 'f32') (options.place === 'host' ? hostFloats : caches).push(tensor)
      return tensor
    },
  }
  const engine = await model.open({
    runtime,
    slots: 1,
    log: { info: () => {}, warn: (line) => warnings.push(line) },
    onDefunct: (error) => defunct.push(error),
    ...options,
  })
  const damageLogits = () => {
    for (const tensor of hostFloats) tensor.bytes.fill(0xff)
  }
  return { engine, faults, caches, warnings, defunct, damageLogits }
}

/** What a request ended with, a failure included. */
function outcome(engine: Engine, request = greedy): Promise<string> {
  return generate(engine, request).then(
    ({ text }) => text,
    (error: Error & { code?: string }) => error.code ?? error.message,
  )
}

/** As many of the same request, queued in this order: prompts that are prepared side by side come as they are ready. */
async function outcomesInOrder(engine: Engine, count: number): Promise<string[]> {
  const prepared = await engine.prepare(greedy)
  const ended = Array.from({ length: count }, () =>
    collect(engine.generate(prepared)).then(
      ({ text }) => text,
      (error: Error & { code?: string }) => error.code ?? error.message,
    ),
  )
  return Promise.all(ended)
}

const whole = await outcome(await model.open())

t.test('a failed run fails the requests of its step with a reason, and those that wait are served', async (t) => {
  const { engine, faults, warnings } = await faulty()
  const broken = engine.generate(await engine.prepare(greedy))
  const queued = outcome(engine)
  const first = await broken.next()
  faults.next(kernelFault())
  const pieces = [first.value?.type === 'text' ? first.value.text : '']
  await t.rejects(
    async () => {
      for await (const event of broken) if (event.type === 'text') pieces.push(event.text)
    },
    {
      code: 'STEP_FAILED',
      message:
        'A step of the model failed: RunWithBinding: a kernel said no. What came before it is valid; the engine goes on. Send the request again.',
      cause: { code: 'ORT_CALL_FAILED', reason: /and here is its trace/ },
    },
  )
  t.ok(whole.startsWith(pieces.join('')), 'what came before is valid')
  t.equal(await queued, whole)
  t.match(warnings, [/^A step failed \(1 in a row; 3 end the engine\): .*\n.*its trace/])
})

t.test('who was not in the failed step goes on where it was', async (t) => {
  for (const fault of [kernelFault(), new OrtError('RunWithBinding', 6, 'std::bad_alloc')]) {
    const gate = new Gate()
    const faults = new Faults()
    const runtime = wrapRuntime(model.runtime, (run) => gate.around(faults.around(run)))
    const engine = await model.open({ runtime, slots: 2, chunkTokens: 64 })
    const prepared = await engine.prepare({ ...greedy, prompt: 'a prompt of several chunks '.repeat(5) })
    gate.close()
    const firstStep = gate.step()
    const decoding = outcome(engine)
    await firstStep
    // The prompt has been read, and the first decode step is at the gate: the chunk of the other prompt comes next.
    await gate.step()
    const reading = collect(engine.generate(prepared))
    faults.next(() => {}, fault)
    gate.open()
    await t.rejects(reading, { code: /^STEP_/ })
    t.equal(await decoding, whole)
    t.equal(await outcome(engine), whole)
  }
})

t.test('a lack of memory is told as such, from what ONNX Runtime really says', async (t) => {
  const graph = new GraphBuilder('too-large')
  const shape = graph.input('shape', 'i64', [1])
  const zero = graph.initializer('zero', 'f32', [], new Uint8Array(4))
  graph.node('ReduceSum', [graph.node('Expand', [zero, shape])], { outputs: ['sum'], attributes: { keepdims: int(0) } })
  graph.output('sum', 'f32', [])
  const session = await model.runtime.openSession({ model: graph.encode() })
  const binding = await model.runtime.createBinding(session)
  const size = await model.runtime.createTensor({ type: 'i64', shape: [1], place: 'host' })
  new BigInt64Array(size.bytes.buffer, size.bytes.byteOffset, 1)[0] = 2n ** 50n
  binding.bindInput('shape', size)
  binding.bindOutput('sum', await model.runtime.createTensor({ type: 'f32', shape: [], place: 'host' }))

  const { engine, faults } = await faulty()
  faults.next(() => model.runtime.run([binding]))
  await t.rejects(generate(engine, greedy), {
    code: 'STEP_OUT_OF_MEMORY',
    message:
      /^There was no memory for a step of the model: .*requested buffer.*lower CONTEXT_LENGTH or the number of slots/,
  })
  t.equal(await outcome(engine), whole)
})

t.test('the words of other allocators are known, and other failures are no lack of memory', (t) => {
  const ofMemory = [
    'BFC Arena ran out of memory trying to allocate 12 bytes',
    'Available memory of 100 is smaller than requested bytes of 200',
    'Memory allocation failed. Size=4096',
    'std::bad_alloc',
    'CUDA failure 2: out of memory ; GPU=0 ; expr=cudaMalloc((void**)&p, size);',
    'CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0 ;',
  ]
  for (const reason of ofMemory) t.ok(isOutOfMemory(new OrtError('RunWithBinding', 1, reason)), reason)
  const others = ['CUDA failure 700: an illegal memory access was encountered', 'Got invalid dimensions for input']
  for (const reason of others) t.notOk(isOutOfMemory(new OrtError('RunWithBinding', 1, reason)), reason)
  t.ok(stepError(new OrtError('RunWithBinding', 1, others[0]!)) instanceof StepFailedError)
  t.ok(stepError(new OrtError('RunWithBinding', 1, ofMemory[0]!)) instanceof StepOutOfMemoryError)
  const canceled = new RunCanceledError()
  t.equal(stepError(canceled), canceled)
  t.match(stepError('odd'), { code: 'STEP_FAILED', message: /failed: odd\. / })
  t.end()
})

t.test('logits that are no numbers fail the request; the next one is right', async (t) => {
  const { engine, faults, damageLogits, warnings } = await faulty()
  faults.next(damageLogits)
  await t.rejects(generate(engine, greedy), { code: 'BAD_LOGITS', message: /NaN.*Send the request again/ })
  t.equal(await outcome(engine), whole)
  t.match(warnings, [/NaN/])
})

t.test('whatever lies in the cache where a request has not written, its answer is the same', async (t) => {
  const together = (engine: Engine) =>
    Promise.all(['Hello', 'the man in the moon', 'a', 'over'].map((prompt) => outcome(engine, { ...greedy, prompt })))
  const expected = await together(await model.open())
  const { engine, caches } = await faulty({ slots: 4 })
  for (const tensor of caches) tensor.bytes.fill(0xff)
  t.same(await together(engine), expected)
  // Few of four slots: rows between and beside them idle, over what others left.
  t.equal(await outcome(engine), expected[0])
})

t.test('three failed steps in a row end the engine, and all that it had', async (t) => {
  const { engine, faults, defunct } = await faulty()
  faults.next(kernelFault(), kernelFault(), kernelFault())
  t.same(await outcomesInOrder(engine, 5), [
    'STEP_FAILED',
    'STEP_FAILED',
    'STEP_FAILED',
    'ENGINE_DEFUNCT',
    'ENGINE_DEFUNCT',
  ])
  t.equal(defunct.length, 1)
  t.match(defunct[0], {
    code: 'ENGINE_DEFUNCT',
    message:
      /^The engine has given up: 3 steps in a row have failed\. The last reason: RunWithBinding: a kernel said no\.$/,
  })
  const { runs } = faults
  t.equal(await outcome(engine), 'ENGINE_DEFUNCT')
  t.equal(faults.runs, runs, 'it takes no more')
  await engine[Symbol.asyncDispose]()
})

t.test('a step that gives a token begins the count anew', async (t) => {
  const { engine, faults, defunct } = await faulty()
  for (let round = 0; round < 3; round++) {
    faults.next(kernelFault(), kernelFault())
    t.same(await outcomesInOrder(engine, 3), ['STEP_FAILED', 'STEP_FAILED', whole])
  }
  t.same(defunct, [])
})

t.test('an engine whose bindings cannot be made anew gives up at once', async (t) => {
  const faults = new Faults()
  let refuses = false
  const runtime: Runtime = {
    ...wrapRuntime(model.runtime, faults.around),
    createBinding: (session) =>
      refuses ? Promise.reject(new OrtError('CreateIoBinding', 1, 'no device')) : model.runtime.createBinding(session),
  }
  const defunct: string[] = []
  const engine = await model.open({ runtime, slots: 1, onDefunct: ({ message }) => defunct.push(message) })
  faults.next(kernelFault())
  refuses = true
  t.same(await outcomesInOrder(engine, 2), ['STEP_FAILED', 'ENGINE_DEFUNCT'])
  t.match(defunct, [/its loop has ended\. The last reason: CreateIoBinding: no device/])
})

t.test('weights that give no numbers are refused at the start', async (t) => {
  const runtime: Runtime = {
    ...wrapRuntime(model.runtime, (run) => async (bindings, signal) => {
      await run(bindings, signal)
      for (const tensor of floats) tensor.bytes.fill(0xff)
    }),
    async createTensor(options) {
      const tensor = await model.runtime.createTensor(options)
      if (options.type === 'f32' && options.place === 'host') floats.push(tensor)
      return tensor
    },
  }
  const floats: Tensor[] = []
  await t.rejects(model.open({ runtime }), ModelFolderError)
})

t.test('a row of failures is counted from what the steps gave', (t) => {
  const fault = new StepFailedError(kernelFault())
  const watch = new FaultWatch()
  t.equal(watch.note([1, 2]), undefined)
  t.equal(watch.note([fault, fault]), fault)
  t.equal(watch.note([]), undefined, 'a chunk that owes nobody a token says nothing')
  t.equal(watch.note([new RunCanceledError()]), undefined, 'nor does a canceled run')
  t.equal(watch.inARow, 1)
  const bad = new LogitsError(Number.NaN)
  t.equal(watch.note([7, bad]), bad, 'one bad row is a fault')
  t.equal(watch.inARow, 0, 'but the step gave the others theirs')
  watch.note([fault])
  watch.note([fault])
  t.throws(() => watch.note([fault]), { code: 'ENGINE_DEFUNCT', cause: fault.cause })
  t.throws(() => new FaultWatch().note([new RuntimeStoppedError('gone')]), { message: /its runtime has ended/ })
  t.end()
})

t.test('an iteration that its reader left before the failure ends as canceled', async (t) => {
  const { engine, faults } = await faulty()
  const left = new AbortController()
  const answer = collect(engine.generate(await engine.prepare(greedy), { signal: left.signal }))
  faults.next(() => {
    left.abort()
    throw kernelFault()
  })
  t.equal((await answer).endedBy, 'canceled')
})

t.test('an engine whose runtime has ended gives up at once, and nobody waits for it', async (t) => {
  const runtime = await openRuntime({ device: 'cpu', threads: 1 })
  const defunct: string[] = []
  const engine = await Engine.open({
    folder: model.folder,
    runtime,
    slots: 1,
    onDefunct: ({ message }) => defunct.push(message),
  })
  const running = engine.generate(await engine.prepare({ ...greedy, maxNewTokens: 200, minNewTokens: 200 }))
  await running.next()
  const queued = outcome(engine)
  await runtime[Symbol.asyncDispose]()
  await t.rejects(collect(running), /canceled|disposed|ended/)
  t.match(await queued, /ENGINE_DEFUNCT|RUNTIME_STOPPED/)
  await new Promise((resolve) => setImmediate(resolve))
  t.match(defunct, [/its runtime has ended/])
  await engine[Symbol.asyncDispose]()
})
