import {
  type Attribute,
  type Dimension,
  ELEMENT_BYTES,
  type ElementType,
  type ExternalData,
  encodeModel,
  type Initializer,
  type Node,
  type Value,
} from './proto.js'

export interface NodeOptions {
  /** Names of the outputs; by default one, made up. */
  readonly outputs?: readonly string[]
  /** '' for ONNX's own operators (the default), MICROSOFT for ONNX Runtime's. */
  readonly domain?: string
  readonly attributes?: Readonly<Record<string, Attribute>>
}

export const int = (value: number): Attribute => ({ int: value })
export const float = (value: number): Attribute => ({ float: value })
export const string = (value: string): Attribute => ({ string: value })
export const ints = (values: readonly number[]): Attribute => ({ ints: values })

/**
 * Puts an ONNX graph together, node by node in the order of computation. Every value has one name, given once; a name that
 * is used before it exists, or twice, is a mistake of the caller and throws at that line, not in ONNX Runtime later.
 */
export class GraphBuilder {
  readonly #name: string
  readonly #inputs: Value[] = []
  readonly #outputs: Value[] = []
  readonly #initializers: Initializer[] = []
  readonly #nodes: Node[] = []
  readonly #known = new Set<string>()

  constructor(name: string) {
    this.#name = name
  }

  /** Declares an input of the graph; returns its name. */
  input(name: string, type: ElementType, shape: readonly Dimension[]): string {
    this.#define(name)
    this.#inputs.push({ name, type, shape })
    return name
  }

  /** Declares as an output a value that some node has computed. */
  output(name: string, type: ElementType, shape: readonly Dimension[]): void {
    this.#assertKnown(name, 'output')
    this.#outputs.push({ name, type, shape })
  }

  /**
   * A weight: its bytes (little-endian, row-major), or where they lie in a file beside the model.
   * @throws {RangeError} the bytes are not what type and shape need.
   */
  initializer(name: string, type: ElementType, shape: readonly number[], data: Uint8Array | ExternalData): string {
    const wanted = shape.reduce((product, size) => product * size, ELEMENT_BYTES[type])
    const found = data instanceof Uint8Array ? data.byteLength : data.length
    if (found !== wanted) {
      throw new RangeError(`initializer ${name} ${type}[${shape.join(',')}] needs ${wanted} bytes, got ${found}`)
    }
    this.#define(name)
    this.#initializers.push({ name, type, shape, data })
    return name
  }

  /** A small i64 constant, such as a shape or an axis; `shape` is [n] by default, [] makes a scalar. */
  integers(name: string, values: readonly number[], shape: readonly number[] = [values.length]): string {
    const data = new BigInt64Array(values.map((value) => BigInt(value)))
    return this.initializer(name, 'i64', shape, new Uint8Array(data.buffer))
  }

  /**
   * Adds a node; returns the name of its first output.
   * @param inputs  names known already; '' leaves an optional input out.
   */
  node(operator: string, inputs: readonly string[], options: NodeOptions = {}): string {
    for (const input of inputs) if (input !== '') this.#assertKnown(input, operator)
    const name = `${operator}_${this.#nodes.length}`
    const outputs = options.outputs ?? [`${name}_out`]
    for (const output of outputs) if (output !== '') this.#define(output)
    this.#nodes.push({
      name,
      operator,
      domain: options.domain ?? '',
      inputs,
      outputs,
      attributes: options.attributes ?? {},
    })
    return outputs[0] ?? ''
  }

  /** The bytes of the .onnx file. */
  encode(): Uint8Array {
    return encodeModel({
      name: this.#name,
      inputs: this.#inputs,
      outputs: this.#outputs,
      initializers: this.#initializers,
      nodes: this.#nodes,
    })
  }

  #define(name: string): void {
    if (this.#known.has(name)) throw new RangeError(`the name ${name} is taken in graph ${this.#name}`)
    this.#known.add(name)
  }

  #assertKnown(name: string, user: string): void {
    if (!this.#known.has(name))
      throw new RangeError(`${user} wants ${name}, which graph ${this.#name} does not have yet`)
  }
}
