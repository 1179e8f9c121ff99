import fc from 'fast-check'
import t from 'tap'
import { float, GraphBuilder, int, ints, string } from '../../model/onnx/graph.js'
import { ELEMENT_BYTES, ELEMENT_TYPES, type ElementType, MICROSOFT, ModelProto } from '../../model/onnx/proto.js'

/** What a reader of the file sees: numbers for 64-bit fields, and nothing for '' and 0, which proto3 does not write. */
function decode(bytes: Uint8Array) {
  return ModelProto.toObject(ModelProto.decode(bytes), { longs: Number })
}

t.test('a graph reads back as it was built', async (t) => {
  const graph = new GraphBuilder('sum')
  graph.input('a', 'f32', ['rows', 2])
  const b = graph.initializer('b', 'f32', [2], new Uint8Array(new Float32Array([1, 2]).buffer))
  const axes = graph.integers('axes', [-1])
  const sum = graph.node('Add', ['a', b])
  const [first] = ['parts.0', 'parts.2']
  graph.node('Odd', [sum, '', axes], {
    domain: MICROSOFT,
    outputs: ['parts.0', '', 'parts.2'],
    attributes: { axis: int(-1), epsilon: float(0.5), mode: string('tanh'), sizes: ints([3, 4]) },
  })
  graph.output(first!, 'f32', ['rows', 2])

  t.same(decode(graph.encode()), {
    ir_version: 10,
    producer_name: 'bezel',
    opset_import: [{ version: 20 }, { domain: 'com.microsoft', version: 1 }],
    graph: {
      name: 'sum',
      node: [
        { name: 'Add_0', op_type: 'Add', input: ['a', 'b'], output: ['Add_0_out'] },
        {
          name: 'Odd_1',
          op_type: 'Odd',
          domain: 'com.microsoft',
          input: ['Add_0_out', '', 'axes'],
          output: ['parts.0', '', 'parts.2'],
          attribute: [
            { name: 'axis', type: 2, i: -1 },
            { name: 'epsilon', type: 1, f: 0.5 },
            { name: 'mode', type: 3, s: Buffer.from('tanh') },
            { name: 'sizes', type: 7, ints: [3, 4] },
          ],
        },
      ],
      initializer: [
        { name: 'b', data_type: 1, dims: [2], raw_data: Buffer.from(new Float32Array([1, 2]).buffer) },
        { name: 'axes', data_type: 7, dims: [1], raw_data: Buffer.from(new BigInt64Array([-1n]).buffer) },
      ],
      input: [
        {
          name: 'a',
          type: { tensor_type: { elem_type: 1, shape: { dim: [{ dim_param: 'rows' }, { dim_value: 2 }] } } },
        },
      ],
      output: [
        {
          name: 'parts.0',
          type: { tensor_type: { elem_type: 1, shape: { dim: [{ dim_param: 'rows' }, { dim_value: 2 }] } } },
        },
      ],
    },
  })
})

t.test('a scalar has a shape without dimensions, not no shape', async (t) => {
  const graph = new GraphBuilder('g')
  graph.input('total', 'i32', [])
  const [input] = decode(graph.encode()).graph.input
  t.same(input.type, { tensor_type: { elem_type: 6, shape: {} } })
})

t.test('external data are named with file, offset and length', async (t) => {
  const graph = new GraphBuilder('g')
  graph.initializer('w', 'f16', [2, 3], { location: 'weights.bin', offset: 3 * 2 ** 31, length: 12 })
  const [tensor] = decode(graph.encode()).graph.initializer
  t.same(tensor, {
    name: 'w',
    data_type: 10,
    dims: [2, 3],
    data_location: 1,
    external_data: [
      { key: 'location', value: 'weights.bin' },
      { key: 'offset', value: '6442450944' },
      { key: 'length', value: '12' },
    ],
  })
})

t.test('any tensor of any type round-trips', async () => {
  const types = Object.keys(ELEMENT_TYPES) as ElementType[]
  const tensors = fc
    .tuple(fc.constantFrom(...types), fc.array(fc.integer({ min: 0, max: 5 }), { maxLength: 4 }), fc.string())
    .chain(([type, shape, name]) => {
      const length = shape.reduce((product, size) => product * size, ELEMENT_BYTES[type])
      return fc.record({
        type: fc.constant(type),
        shape: fc.constant(shape),
        name: fc.constant(`n${name}`),
        data: fc.uint8Array({ minLength: length, maxLength: length }),
      })
    })
  fc.assert(
    fc.property(tensors, ({ type, shape, name, data }) => {
      const graph = new GraphBuilder('g')
      graph.initializer(name, type, shape, data)
      const [tensor] = decode(graph.encode()).graph.initializer
      return (
        tensor.name === name &&
        tensor.data_type === ELEMENT_TYPES[type] &&
        (tensor.dims ?? []).join() === shape.join() &&
        Buffer.compare(tensor.raw_data ?? Buffer.alloc(0), data) === 0
      )
    }),
  )
})

t.test('mistakes show where the graph is built', async (t) => {
  const graph = new GraphBuilder('g')
  graph.input('a', 'f32', [1])
  t.throws(() => graph.node('Add', ['a', 'b']), { message: 'Add wants b, which graph g does not have yet' })
  t.throws(() => graph.output('c', 'f32', [1]), { message: 'output wants c, which graph g does not have yet' })
  t.throws(() => graph.input('a', 'f32', [1]), { message: 'the name a is taken in graph g' })
  t.throws(() => graph.node('Relu', ['a'], { outputs: ['a'] }), { message: 'the name a is taken in graph g' })
  t.throws(() => graph.initializer('w', 'f32', [2, 2], new Uint8Array(15)), {
    message: 'initializer w f32[2,2] needs 16 bytes, got 15',
  })
})
