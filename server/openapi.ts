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
export function openApiDocument(predictor: Pick<Predictor, 'input' | 'output' | 'streaming'>): OpenApiDocument {
  const { input, choices } = inputSchemas(predictor.input)
  return {
    components: {
      schemas: { Input: input, Output: outputSchema(predictor.output), ...choices, ...FIXED_SCHEMAS },
    },
    info: { title: 'Cog', version: COG_RELEASE.python_sdk },
    openapi: '3.0.2',
    paths: paths(predictor.streaming),
  }
}

function inputSchemas(shape: z.ZodObject): { input: JsonSchema; choices: Record<string, JsonSchema> } {
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
      choices[name] = { description: 'An enumeration.', enum: values, title: name, type: choiceType(values) }
      properties[name] = { ...rest, allOf: [{ $ref: `#/components/schemas/${name}` }], 'x-order': order }
    }
    // Optional in zod may mean "absent" only; Cog's Optional means null by default.
    if (!required.has(name) && property.default === undefined) {
      properties[name] = { ...properties[name], default: null, nullable: true }
    }
  }
  return {
    input: { properties, ...(required.size > 0 && { required: [...required] }), title: 'Input', type: 'object' },
    choices,
  }
}

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
 * bounds that the author set; and it says of objects whether they may have more fields, where Cog says so only with a type.
 */
function asCogWrites(schema: JsonSchema): JsonSchema {
  const { minimum, maximum, items, anyOf, properties, additionalProperties, ...rest } = schema
  const fields = Object.entries(properties ?? {})
  const more = typeof additionalProperties === 'object' ? (additionalProperties as JsonSchema) : {}
  return {
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
  PredictionRequest: {
    properties: { id: { title: 'Id', type: 'string' }, input: { $ref: '#/components/schemas/Input' } },
    title: 'PredictionRequest',
    type: 'object',
  },
  PredictionResponse: {
    properties: {
      completed_at: { format: 'date-time', title: 'Completed At', type: 'string' },
      created_at: { format: 'date-time', title: 'Created At', type: 'string' },
      error: { title: 'Error', type: 'string' },
      id: { title: 'Id', type: 'string' },
      input: { $ref: '#/components/schemas/Input' },
      logs: { title: 'Logs', type: 'string' },
      metrics: { title: 'Metrics', type: 'object' },
      output: { $ref: '#/components/schemas/Output' },
      started_at: { format: 'date-time', title: 'Started At', type: 'string' },
      status: { title: 'Status', type: 'string' },
      version: { title: 'Version', type: 'string' },
    },
    title: 'PredictionResponse',
    type: 'object',
  },
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

/** Cog names these four only: nothing for PUT, /openapi.json and /shutdown. */
function paths(streaming: boolean): Record<string, unknown> {
  const answer = (description: string, schema: JsonSchema) => ({
    content: { 'application/json': { schema } },
    description,
  })
  const ok = answer('Successful Response', {})
  const invalid = answer('Validation Error', { $ref: '#/components/schemas/HTTPValidationError' })
  return {
    '/': { get: { operationId: 'root__get', responses: { 200: ok }, summary: 'Root' } },
    '/health-check': {
      get: { operationId: 'healthcheck_health_check_get', responses: { 200: ok }, summary: 'Healthcheck' },
    },
    '/predictions': {
      post: {
        description: 'Run a single prediction on the model',
        operationId: 'predict_predictions_post',
        requestBody: {
          content: { 'application/json': { schema: { $ref: '#/components/schemas/PredictionRequest' } } },
        },
        responses: {
          200: answer('Successful Response', { $ref: '#/components/schemas/PredictionResponse' }),
          422: invalid,
        },
        summary: 'Predict',
        ...(streaming && { 'x-cog-streaming': true }),
      },
    },
    '/predictions/{prediction_id}/cancel': {
      post: {
        operationId: 'cancel_predictions__prediction_id__cancel_post',
        parameters: [
          {
            in: 'path',
            name: 'prediction_id',
            required: true,
            schema: { title: 'Prediction Id', type: 'string' },
          },
        ],
        responses: { 200: ok, 422: invalid },
        summary: 'Cancel',
      },
    },
  }
}
