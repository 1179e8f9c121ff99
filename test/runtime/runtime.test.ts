import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { openRuntime } from '../../model/runtime/runtime.js'
import type { Runtime, Tensor, TensorType } from '../../model/runtime/types.js'
import { addGraph, attentionGraph, slowGraph } from './graphs.js'

// One for all tests but those that need their own: a thread under a TypeScript loader takes a second or two to start.
const runtime = await openRuntime({ device: 'cpu', threads: 2 })
t.teardown(() => runtime[Symbol.asyncDispose]())

const f32 = (tensor: Tensor) => new Float32Array(tensor.bytes.buffer, tensor.bytes.byteOffset, tensor.byteLength / 4)
const i32 = (tensor: Tensor) => new Int32Array(tensor.bytes.buffer, tensor.bytes.byteOffset, tensor.byteLength / 4)

/** A host tensor with these numbers in it. */
async function tensorOf(runtime: Runtime, values: readonly number[], shape = [1, values.length]): Promise<Tensor> {
  const tensor = await runtime.createTensor({ type: 'f32', shape, place: 'host' })
  f32(tensor).set(values)
  return tensor
}

/** Binds z = x + y. */
async function bindAdd(runtime: Runtime, tensors: { x: Tensor; y: Tensor; z: Tensor }) {
  const session = await runtime.openSession({ model: addGraph() })
  const binding = await runtime.createBinding(session)
  binding.bindInput('x', tensors.x)
  binding.bindInput('y', tensors.y)
  binding.bindOutput('z', tensors.z)
  return { session, binding }
}

/** Bound to a run that takes some hundred milliseconds. */
async function bindSlow(runtime: Runtime) {
  const n = 512
  const session = await runtime.openSession({ model: slowGraph(60, n) })
  const binding = await runtime.createBinding(session)
  const output = await runtime.createTensor({ type: 'f32', shape: [n, n], place: 'host' })
  const input = await runtime.createTensor({ type: 'f32', shape: [n, n], place: 'host' })
  f32(input).fill(1)
  binding.bindInput('x', input)
  binding.bindOutput('y', output)
  return { session, binding, output }
}

t.test('a runtime says what it runs on', async (t) => {
  t.same(runtime.device, { kind: 'cpu', id: 0 })
  t.equal(runtime.version, '1.30.0')
  t.equal(runtime.threads, 2)
  await t.rejects(openRuntime({ device: 'cpu', threads: 0 }), { name: 'RangeError', message: /threads is 0/ })
})

t.test('a session tells its inputs and outputs, with open dimensions as −1', async (t) => {
  const session = await runtime.openSession({ model: attentionGraph() })
  t.same(session.inputs, [
    { name: 'packed', type: 'f32', shape: [-1, -1, 128] },
    { name: 'past.key', type: 'f32', shape: [-1, 1, -1, 32] },
    { name: 'past.value', type: 'f32', shape: [-1, 1, -1, 32] },
    { name: 'seqlens_k', type: 'i32', shape: [-1] },
    { name: 'total_sequence_length', type: 'i32', shape: [] },
  ])
  t.same(
    session.outputs.map(({ name }) => name),
    ['attention', 'present.key', 'present.value'],
  )
})

t.test('a run reads what was written into bound tensors since the last one', async (t) => {
  const [x, y, z] = [
    await tensorOf(runtime, [1, 2, 3, 4]),
    await tensorOf(runtime, [10, 20, 30, 40]),
    await tensorOf(runtime, [0, 0, 0, 0]),
  ]
  const { binding } = await bindAdd(runtime, { x, y, z })
  await runtime.run([binding])
  t.same([...f32(z)], [11, 22, 33, 44])
  f32(x).fill(0.5)
  await runtime.run([binding])
  t.same([...f32(z)], [10.5, 20.5, 30.5, 40.5])
})

t.test('a name that is bound anew takes effect with the next run', async (t) => {
  const [x, y, z] = [
    await tensorOf(runtime, [1, 1, 1, 1]),
    await tensorOf(runtime, [2, 2, 2, 2]),
    await tensorOf(runtime, [0, 0, 0, 0]),
  ]
  const { binding } = await bindAdd(runtime, { x, y, z })
  await runtime.run([binding])
  binding.bindInput('x', y)
  t.same([...f32(z)], [3, 3, 3, 3])
  await runtime.run([binding])
  t.same([...f32(z)], [4, 4, 4, 4])
})

t.test('one tensor may be input and output: it is written in place', async (t) => {
  const [one, sum] = [await tensorOf(runtime, [1, 1, 1, 1]), await tensorOf(runtime, [0, 0, 0, 0])]
  const { binding } = await bindAdd(runtime, { x: sum, y: one, z: sum })
  await runtime.run([binding, binding, binding])
  t.same([...f32(sum)], [3, 3, 3, 3])
})

t.test('attention appends to a KV cache in place, and a view of one slot leaves the others alone', async (t) => {
  const session = await runtime.openSession({ model: attentionGraph() })
  const [slots, length, head] = [3, 8, 32]
  const slotBytes = length * head * 4
  const cache = { key: await kv(), value: await kv() }
  async function kv() {
    const whole = await runtime.createTensor({ type: 'f32', shape: [slots, 1, length, head], place: 'device' })
    return { whole, slot: await whole.view([1, 1, length, head], slotBytes) }
  }
  const packed = await runtime.createTensor({ type: 'f32', shape: [1, 1, 128], place: 'host' })
  f32(packed).set(Array.from({ length: 128 }, (_, index) => index))
  const lengths = await runtime.createTensor({ type: 'i32', shape: [1], place: 'host' })
  const total = await runtime.createTensor({ type: 'i32', shape: [], place: 'host' })
  const attention = await runtime.createTensor({ type: 'f32', shape: [1, 1, 64], place: 'host' })
  i32(total)[0] = length
  const binding = await runtime.createBinding(session)
  binding.bindInput('packed', packed)
  binding.bindInput('seqlens_k', lengths)
  binding.bindInput('total_sequence_length', total)
  binding.bindOutput('attention', attention)
  for (const part of ['key', 'value'] as const) {
    binding.bindInput(`past.${part}`, cache[part].slot)
    binding.bindOutput(`present.${part}`, cache[part].slot)
  }
  for (let token = 0; token < 2; token++) {
    i32(lengths)[0] = token
    await runtime.run([binding])
  }

  const row = (from: number) => Array.from({ length: head }, (_, index) => from + index)
  const zeros = (rows: number) => new Array<number>(rows * head).fill(0)
  const slot = (from: number) => [...row(from), ...row(from), ...zeros(length - 2)]
  t.same([...f32(cache.key.whole)], [...zeros(length), ...slot(64), ...zeros(length)])
  t.same([...f32(cache.value.whole)], [...zeros(length), ...slot(96), ...zeros(length)])
  t.same([...f32(attention).subarray(0, head)], row(96), 'two equal rows weigh half each')
})

t.test('memory is zeroed, and lies where vector kernels like it', async (t) => {
  for (const shape of [[3], [1000], [0], []]) {
    const tensor = await runtime.createTensor({ type: 'i64', shape, place: 'host' })
    t.ok(tensor.bytes.every((byte) => byte === 0))
    t.equal(tensor.byteLength, tensor.bytes.byteLength)
    t.ok(tensor.bytes.buffer instanceof SharedArrayBuffer)
  }
})

t.test('runs are answered in the order in which they were asked for', async (t) => {
  const [one, sum] = [await tensorOf(runtime, [1, 1, 1, 1]), await tensorOf(runtime, [0, 0, 0, 0])]
  const { binding } = await bindAdd(runtime, { x: sum, y: one, z: sum })
  const order: number[] = []
  await Promise.all(Array.from({ length: 20 }, (_, index) => runtime.run([binding]).then(() => order.push(index))))
  t.same(
    order,
    [...order].sort((a, b) => a - b),
  )
  t.equal(f32(sum)[0], 20)
})

t.test('the event loop turns while a run is in flight', async (t) => {
  const { binding } = await bindSlow(runtime)
  let turns = 0
  let running = true
  const turn = () => {
    turns++
    if (running) setImmediate(turn)
  }
  setImmediate(turn)
  await runtime.run([binding])
  running = false
  t.ok(turns > 100, `${turns} turns`)
})

t.test('a signal ends the run in flight and skips those behind it; the session stays usable', async (t) => {
  const { binding, output } = await bindSlow(runtime)
  await runtime.run([binding])
  t.ok(f32(output).some((value) => value !== 0))
  f32(output).fill(0)

  const controller = new AbortController()
  const run = runtime.run([binding, binding, binding], controller.signal)
  setImmediate(() => controller.abort())
  await t.rejects(run, { name: 'RunCanceledError', code: 'RUN_CANCELED' })
  t.ok(
    f32(output).every((value) => value === 0),
    'the last product was not reached',
  )

  await runtime.run([binding])
  t.ok(f32(output).some((value) => value !== 0))
})

t.test('a run that waits behind another is canceled without touching that one', async (t) => {
  const { binding } = await bindSlow(runtime)
  const controller = new AbortController()
  const first = runtime.run([binding])
  const second = runtime.run([binding], controller.signal)
  controller.abort()
  await t.rejects(second, { name: 'RunCanceledError' })
  await first
})

t.test('a signal that has fired already runs nothing', async (t) => {
  const [one, sum] = [await tensorOf(runtime, [1, 1, 1, 1]), await tensorOf(runtime, [0, 0, 0, 0])]
  const { binding } = await bindAdd(runtime, { x: sum, y: one, z: sum })
  await t.rejects(runtime.run([binding], AbortSignal.abort()), { name: 'RunCanceledError' })
  t.equal(f32(sum)[0], 0)
  await runtime.run([binding])
  t.equal(f32(sum)[0], 1, 'what was bound before is bound still')
})

t.test('a signal that fires after the run does nothing', async (t) => {
  const [one, sum] = [await tensorOf(runtime, [1, 1, 1, 1]), await tensorOf(runtime, [0, 0, 0, 0])]
  const { binding } = await bindAdd(runtime, { x: sum, y: one, z: sum })
  const controller = new AbortController()
  await runtime.run([binding], controller.signal)
  controller.abort()
  await runtime.run([binding])
  t.equal(f32(sum)[0], 2)
})

t.test('a tensor that does not fit is refused as it is bound, with both shapes', async (t) => {
  const session = await runtime.openSession({ model: addGraph() })
  const binding = await runtime.createBinding(session)
  const make = (type: TensorType, shape: number[]) => runtime.createTensor({ type, shape, place: 'host' })
  const good = await make('f32', [2, 4])
  const refuses = (bind: () => void, message: string | RegExp) => t.throws(bind, { name: 'TypeError', message })

  refuses(() => binding.bindInput('w', good), 'The session has no input w. It has: x, y.')
  refuses(() => binding.bindOutput('x', good), 'The session has no output x. It has: z.')
  const f16 = await make('f16', [2, 4])
  refuses(() => binding.bindInput('x', f16), 'The input x is f32 [?, 4], but the tensor is f16 [2, 4].')
  const wide = await make('f32', [2, 5])
  refuses(() => binding.bindOutput('z', wide), 'The output z is f32 [?, 4], but the tensor is f32 [2, 5].')
  const flat = await make('f32', [4])
  refuses(() => binding.bindInput('x', flat), /but the tensor is f32 \[4\]/)
})

t.test('what ONNX Runtime refuses is an error with its words, and the session stays usable', async (t) => {
  const session = await runtime.openSession({ model: addGraph() })
  const binding = await runtime.createBinding(session)
  const [x, y, z] = [
    await tensorOf(runtime, [1, 2, 3, 4]),
    await tensorOf(runtime, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], [3, 4]),
    await tensorOf(runtime, [1, 2, 3, 4, 5, 6, 7, 8], [2, 4]),
  ]
  binding.bindInput('x', x)
  binding.bindOutput('z', z)
  await t.rejects(runtime.run([binding]), { name: 'OrtError', call: 'RunWithBinding', message: /y/ }, 'no input y')
  binding.bindInput('y', z)
  binding.bindInput('x', y)
  await t.rejects(runtime.run([binding]), { name: 'OrtError', call: 'RunWithBinding' }, 'shapes that cannot be added')
  binding.bindInput('x', x)
  await runtime.run([binding])
  t.same([...f32(z)], [2, 4, 6, 8, 6, 8, 10, 12])
})

t.test('a model that cannot be opened is an error that says why', async (t) => {
  const folder = t.testdir({ 'broken.onnx': 'no protobuf', 'empty.onnx': '' })
  await t.rejects(runtime.openSession({ model: join(folder, 'absent.onnx') }), { code: 'ENOENT' })
  await t.rejects(runtime.openSession({ model: join(folder, 'broken.onnx') }), {
    name: 'OrtError',
    call: 'CreateSession',
    message: /broken\.onnx/,
  })
  await t.rejects(runtime.openSession({ model: join(folder, 'empty.onnx') }), { name: 'OrtError' })
  await t.rejects(runtime.openSession({ model: new Uint8Array([1, 2, 3]) }), {
    name: 'OrtError',
    call: 'CreateSessionFromArray',
  })
  await t.rejects(runtime.openSession({ model: new Uint8Array() }), { name: 'OrtError' })
  await t.rejects(runtime.openSession({ model: addGraph(), config: { 'a\0b': '1' } }), { message: /NUL/ })
  const file = join(folder, 'good.onnx')
  writeFileSync(file, addGraph())
  t.equal((await runtime.openSession({ model: file })).inputs.length, 2)
})

t.test('a view lies within its tensor, on whole elements', async (t) => {
  const tensor = await tensorOf(runtime, [1, 2, 3, 4, 5, 6, 7, 8], [2, 4])
  const view = await tensor.view([1, 4], 16)
  t.same([...f32(view)], [5, 6, 7, 8])
  f32(view)[0] = 50
  t.equal(f32(tensor)[4], 50)
  for (const byteOffset of [-4, 2, 1.5, Number.NaN, 20]) {
    await t.rejects(tensor.view([1, 4], byteOffset), { name: 'RangeError' }, `at ${byteOffset}`)
  }
})

t.test('sessions, bindings, tensors and views may be disposed in any order, and twice', async (t) => {
  const x = await tensorOf(runtime, [1, 2, 3, 4, 5, 6, 7, 8], [2, 4])
  const view = await x.view([1, 4], 16)
  const z = await tensorOf(runtime, [0, 0, 0, 0])
  const { session, binding } = await bindAdd(runtime, { x: view, y: view, z })
  await runtime.run([binding])
  await x[Symbol.asyncDispose]()
  t.same([...f32(view)], [5, 6, 7, 8], 'a view holds its owner')
  await view[Symbol.asyncDispose]()
  await view[Symbol.asyncDispose]()
  await runtime.run([binding])
  t.same([...f32(z)], [10, 12, 14, 16], 'a binding holds what is bound')
  await session[Symbol.asyncDispose]()
  await t.rejects(runtime.run([binding]), { name: 'TypeError', message: 'The session was disposed.' })
  await t.rejects(runtime.createBinding(session), { name: 'TypeError' })
  await binding[Symbol.asyncDispose]()
  await binding[Symbol.asyncDispose]()
  await t.rejects(runtime.run([binding]), { name: 'TypeError', message: 'The binding was disposed.' })
  t.throws(() => x.bytes, { name: 'TypeError', message: 'The tensor was disposed.' })
  t.throws(() => binding.bindInput('x', z), { name: 'TypeError' })
})

t.test('a tensor that is disposed between its binding and the run is named', async (t) => {
  const [x, y, z] = [
    await tensorOf(runtime, [1, 1, 1, 1]),
    await tensorOf(runtime, [2, 2, 2, 2]),
    await tensorOf(runtime, [0, 0, 0, 0]),
  ]
  const { binding } = await bindAdd(runtime, { x, y, z })
  await y[Symbol.asyncDispose]()
  await t.rejects(runtime.run([binding]), { name: 'TypeError', message: /tensor bound to y was disposed/ })
})

t.test('what belongs to one runtime is refused by another', async (t) => {
  const other = await openRuntime({ device: 'cpu' })
  t.teardown(() => other[Symbol.asyncDispose]())
  const tensor = await tensorOf(runtime, [1, 1, 1, 1])
  const { session, binding } = await bindAdd(runtime, { x: tensor, y: tensor, z: tensor })
  await t.rejects(other.createBinding(session), { name: 'TypeError' })
  await t.rejects(other.run([binding]), { name: 'TypeError' })
  const foreign = await other.createBinding(await other.openSession({ model: addGraph() }))
  t.throws(() => foreign.bindInput('x', tensor), { name: 'TypeError' })
})

t.test('memory that nobody has is refused with its size', async (t) => {
  await t.rejects(runtime.createTensor({ type: 'f32', shape: [2 ** 40], place: 'host' }), {
    name: 'OutOfMemoryError',
    byteLength: 2 ** 42,
    message: /4398047 MB/,
  })
})

t.test('disposing the runtime ends the run in flight, frees everything, and is final', async (t) => {
  const runtime = await openRuntime({ device: 'cpu' })
  const { session, binding, output } = await bindSlow(runtime)
  const run = runtime.run([binding, binding])
  const canceled = t.rejects(run, { name: 'RunCanceledError' })
  await runtime[Symbol.asyncDispose]()
  await canceled
  await runtime[Symbol.asyncDispose]()
  await output[Symbol.asyncDispose]()
  await session[Symbol.asyncDispose]()
  const stopped = { name: 'RuntimeStoppedError', code: 'RUNTIME_STOPPED' }
  await t.rejects(runtime.run([]), stopped)
  await t.rejects(runtime.openSession({ model: addGraph() }), stopped)
})
