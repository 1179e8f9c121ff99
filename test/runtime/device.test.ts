import t from 'tap'
import { OrtError } from '../../model/errors.js'
import type { Api } from '../../model/runtime/api.js'
import { type AppendDevice, chooseDevice, cudaProviderOptions } from '../../model/runtime/device.js'
import { openRuntime } from '../../model/runtime/runtime.js'

const OPTIONS = { device: 'auto', deviceId: 1, memoryLimitBytes: 8e9, tf32: false } as const

/** The C API, of which only the calls that choose a device are answered, and written down. */
function recordingApi(refuse: (call: string, values: readonly unknown[]) => boolean = () => false) {
  const calls: [name: string, ...values: unknown[]][] = []
  const api = new Proxy(
    {},
    {
      get:
        (_, name: string) =>
        (...values: unknown[]) => {
          if (refuse(name, values))
            throw new OrtError(
              name,
              1,
              '/src/a.cc:1 f() [ONNXRuntimeError] : 1 : FAIL : CUDA failure 35: no driver\nstack',
            )
          if (name === 'CreateCUDAProviderOptions') (values[0] as BigUint64Array)[0] = 77n
          calls.push([name, ...values.filter((value) => !(value instanceof BigUint64Array))])
        },
    },
  )
  return { api: api as Api, calls }
}

t.test('CUDA options are checked by the device first, and then set in one call', async (t) => {
  const { api, calls } = recordingApi()
  const { device } = chooseDevice(api, OPTIONS, (append) => append(5n, false))
  t.same(device, { kind: 'cuda', id: 1 })
  const all = {
    device_id: '1',
    arena_extend_strategy: 'kSameAsRequested',
    use_tf32: '0',
    enable_cudnn: '0',
    gpu_mem_limit: '8000000000',
  }
  t.same(calls, [
    ['CreateCUDAProviderOptions'],
    ['UpdateCUDAProviderOptions', 77n, ['device_id'], ['1'], 1],
    ['UpdateCUDAProviderOptions', 77n, Object.keys(all), Object.values(all), 5],
    ['SessionOptionsAppendExecutionProvider_CUDA_V2', 5n, 77n],
    ['AddSessionConfigEntry', 5n, 'session.use_device_allocator_for_initializers', '1'],
    ['ReleaseCUDAProviderOptions', 77n],
  ])
})

t.test('a session that captures asks for graphs, and for memory that its runs do not allocate anew', async (t) => {
  const { api, calls } = recordingApi()
  chooseDevice(api, OPTIONS, (append) => append(5n, true))
  const update = calls.filter(([name]) => name === 'UpdateCUDAProviderOptions').at(-1)!
  const names = update[2] as string[]
  t.equal((update[3] as string[])[names.indexOf('enable_cuda_graph')], '1')
  t.same(calls.slice(-2), [
    ['DisableMemPattern', 5n],
    ['ReleaseCUDAProviderOptions', 77n],
  ])
})

t.test('no memory limit is no option, and cuDNN is used where it is installed', async (t) => {
  t.same(cudaProviderOptions({ device: 'cuda', deviceId: 0, tf32: true }, true), {
    device_id: '0',
    arena_extend_strategy: 'kSameAsRequested',
    use_tf32: '1',
    enable_cudnn: '1',
  })
})

t.test('a GPU that refuses is given up for the CPU, with the reason in plain words', async (t) => {
  const { api, calls } = recordingApi((call) => call === 'UpdateCUDAProviderOptions')
  const proven: AppendDevice[] = []
  const { device } = chooseDevice(api, OPTIONS, (append) => {
    append(5n, false)
    proven.push(append)
  })
  t.same(device, { kind: 'cpu', id: 0, fallbackReason: 'CUDA device 1 cannot be used: CUDA failure 35: no driver.' })
  t.equal(proven.length, 1, 'the CPU is proven too')
  t.same(calls.at(-1), ['ReleaseCUDAProviderOptions', 77n], 'what was made for the GPU is freed')
})

t.test('a mistake of ours is not taken for a missing GPU', async (t) => {
  const { api } = recordingApi()
  const prove = () => {
    throw new TypeError('a mistake')
  }
  t.throws(() => chooseDevice(api, OPTIONS, prove), { name: 'TypeError' })
})

t.test('without a GPU, auto serves from the CPU and says why', async (t) => {
  // Without the provider's library, which the package does not bring, no machine has one.
  const runtime = await openRuntime({ device: 'auto' })
  t.teardown(() => runtime[Symbol.asyncDispose]())
  if (runtime.device.kind === 'cuda') {
    t.equal(runtime.device.fallbackReason, undefined)
    return
  }
  t.match(runtime.device.fallbackReason, /^CUDA device 0 cannot be used: .*\.$/)
  await t.rejects(openRuntime({ device: 'cuda', deviceId: 3 }), {
    name: 'DeviceError',
    code: 'DEVICE_UNUSABLE',
    message: /^CUDA device 3 cannot be used: .*DEVICE=cpu/,
  })
})
