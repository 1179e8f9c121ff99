import protobuf from 'protobufjs'
import { ONNX_PROTO } from './schema.js'

/** Element types by the names that we use, with their numbers in TensorProto.DataType. */
export const ELEMENT_TYPES = { f32: 1, u8: 2, i8: 3, i32: 6, i64: 7, bool: 9, f16: 10, bf16: 16 } as const

export type ElementType = keyof typeof ELEMENT_TYPES

/** Bytes of one element. */
export const ELEMENT_BYTES: Readonly<Record<ElementType, number>> = {
  f32: 4,
  u8: 1,
  i8: 1,
  i32: 4,
  i64: 8,
  bool: 1,
  f16: 2,
  bf16: 2,
}

/** A dimension: a size, or the name of one that is known at run time only. */
export type Dimension = number | string

export interface Value {
  readonly name: string
  readonly type: ElementType
  readonly shape: readonly Dimension[]
}

/** Where a tensor's bytes lie beside the model. `offset` is a multiple of 4096, so that ONNX Runtime can map it. */
export interface ExternalData {
  /** File name in the model's own folder. */
  readonly location: string
  readonly offset: number
  readonly length: number
}

export interface Initializer {
  readonly name: string
  readonly type: ElementType
  readonly shape: readonly number[]
  readonly data: Uint8Array | ExternalData
}

export type Attribute =
  | { readonly int: number }
  | { readonly float: number }
  | { readonly string: string }
  | { readonly ints: readonly number[] }

export interface Node {
  readonly name: string
  readonly operator: string
  readonly domain: string
  /** '' stands for an optional input that is not given. */
  readonly inputs: readonly string[]
  /** '' stands for an optional output that nobody wants. */
  readonly outputs: readonly string[]
  readonly attributes: Readonly<Record<string, Attribute>>
}

export interface Model {
  readonly name: string
  readonly inputs: readonly Value[]
  readonly outputs: readonly Value[]
  readonly initializers: readonly Initializer[]
  readonly nodes: readonly Node[]
}

/** The newest that ONNX Runtime 1.30 and onnxruntime-genai 0.17 both take; Gelu comes with opset 20. */
const IR_VERSION = 10
const OPSET = 20
/** The domain of ONNX Runtime's own operators (MatMulNBits, GroupQueryAttention …). */
export const MICROSOFT = 'com.microsoft'

/** The message type of a whole model file. Read with keepCase: field names are those of onnx.proto3. */
export const ModelProto: protobuf.Type = protobuf
  .parse(ONNX_PROTO, { keepCase: true })
  .root.lookupType('onnx.ModelProto')

/** The bytes of a .onnx file. Its external data are written by whoever owns them. */
export function encodeModel(model: Model): Uint8Array {
  const message = {
    ir_version: IR_VERSION,
    producer_name: 'bezel',
    opset_import: [
      { domain: '', version: OPSET },
      { domain: MICROSOFT, version: 1 },
    ],
    graph: {
      name: model.name,
      node: model.nodes.map(nodeProto),
      initializer: model.initializers.map(tensorProto),
      input: model.inputs.map(valueProto),
      output: model.outputs.map(valueProto),
    },
  }
  return ModelProto.encode(message).finish()
}

function nodeProto(node: Node): object {
  return {
    name: node.name,
    op_type: node.operator,
    domain: node.domain,
    input: node.inputs,
    output: node.outputs,
    attribute: Object.entries(node.attributes).map(([name, value]) => attributeProto(name, value)),
  }
}

/** Types as in AttributeProto.AttributeType: FLOAT 1, INT 2, STRING 3, INTS 7. */
function attributeProto(name: string, value: Attribute): object {
  if ('int' in value) return { name, type: 2, i: value.int }
  if ('float' in value) return { name, type: 1, f: value.float }
  if ('string' in value) return { name, type: 3, s: new TextEncoder().encode(value.string) }
  return { name, type: 7, ints: value.ints }
}

function tensorProto(tensor: Initializer): object {
  const head = { name: tensor.name, data_type: ELEMENT_TYPES[tensor.type], dims: tensor.shape }
  if (tensor.data instanceof Uint8Array) return { ...head, raw_data: tensor.data }
  const { location, offset, length } = tensor.data
  const entries = Object.entries({ location, offset, length })
  return {
    ...head,
    data_location: 1,
    external_data: entries.map(([key, value]) => ({ key, value: String(value) })),
  }
}

function valueProto(value: Value): object {
  const dim = value.shape.map((d) => (typeof d === 'number' ? { dim_value: d } : { dim_param: d }))
  return { name: value.name, type: { tensor_type: { elem_type: ELEMENT_TYPES[value.type], shape: { dim } } } }
}
