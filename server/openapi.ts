import { isDeepStrictEqual } from 'node:util'
import { z } from 'zod'
import { COG_RELEASE } from './cog-release.js'
import type { JsonSchema, OpenApiDocument } from './messages.js'
import { isOutputStream, type OutputType, type Predictor } from './predictor.js'

/**
 * Writes the OpenAPI document that Cog's own generator would write for the same model.
 *
 * @throws {TypeError} an input or the output has a type that JSON Schema or Cog cannot express; the message names it.
 * Source: Cog 0.23's generated documents (components, titles, `x-order`, choices behind `allOf`, `nullable`).
 */
export function openApiDocument(
  predictor: Pick<Predictor, 'input' | 'output' | 'streaming' | 'train'>,
): OpenApiDocument {
  const { input, output, streaming, train } = predictor
  const prediction = operationSchemas(PREDICTION, { input, output })
  const training = train && operationSchemas(TRAINING, { ...train, others: prediction })
  return {
    components: { schemas: { ...prediction, ...training, ...FIXED_SCHEMAS } },
    info: { title: 'Cog', version: COG_RELEASE.python_sdk },
    openapi: '3.0.2',
    paths: {
      ...FIXED_PATHS,
      ...operationPaths(PREDICTION, streaming),
      ...(train && operationPaths(TRAINING, false)),
    },
  }
}

/** What a model does, in the words that Cog's document has for it. */
interface Operation {
  readonly noun: 'prediction' | 'training'
  readonly verb: 'predict' | 'train'
  readonly inputName: 'Input' | 'TrainingInput'
  readonly outputName: 'Output' | 'TrainingOutput'
}

const PREDICTION: Operation = { noun: 'prediction', verb: 'predict', inputName: 'Input', outputName: 'Output' }
const TRAINING: Operation = {
  noun: 'training',
  verb: 'train',
  inputName: 'TrainingInput',
  outputName: 'TrainingOutput',
}

/** @param others components that are there already. */
function operationSchemas(
  { noun, inputName, outputName }: Operation,
  { input, output, others = {} }: { input: z.ZodObject; output: OutputType; others?: Record<string, JsonSchema> },
): Record<string, JsonSchema> {
  const { schema, choices } = inputSchemas(input, { title: inputName, others })
  const title = titleOf(noun)
  const refs = {
    input: { $ref: `#/components/schemas/${inputName}` },
    output: { $ref: `#/components/schemas/${outputName}` },
  }
  return {
    [inputName]: schema,
    [outputName]: outputSchema(output),
    ...choices,
    [`${title}Request`]: {
      properties: { id: { title: 'Id', type: 'string' }, input: refs.input },
      title: `${title}Request`,
      type: 'object',
    },
    [`${title}Response`]: {
      properties: {
        completed_at: { format: 'date-time', title: 'Completed At', type: 'string' },
        created_at: { format: 'date-time', title: 'Created At', type: 'string' },
        error: { title: 'Error', type: 'string' },
        id: { title: 'Id', type: 'string' },
        logs: { title: 'Logs', type: 'string' },
        metrics: { title: 'Metrics', type: 'object' },
        started_at: { format: 'date-time', title: 'Started At', type: 'string' },
        status: { title: 'Status', type: 'string' },
        version: { title: 'Version', type: 'string' },
        ...refs,
      },
      title: `${title}Response`,
      type: 'object',
    },
  }
}

function inputSchemas(
  shape: z.ZodObject,
  { title, others }: { readonly title: string; readonly others: Readonly<Record<string, JsonSchema>> },
): { schema: JsonSchema; choices: Record<string, JsonSchema> } {
  const raw = toJsonSchema(shape, 'input')
  const required = new Set(raw.required ?? [])
  const properties: Record<string, JsonSchema> = {}
  const choices: Record<string, JsonSchema> = {}
  for (const [order, [name, property]] of Object.entries(raw.properties ?? {}).entries()) {
    const { enum: values, type, ...rest } = asCogWrites(property)
    if (values === undefined) {
      properties[name] = { ...(type && { type }), ...rest, title: titleOf(name), 'x-order': order }
    } else {
      // As Cog does: an input with choices is a reference to a component of its name, without type and title.
      const choice = { description: 'An enumeration.', enum: values, title: name, type: choiceType(values) }
      // Cog has one component for both where a training's input is named as a prediction's: then one of them is wrong.
      const component = isDeepStrictEqual(others[name] ?? choice, choice) ? name : `${title}_${name}`
      choices[component] = choice
      properties[name] = { ...rest, allOf: [{ $ref: `#/components/schemas/${component}` }], 'x-order': order }
    }
    // Optional in zod may mean "absent" only; Cog's Optional means null by default.
    if (!required.has(name) && property.default === undefined) {
      const { anyOf } = properties[name]!
      properties[name] = {
        ...properties[name],
        ...(anyOf && { anyOf: anyOf.map((variant) => ({ ...variant, nullable: true })) }),
        default: null,
        nullable: true,
      }
    }
  }
  return {
    schema: { properties, ...(required.size > 0 && { required: [...required] }), title, type: 'object' },
    choices,
  }
}

/** Titled `Output` in both operations, as by Cog. */
function outputSchema(output: OutputType): JsonSchema {
  if (!isOutputStream(output)) return { ...outputValue(output), title: 'Output' }
  return {
    items: outputValue(output.item),
    title: 'Output',
    type: 'array',
    ...(output.display && { 'x-cog-array-display': output.display }),
    'x-cog-array-type': 'iterator',
  }
}

function outputValue(schema: z.ZodType): JsonSchema {
  return asOutput(asCogWrites(toJsonSchema(schema, 'output')))
}

/** In outputs Cog gives the fields of an object a title, and tells no defaults: a field that has one may be left out. */
function asOutput({ items, properties, required, default: _default, ...rest }: JsonSchema): JsonSchema {
  const fields = Object.entries(properties ?? {})
  const always = required?.filter((name) => !('default' in properties![name]!))
  return {
    ...rest,
    ...(items && { items: asOutput(items) }),
    ...(properties && {
      properties: Object.fromEntries(
        fields.map(([name, field]) => [name, { ...asOutput(field), title: titleOf(name) }] as const),
      ),
    }),
    ...(always && always.length > 0 && { required: always }),
  }
}

function toJsonSchema(schema: z.ZodType, io: 'input' | 'output'): JsonSchema {
  try {
    return z.toJSONSchema(schema, { target: 'openapi-3.0', io }) as JsonSchema
  } catch (cause) {
    throw new TypeError(`The Predictor's ${io} cannot be described in openapi.json: ${String(cause)}`, { cause })
  }
}

/**
 * What zod writes → what Cog would. zod bounds each integer by what a double holds exactly, where Cog writes only the
 * bounds that the author set; it says of objects whether they may have more fields, where Cog says so only with a type; and
 * of `unknown` nothing, where Cog says of `Any` that it is an object.
 */
function asCogWrites(schema: JsonSchema): JsonSchema {
  const { minimum, maximum, items, anyOf, properties, additionalProperties, ...rest } = schema
  const fields = Object.entries(properties ?? {})
  const more = typeof additionalProperties === 'object' ? (additionalProperties as JsonSchema) : {}
  return {
    ...(!RESTRICTIONS.some((keyword) => keyword in schema) && { type: 'object' as const }),
    ...rest,
    ...(minimum !== undefined && minimum !== Number.MIN_SAFE_INTEGER && { minimum }),
    ...(maximum !== undefined && maximum !== Number.MAX_SAFE_INTEGER && { maximum }),
    ...(items && { items: asCogWrites(items) }),
    ...(anyOf && { anyOf: anyOf.map(asCogWrites) }),
    ...(fields.length > 0 && {
      properties: Object.fromEntries(fields.map(([name, field]) => [name, asCogWrites(field)] as const)),
    }),
    ...(Object.keys(more).length > 0 && { additionalProperties: asCogWrites(more) }),
  }
}

const RESTRICTIONS = ['type', 'enum', 'anyOf', 'allOf', 'oneOf', 'not', '$ref']

function choiceType(values: readonly unknown[]): 'string' | 'integer' | 'number' {
  if (values.every((value) => typeof value === 'string')) return 'string'
  return values.every(Number.isInteger) ? 'integer' : 'number'
}

/** `max_new_tokens` → `Max New Tokens`. */
function titleOf(name: string): string {
  return name
    .split('_')
    .map((word) => word.charAt(0).toUpperCase() + word.slice(1))
    .join(' ')
}

const FIXED_SCHEMAS: Readonly<Record<string, JsonSchema>> = {
  Status: {
    description: 'An enumeration.',
    enum: ['starting', 'processing', 'succeeded', 'canceled', 'failed'],
    title: 'Status',
    type: 'string',
  },
  HTTPValidationError: {
    properties: { detail: { items: { $ref: '#/components/schemas/ValidationError' }, title: 'Detail', type: 'array' } },
    title: 'HTTPValidationError',
    type: 'object',
  },
  ValidationError: {
    properties: {
      loc: { items: { anyOf: [{ type: 'string' }, { type: 'integer' }] }, title: 'Location', type: 'array' },
      msg: { title: 'Message', type: 'string' },
      type: { title: 'Error Type', type: 'string' },
    },
    required: ['loc', 'msg', 'type'],
    title: 'ValidationError',
    type: 'object',
  },
}

const answer = (description: string, schema: JsonSchema) => ({
  content: { 'application/json': { schema } },
  description,
})
const ok = answer('Successful Response', {})
const invalid = answer('Validation Error', { $ref: '#/components/schemas/HTTPValidationError' })

/** Cog names these and two for each operation: nothing for PUT, /openapi.json and /shutdown. */
const FIXED_PATHS = {
  '/': { get: { operationId: 'root__get', responses: { 200: ok }, summary: 'Root' } },
  '/health-check': {
    get: { operationId: 'healthcheck_health_check_get', responses: { 200: ok }, summary: 'Healthcheck' },
  },
}

function operationPaths({ noun, verb }: Operation, streaming: boolean): Record<string, unknown> {
  const [path, title] = [`${noun}s`, titleOf(noun)]
  return {
    [`/${path}`]: {
      post: {
        description: `Run a single ${noun} on the model`,
        operationId: `${verb}_${path}_post`,
        requestBody: {
          content: { 'application/json': { schema: { $ref: `#/components/schemas/${title}Request` } } },
        },
        responses: {
          200: answer('Successful Response', { $ref: `#/components/schemas/${title}Response` }),
          422: invalid,
        },
        summary: titleOf(verb),
        ...(streaming && { 'x-cog-streaming': true }),
      },
    },
    [`/${path}/{${noun}_id}/cancel`]: {
      post: {
        operationId: `cancel_${path}__${noun}_id__cancel_post`,
        parameters: [
          {
            in: 'path',
            name: `${noun}_id`,
            required: true,
            schema: { title: `${title} Id`, type: 'string' },
          },
        ],
        responses: { 200: ok, 422: invalid },
        summary: 'Cancel',
      },
    },
  }
}
