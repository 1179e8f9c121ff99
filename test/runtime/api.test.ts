import { readFileSync } from 'node:fs'
import t from 'tap'
import { SIGNATURES } from '../../model/runtime/api.js'
import { runChild } from './fork.js'

interface Declaration {
  readonly index: number
  readonly name: string
  readonly declaration: string
}

/** What each of our C types may stand for in the header. */
const C_SPELLINGS = {
  int: /^(int|OrtLoggingLevel|ExecutionMode|GraphOptimizationLevel|ONNXTensorElementDataType|enum \w+)$/,
  size: /^size_t$/,
  string: /^const char\*$/,
  path: /^const ORTCHAR_T\*$/,
  strings: /^const char\* const\*$/,
  pointer: /^(const )?(Ort\w+|void)\*$/,
  int64s: /^(const )?int64_t\*$/,
  'pointer out': /^(const )?(Ort\w+|char|void)\*\*$/,
  'size out': /^size_t\*$/,
  'int out': /^enum \w+\*$/,
} as const

const RESULTS = { 'OrtStatus*': 'status', void: 'void', OrtErrorCode: 'int', 'const char*': 'string' } as const

/** "OrtStatus* GetDimensionsCount(const OrtTensorTypeAndShapeInfo* info, size_t* out)" in its parts. */
function parse(declaration: string) {
  const [, result, list] = /^(.*?) \w+\((.*)\)$/.exec(declaration)!
  const parameters = list === 'void' ? [] : list!.split(', ').map((text) => /^(.*?) ?(\w+)$/.exec(text)!.slice(1, 3))
  return { result: result as keyof typeof RESULTS, parameters: parameters as [type: string, name: string][] }
}

t.test('every signature is that of the C header: position, names, order and widths', async (t) => {
  const file = new URL('./fixtures/ort-api.1.30.json', import.meta.url)
  const header = new Map(
    (JSON.parse(readFileSync(file, 'utf8')) as Declaration[]).map((declaration) => [declaration.name, declaration]),
  )
  t.same(Object.keys(SIGNATURES).sort(), [...header.keys()].sort())
  for (const [name, signature] of Object.entries(SIGNATURES)) {
    const { index, declaration } = header.get(name)!
    const { result, parameters } = parse(declaration)
    t.equal(signature.index, index, `${name} is entry ${index}`)
    t.equal(signature.returns, RESULTS[result], `${name} returns ${result}`)
    t.same(
      signature.parameters.map(([parameter]) => parameter),
      parameters.map(([, parameter]) => parameter),
      `${name}'s parameters`,
    )
    for (const [position, [parameter, type]] of signature.parameters.entries()) {
      t.match(parameters[position]![0], C_SPELLINGS[type], `${name}: ${parameter} is ${type}`)
    }
  }
})

t.test('every function can be called by its name, and what C refuses comes back as an error', async (t) => {
  const { message, code, signal, stderr } = await runChild('every-function', [t.testdir()])
  t.same({ code, signal, stderr }, { code: 0, signal: null, stderr: '' })
  const { called, declared } = message as { called: string[]; declared: string[] }
  t.same(called, declared)
})
