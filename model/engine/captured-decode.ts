import { GraphBuilder } from '../onnx/graph.js'
import type { Binding, Runtime, Session, Tensor } from '../runtime/types.js'
import type { KVCache } from './kv-cache.js'
import { Views } from './views.js'

/** What was captured does not do what it was captured from. */
export class CaptureError extends Error {
  override readonly name = 'CaptureError'
}

/** Arguments as those of `CapturedDecode.bind`. */
type RunStep = (ids: readonly number[], lengths: readonly number[]) => Promise<readonly number[]>

export interface CapturedDecodeOptions {
  readonly runtime: Runtime
  /** The model, opened with `capture`. */
  readonly model: Session
  readonly cache: KVCache
  readonly slots: number
  /** T */
  readonly slotTokens: number
  readonly vocabSize: number
  /** A [slots, V], on the device. */
  readonly logits: Views
}

/**
 * Decode steps as CUDA graphs: one for each of a few batch sizes, captured once and replayed from then on. A step of the
 * model is some 200 kernels, and a GPU is through with each sooner than the CPU has launched the next.
 *
 * A replay repeats addresses and host values. So the rows are always 0 … B − 1, idle ones among them; ids and positions lie
 * on the device, where a graph of two copies puts them before each step; all B rows get logits; and the total length, which
 * the attention takes from the host, is that of a full slot.
 * Source: ONNX Runtime's page on its CUDA provider ("Using CUDA Graphs"); docs/runtime.md says what was checked.
 */
export class CapturedDecode implements AsyncDisposable {
  /** B of each graph, rising; the last is all slots. */
  readonly batchSizes: readonly number[]
  readonly #hostIds: Views
  readonly #hostPositions: Views
  readonly #staging: Session
  readonly #bindings: ReadonlyMap<number, readonly [staging: Binding, decode: Binding]>
  readonly #owned: readonly AsyncDisposable[]

  private constructor(parts: {
    hostIds: Views
    hostPositions: Views
    staging: Session
    bindings: ReadonlyMap<number, readonly [Binding, Binding]>
    owned: readonly AsyncDisposable[]
  }) {
    this.batchSizes = [...parts.bindings.keys()]
    this.#hostIds = parts.hostIds
    this.#hostPositions = parts.hostPositions
    this.#staging = parts.staging
    this.#bindings = parts.bindings
    this.#owned = parts.owned
  }

  /** Binds what is to be captured; the first runs of each size capture it. @throws {OrtError} */
  static async open(options: CapturedDecodeOptions): Promise<CapturedDecode> {
    const { runtime, model, cache, slots, slotTokens, vocabSize, logits } = options
    const tensor = async (type: 'i64' | 'i32', place: 'host' | 'device') =>
      new Views(await runtime.createTensor({ type, shape: [slots], place }))
    const hostIds = await tensor('i64', 'host')
    const hostPositions = await tensor('i32', 'host')
    const ids = await tensor('i64', 'device')
    const positions = await tensor('i32', 'device')
    const rows = await tensor('i64', 'device')
    const totalLength = await runtime.createTensor({ type: 'i32', shape: [], place: 'host' })
    new Int32Array(totalLength.bytes.buffer, totalLength.bytes.byteOffset, 1)[0] = slotTokens

    const staging = await runtime.openSession({ model: stagingGraph() })
    await fillRows(runtime, staging, { hostIds, rows, hostPositions, positions, slots })
    const bindings = new Map<number, readonly [Binding, Binding]>()
    for (const size of capturedSizes(slots)) {
      const copies = await runtime.createBinding(staging)
      copies.bindInput('host_ids', await hostIds.view([size]))
      copies.bindInput('host_positions', await hostPositions.view([size]))
      copies.bindOutput('ids', await ids.view([size]))
      copies.bindOutput('positions', await positions.view([size]))

      const decode = await runtime.createBinding(model, { graph: size })
      for (const [name, layer] of await cache.window(0, size)) {
        decode.bindInput(`past_key_values.${name}`, layer)
        decode.bindOutput(`present.${name}`, layer)
      }
      decode.bindInput('input_ids', await ids.view([size, 1]))
      decode.bindInput('seqlens_k', await positions.view([size]))
      decode.bindInput('logit_rows', await rows.view([size]))
      decode.bindInput('total_sequence_length', totalLength)
      decode.bindOutput('logits', await logits.view([size, vocabSize]))
      bindings.set(size, [copies, decode])
    }
    const owned = [hostIds, hostPositions, ids, positions, rows, totalLength]
    return new CapturedDecode({ hostIds, hostPositions, staging, bindings, owned })
  }

  /**
   * What to run for one more token of rows 0 … B − 1, whose logits then lie in as many rows.
   *
   * @param ids  one for each row; B is one of `batchSizes`
   * @param lengths  tokens of each row that the cache holds before
   */
  bind(ids: readonly number[], lengths: readonly number[]): readonly Binding[] {
    const bindings = this.#bindings.get(ids.length)
    if (bindings === undefined)
      throw new RangeError(`No graph has ${ids.length} rows, but ${this.batchSizes.join(', ')}.`)
    int64s(this.#hostIds.tensor).set(ids.map((id) => BigInt(id)))
    int32s(this.#hostPositions.tensor).set(lengths)
    return bindings
  }

  /**
   * Runs two steps plainly and as replays, for each batch size, and compares what they give. The two differ in every id and
   * every length, so that a graph which kept the values of its capture shows.
   *
   * @param run  each runs a step of B rows, and gives numbers of every row's logits.
   * @throws {CaptureError} they differ.
   */
  async prove(run: { plain: RunStep; replayed: RunStep }): Promise<void> {
    for (const size of this.batchSizes) {
      const steps = [0, 1].map((step) => {
        const rows = Array.from({ length: size }, (_, row) => row)
        return { ids: rows.map((row) => step * size + row), lengths: rows.map((row) => step + (row % 2)) }
      })
      const plain: (readonly number[])[] = []
      for (const { ids, lengths } of steps) plain.push(await run.plain(ids, lengths))
      // The first of these are captured, the last ones are replays.
      for (const index of [0, 0, 0, 0, 1, 0]) {
        const { ids, lengths } = steps[index]!
        const replayed = await run.replayed(ids, lengths)
        if (!isClose(replayed, plain[index]!)) {
          const [here, there] = [replayed[0], plain[index]![0]]
          throw new CaptureError(
            `a captured step of ${size} rows gives ${here} as its best logit, and plainly ${there}.`,
          )
        }
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const binding of [...this.#bindings.values()].flat()) await binding[Symbol.asyncDispose]()
    for (const owned of this.#owned) await owned[Symbol.asyncDispose]()
    await this.#staging[Symbol.asyncDispose]()
  }
}

/** Of half-precision sums: another order of adding moves them by less. */
const TOLERANCE = 0.01

function isClose(values: readonly number[], others: readonly number[]): boolean {
  return values.every((value, index) => Math.abs(value - others[index]!) <= TOLERANCE * Math.abs(others[index]!))
}

/** B of each graph. Powers of two, and all slots: a step computes less than twice the rows that it needs, with few graphs. */
export function capturedSizes(slots: number): number[] {
  const sizes: number[] = []
  for (let size = 1; size < slots; size *= 2) sizes.push(size)
  return [...sizes, slots]
}

/** Writes 0 … slots − 1 to the device: each row's logits are its only ones. */
async function fillRows(
  runtime: Runtime,
  staging: Session,
  {
    hostIds,
    rows,
    hostPositions,
    positions,
    slots,
  }: Record<'hostIds' | 'rows' | 'hostPositions' | 'positions', Views> & {
    slots: number
  },
): Promise<void> {
  int64s(hostIds.tensor).set(Array.from({ length: slots }, (_, row) => BigInt(row)))
  await using binding = await runtime.createBinding(staging)
  binding.bindInput('host_ids', hostIds.tensor)
  binding.bindOutput('ids', rows.tensor)
  binding.bindInput('host_positions', hostPositions.tensor)
  binding.bindOutput('positions', positions.tensor)
  await runtime.run([binding])
}

/** Two copies: what is bound on the host goes to what is bound on the device. i64 [B] and i32 [B]. */
function stagingGraph(): Uint8Array {
  const graph = new GraphBuilder('staging')
  for (const [name, type] of [
    ['ids', 'i64'],
    ['positions', 'i32'],
  ] as const) {
    graph.node('Identity', [graph.input(`host_${name}`, type, ['rows'])], { outputs: [name] })
    graph.output(name, type, ['rows'])
  }
  return graph.encode()
}

function int64s({ bytes }: Tensor): BigInt64Array {
  return new BigInt64Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / BigInt64Array.BYTES_PER_ELEMENT)
}

function int32s({ bytes }: Tensor): Int32Array {
  return new Int32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / Int32Array.BYTES_PER_ELEMENT)
}
