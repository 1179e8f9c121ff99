import { parentPort, workerData } from 'node:worker_threads'
import { type Api, bindApi, pointerOut } from './api.js'
import { type AppendDevice, chooseDevice } from './device.js'
import { toFailure } from './failure.js'
import { loadLibrary } from './library.js'
import type { Answer, Calls, Hello, Id, Kind, Question, Ready, WorkerOptions } from './messages.js'
import { NativeBinding } from './native-binding.js'
import { type NativeSession, openSession } from './native-session.js'
import { createDeviceTensor, createHostTensor, createView, type NativeTensor } from './native-tensor.js'
import { Probe } from './probe.js'

// onnxruntime_c_api.h: OrtLoggingLevel, OrtAllocatorType, OrtMemType.
const ORT_LOGGING_LEVEL_FATAL = 4
const ORT_DEVICE_ALLOCATOR = 0
const ORT_MEM_TYPE_DEFAULT = 0

type Handlers = { readonly [K in Kind]: (question: Calls[K]['question']) => Calls[K]['answer'] }

/** All native objects of one runtime, and what may be asked of them. Lives on the thread that runs ONNX Runtime. */
class Host {
  readonly ready: Ready
  readonly handlers: Handlers
  readonly #api: Api
  readonly #environment: bigint
  readonly #append: AppendDevice
  readonly #threads: number
  readonly #hostMemory: bigint
  readonly #deviceMemory: bigint
  /** OrtAllocator * of the GPU; absent on the CPU. */
  readonly #deviceAllocator: bigint | undefined
  readonly #probe: Probe
  readonly #sessions = new Map<Id, NativeSession>()
  readonly #tensors = new Map<Id, NativeTensor>()
  readonly #bindings = new Map<Id, NativeBinding>()
  #lastId: Id = 0

  constructor(options: WorkerOptions) {
    const library = loadLibrary(options.libraryPath)
    const api = bindApi(library)
    this.#api = api
    this.#threads = options.threads
    // Every failure comes as a status, and becomes an error with the same text. ONNX Runtime would print it too, in colour.
    this.#environment = pointerOut((out) => api.CreateEnv(ORT_LOGGING_LEVEL_FATAL, 'bezel', out))
    this.#hostMemory = this.#memoryInfo('Cpu', 0)

    let probe: Probe | undefined
    let chosen: ReturnType<typeof chooseDevice>
    try {
      chosen = chooseDevice(api, options, (candidate) => {
        probe = new Probe(api, this.#environment, candidate, this.#hostMemory)
      })
    } catch (error) {
      api.ReleaseMemoryInfo(this.#hostMemory)
      api.ReleaseEnv(this.#environment)
      throw error
    }
    const { device, append } = chosen
    this.#probe = probe!
    this.#append = append
    this.#deviceMemory = device.kind === 'cuda' ? this.#memoryInfo('Cuda', device.id) : this.#hostMemory
    if (device.kind === 'cuda') {
      this.#deviceAllocator = pointerOut((out) =>
        api.CreateAllocator(this.#probe.session.handle, this.#deviceMemory, out),
      )
    }
    this.ready = { device, version: library.version, build: api.GetBuildInfoString() }
    this.handlers = {
      openSession: (question) => this.#openSession(question),
      savePacked: (question) => this.#savePacked(question),
      createTensor: (question) => this.#createTensor(question),
      createView: (question) => this.#createView(question),
      createBinding: (question) => this.#createBinding(question),
      run: (question) => this.#run(question),
      dispose: (question) => this.#dispose(question),
      close: () => this.#close(),
    }
  }

  #openSession({ model, config, capture }: Calls['openSession']['question']): Calls['openSession']['answer'] {
    const session = openSession(this.#api, this.#environment, {
      model,
      threads: this.#threads,
      append: this.#append,
      config,
      capture,
    })
    const id = this.#keep(this.#sessions, session)
    return { id, inputs: session.inputs, outputs: session.outputs }
  }

  #savePacked({ model, config, save }: Calls['savePacked']['question']): undefined {
    const session = openSession(this.#api, this.#environment, {
      model,
      threads: this.#threads,
      append: this.#append,
      config,
      save,
    })
    session.resource.release()
  }

  #createTensor({ type, shape, place }: Calls['createTensor']['question']): Calls['createTensor']['answer'] {
    if (place === 'device' && this.#deviceAllocator !== undefined) {
      const tensor = createDeviceTensor(this.#api, {
        type,
        shape,
        allocator: this.#deviceAllocator,
        memoryInfo: this.#deviceMemory,
        owner: this.#probe.session.resource,
      })
      this.#probe.zero(tensor)
      return { id: this.#keep(this.#tensors, tensor) }
    }
    const tensor = createHostTensor(this.#api, {
      type,
      shape,
      memoryInfo: this.#hostMemory,
      copiedAtBind: this.#deviceAllocator !== undefined,
    })
    return { id: this.#keep(this.#tensors, tensor), shared: tensor.shared! }
  }

  #createView({ owner, ...options }: Calls['createView']['question']): Calls['createView']['answer'] {
    return { id: this.#keep(this.#tensors, createView(this.#api, need(this.#tensors, owner), options)) }
  }

  #createBinding({ session }: Calls['createBinding']['question']): Calls['createBinding']['answer'] {
    return { id: this.#keep(this.#bindings, new NativeBinding(this.#api, need(this.#sessions, session))) }
  }

  #run({ bindings }: Calls['run']['question']): undefined {
    for (const { binding, changes, runOptions } of bindings) {
      const native = changes.map((change) => ({ ...change, tensor: need(this.#tensors, change.tensor) }))
      need(this.#bindings, binding).run(native, runOptions)
    }
  }

  #dispose({ id }: Calls['dispose']['question']): undefined {
    for (const objects of [this.#bindings, this.#tensors, this.#sessions]) {
      const object = objects.get(id)
      if (!object) continue
      objects.delete(id)
      object.resource.release()
      return
    }
    throw new Error(`No native object ${id}: it was disposed before.`)
  }

  #close(): undefined {
    for (const objects of [this.#bindings, this.#tensors, this.#sessions]) {
      for (const { resource } of objects.values()) resource.release()
      objects.clear()
    }
    if (this.#deviceAllocator !== undefined) this.#api.ReleaseAllocator(this.#deviceAllocator)
    this.#probe.session.resource.release()
    if (this.#deviceMemory !== this.#hostMemory) this.#api.ReleaseMemoryInfo(this.#deviceMemory)
    this.#api.ReleaseMemoryInfo(this.#hostMemory)
    this.#api.ReleaseEnv(this.#environment)
  }

  #memoryInfo(name: string, deviceId: number): bigint {
    return pointerOut((out) =>
      this.#api.CreateMemoryInfo(name, ORT_DEVICE_ALLOCATOR, deviceId, ORT_MEM_TYPE_DEFAULT, out),
    )
  }

  #keep<T>(objects: Map<Id, T>, object: T): Id {
    const id = ++this.#lastId
    objects.set(id, object)
    return id
  }
}

function need<T>(objects: ReadonlyMap<Id, T>, id: Id): T {
  const object = objects.get(id)
  if (object === undefined) throw new Error(`No native object ${id}: it was disposed.`)
  return object
}

function answer(host: Host, question: Question): Answer {
  try {
    const handler = host.handlers[question.kind] as (question: Question) => unknown
    return { call: question.call, value: handler(question) }
  } catch (error) {
    return { call: question.call, failure: toFailure(error) }
  }
}

const port = parentPort!
try {
  const host = new Host(workerData as WorkerOptions)
  port.on('message', (question: Question) => {
    port.postMessage(answer(host, question))
    if (question.kind === 'close') port.close()
  })
  port.postMessage({ ready: host.ready } satisfies Hello)
} catch (error) {
  port.postMessage({ failure: toFailure(error) } satisfies Hello)
}
