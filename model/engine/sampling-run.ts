import type { Binding, Runtime, Session, TensorType } from '../runtime/types.js'
import type { Candidates, SamplingRow } from './sampler.js'
import { buildSamplingGraph } from './sampling-graph.js'
import { elements, Views } from './views.js'

export interface SamplingRunOptions {
  readonly runtime: Runtime
  /** Of the logits. */
  readonly type: 'f32' | 'f16' | 'bf16'
  /** V */
  readonly vocabSize: number
  readonly slots: number
  /** Most ids that one row edits: those of a full slot, and the end tokens. */
  readonly mostEdits: number
  /** Most candidates of all rows together; the whole vocabulary of one row is always possible. */
  readonly mostCandidates: number
}

/** Edits of a row are filled up to a power of it, so that a run's shapes are few. */
const EDITS_BASE = 4

/** The sampling graph, bound to logits where they lie, and what it gives. */
export class SamplingRun implements AsyncDisposable {
  readonly #runtime: Runtime
  readonly #vocabSize: number
  readonly #sessions: Sessions
  readonly #tensors: Tensors
  #bindings: Bindings

  private constructor(
    options: SamplingRunOptions,
    parts: { sessions: Sessions; bindings: Bindings; tensors: Tensors },
  ) {
    this.#runtime = options.runtime
    this.#vocabSize = options.vocabSize
    this.#sessions = parts.sessions
    this.#bindings = parts.bindings
    this.#tensors = parts.tensors
  }

  static async open(options: SamplingRunOptions): Promise<SamplingRun> {
    const { runtime, type } = options
    const sessions = {
      plain: await runtime.openSession({ model: buildSamplingGraph(type) }),
      masked: await runtime.openSession({ model: buildSamplingGraph(type, { masked: true }) }),
    }
    const bindings = await createBindings(runtime, sessions)
    return new SamplingRun(options, { sessions, bindings, tensors: await createTensors(options) })
  }

  /**
   * @param logits  [slots, V]
   * @param rows  of `firstLogits` and those behind it.
   * @param candidates  K for each row.
   */
  async bind(
    logits: Views,
    rows: readonly SamplingRow[],
    { firstLogits, candidates }: { readonly firstLogits: number; readonly candidates: number },
  ): Promise<Binding> {
    const { editIds, editAdd, penalty, temperature, count, allowed, values, ids, mass } = this.#tensors
    const R = rows.length
    const V = this.#vocabSize
    const P = editsOf(Math.max(...rows.map((row) => row.edits.size)))
    fillEdits(rows, P, elements(editIds, Int32Array), elements(editAdd, Float32Array))
    elements(penalty, Float32Array).set(rows.map((row) => row.penalty))
    elements(temperature, Float32Array).set(rows.map((row) => row.temperature))
    elements(count, BigInt64Array)[0] = BigInt(candidates)

    // With one masked row all go through that graph: it changes no other, and it is one run all the same.
    const isMasked = rows.some((row) => row.allowed !== undefined)
    const binding = this.#bindings[isMasked ? 'masked' : 'plain']
    if (isMasked) {
      fillAllowed(rows, V, elements(allowed, Uint8Array))
      binding.bindInput('allowed', await allowed.view([R, V]))
    }
    binding.bindInput('logits', await logits.view([R, V], firstLogits * V))
    binding.bindInput('edit_ids', await editIds.view([R, P]))
    binding.bindInput('edit_add', await editAdd.view([R, P]))
    binding.bindInput('penalty', await penalty.view([R, 1]))
    binding.bindInput('temperature', await temperature.view([R, 1]))
    binding.bindInput('k', await count.view([1]))
    binding.bindOutput('values', await values.view([R, candidates]))
    binding.bindOutput('ids', await ids.view([R, candidates]))
    binding.bindOutput('mass', await mass.view([R, 1]))
    return binding
  }

  /** What the last run gave for one of its rows, in memory that the next run reuses. @param candidates  as it was bound. */
  read(row: number, candidates: number): Candidates {
    const [start, end] = [row * candidates, (row + 1) * candidates]
    return {
      values: elements(this.#tensors.values, Float32Array).subarray(start, end),
      ids: elements(this.#tensors.ids, BigInt64Array).subarray(start, end),
      mass: elements(this.#tensors.mass, Float32Array)[row]!,
      vocabSize: this.#vocabSize,
    }
  }

  /** As Runner's. */
  async rebuild(): Promise<void> {
    for (const binding of Object.values(this.#bindings)) await binding[Symbol.asyncDispose]()
    this.#bindings = await createBindings(this.#runtime, this.#sessions)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const binding of Object.values(this.#bindings)) await binding[Symbol.asyncDispose]()
    for (const tensor of Object.values(this.#tensors)) await tensor[Symbol.asyncDispose]()
    for (const session of Object.values(this.#sessions)) await session[Symbol.asyncDispose]()
  }
}

type Sessions = Readonly<Record<'plain' | 'masked', Session>>
type Bindings = Readonly<Record<keyof Sessions, Binding>>
type Tensors = Awaited<ReturnType<typeof createTensors>>

async function createBindings(runtime: Runtime, { plain, masked }: Sessions): Promise<Bindings> {
  return { plain: await runtime.createBinding(plain), masked: await runtime.createBinding(masked) }
}

async function createTensors({ runtime, vocabSize: V, slots, mostEdits, mostCandidates }: SamplingRunOptions) {
  const edits = slots * editsOf(mostEdits)
  const candidates = Math.max(mostCandidates, V)
  const host = async (type: TensorType, size: number) =>
    new Views(await runtime.createTensor({ type, shape: [size], place: 'host' }))
  return {
    editIds: await host('i32', edits),
    editAdd: await host('f32', edits),
    penalty: await host('f32', slots),
    temperature: await host('f32', slots),
    count: await host('i64', 1),
    allowed: await host('bool', slots * V),
    values: await host('f32', candidates),
    ids: await host('i64', candidates),
    mass: await host('f32', slots),
  }
}

/** P for that many edits: a graph's row has at least one. */
function editsOf(count: number): number {
  let size = 1
  while (size < count) size *= EDITS_BASE
  return size
}

/** Rows [R,P]. What a row has too little is filled up with its first edit once more, which then is written twice. */
function fillEdits(rows: readonly SamplingRow[], P: number, ids: Int32Array, adds: Float32Array): void {
  for (const [row, { edits }] of rows.entries()) {
    const [firstId, firstAdd] = edits.entries().next().value ?? [0, 0]
    ids.fill(firstId, row * P, (row + 1) * P)
    adds.fill(firstAdd, row * P, (row + 1) * P)
    let at = row * P
    for (const [id, add] of edits) {
      ids[at] = id
      adds[at++] = add
    }
  }
}

/** Rows [R,V]; one without a mask allows all. */
function fillAllowed(rows: readonly SamplingRow[], V: number, allowed: Uint8Array): void {
  for (const [row, { allowed: mask }] of rows.entries()) {
    if (mask === undefined) allowed.fill(1, row * V, (row + 1) * V)
    else allowed.set(mask, row * V)
  }
}
