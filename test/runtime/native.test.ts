import t from 'tap'
import { type Api, bindApi, pointerOut } from '../../model/runtime/api.js'
import { loadLibrary } from '../../model/runtime/library.js'
import { NativeBinding } from '../../model/runtime/native-binding.js'
import type { NativeSession } from '../../model/runtime/native-session.js'
import { createHostTensor, createView, type NativeTensor } from '../../model/runtime/native-tensor.js'
import { Probe } from '../../model/runtime/probe.js'
import { Resource } from '../../model/runtime/resource.js'

t.test('a resource is freed once, when its last holder lets go, and after all that uses it', async (t) => {
  const freed: string[] = []
  const session = new Resource(() => freed.push('session'))
  const binding = new Resource(() => freed.push('binding'), { uses: [session] })
  session.release()
  t.same(freed, [], 'the binding holds it')
  binding.hold()
  binding.release()
  binding.release()
  t.same(freed, ['binding', 'session'])
  t.throws(() => binding.release(), /freed twice/)
  t.throws(() => session.hold(), /used again/)
})

/** A binding over a C API that only writes down what was called, with `name` = value of each bind. */
function recorded() {
  const calls: string[] = []
  const write =
    (call: string) =>
    (...values: unknown[]) => {
      if (call === 'CreateIoBinding') (values[1] as BigUint64Array)[0] = 9n
      calls.push(call.startsWith('Bind') ? `${call} ${values[1]} = ${values[2]}` : call)
    }
  const api = new Proxy({}, { get: (_, call: string) => write(call) }) as Api
  const freed: string[] = []
  const resource = (name: string) => new Resource(() => freed.push(name))
  const session: NativeSession = { handle: 1n, inputs: [], outputs: [], resource: resource('session') }
  const tensor = (value: bigint, copiedAtBind: boolean): NativeTensor => ({
    value,
    address: 0n,
    byteLength: 0,
    memoryInfo: 0n,
    copiedAtBind,
    resource: resource(`tensor ${value}`),
  })
  return { binding: new NativeBinding(api, session), calls, freed, tensor, session }
}

t.test('on a GPU, host inputs are bound anew before each run, and what lies there is not', async (t) => {
  const { binding, calls, tensor } = recorded()
  const [ids, cache] = [tensor(1n, true), tensor(2n, false)]
  const bind = [
    { side: 'input', name: 'input_ids', tensor: ids },
    { side: 'input', name: 'past', tensor: cache },
    { side: 'output', name: 'present', tensor: cache },
  ] as const
  binding.run(bind, 5n)
  t.same(calls.splice(0), [
    'CreateIoBinding',
    'BindInput input_ids = 1',
    'BindInput past = 2',
    'BindOutput present = 2',
    'SynchronizeBoundInputs',
    'RunWithBinding',
  ])
  binding.run([], 5n)
  t.same(calls.splice(0), ['BindInput input_ids = 1', 'SynchronizeBoundInputs', 'RunWithBinding'])
  binding.run([{ side: 'input', name: 'input_ids', tensor: cache }], 5n)
  t.same(calls.splice(0), ['BindInput input_ids = 2', 'RunWithBinding'])
})

t.test('a binding holds its session, and each tensor until its name is bound anew', async (t) => {
  const { binding, freed, tensor, session } = recorded()
  const [first, second] = [tensor(1n, false), tensor(2n, false)]
  binding.run([{ side: 'input', name: 'x', tensor: first }], 5n)
  first.resource.release()
  session.resource.release()
  t.same(freed, [])
  binding.run([{ side: 'input', name: 'x', tensor: second }], 5n)
  t.same(freed, ['tensor 1'])
  second.resource.release()
  binding.resource.release()
  t.same(freed, ['tensor 1', 'tensor 2', 'session'])
})

t.test('the probe proves its device, and zeroes memory of any size and no more than it should', async (t) => {
  const api = bindApi(loadLibrary())
  const environment = pointerOut((out) => api.CreateEnv(4, 'test', out))
  const memoryInfo = pointerOut((out) => api.CreateMemoryInfo('Cpu', 0, 0, 0, out))
  const probe = new Probe(api, environment, () => {}, memoryInfo)
  // More than two of its chunks of 16 MB, and between two bytes that must stay.
  const length = 33 * 1024 * 1024 + 7
  const whole = createHostTensor(api, { type: 'u8', shape: [length + 2], memoryInfo, copiedAtBind: false })
  const { memory, byteOffset } = whole.shared!
  const bytes = Buffer.from(memory, byteOffset, length + 2).fill(7)
  const inner = createView(api, whole, { type: 'u8', shape: [length], byteOffset: 1 })
  probe.zero(inner)
  t.same([bytes[0], bytes.at(-1)], [7, 7])
  t.ok(bytes.subarray(1, -1).equals(Buffer.alloc(length)))

  for (const { resource } of [inner, whole, probe.session]) resource.release()
  api.ReleaseMemoryInfo(memoryInfo)
  api.ReleaseEnv(environment)
})
