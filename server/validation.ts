import { quoteJson, withNumbersAsWritten } from './json-source.js'
import type { InputProblem, JsonSchema, OpenApiDocument, RunKind } from './messages.js'
import { isSecret, MASK } from './secret.js'

/** What is left of a request's `input`: the inputs that the schema names, as they were sent. */
export type CheckedInput =
  | { readonly input: Readonly<Record<string, unknown>>; readonly problems?: never }
  | { readonly problems: readonly InputProblem[] }

/**
 * Holds a request's `input` against the component `Input` of openapi.json, or `TrainingInput`, in Cog's order and words.
 *
 * Inputs that the schema does not name are dropped. No type is converted. Null is taken where the schema says
 * `nullable` (Cog refuses it there, although its own schema allows it). Text must be well-formed Unicode and numbers
 * finite: Cog refuses such a body as a whole, without naming the field.
 *
 * @param options.body the text of the request that the input was read from: numbers are shown as they are written there.
 * @returns problems by input name in alphabetical order, for one input in the alphabetical order of the keywords that it
 *   breaks; missing inputs last, in the order of `required`.
 * Source: recorded answers of Cog 0.23.1; the wording is that of the Rust crate `jsonschema`.
 */
export function checkInput(value: unknown, { document, kind = 'prediction', body }: CheckInputOptions): CheckedInput {
  const schema = inputSchema(document, kind)
  const written = once(() => (body === undefined ? undefined : partOf(withNumbersAsWritten(body), 'input')))
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    return { problems: [problem('__root__', `${quoteJson(value, written())} is not of type "object"`)] }
  }
  const sent = value as Record<string, unknown>
  const input: Record<string, unknown> = {}
  const problems: InputProblem[] = []
  for (const name of Object.keys(schema.properties ?? {}).sort()) {
    if (!Object.hasOwn(sent, name)) continue
    input[name] = sent[name]
    const found = violations({
      value: sent[name],
      written: () => partOf(written(), name),
      schema: schema.properties![name]!,
      path: name,
      document,
    })
    problems.push(...found.map(({ path, msg }) => problem(path, msg)))
  }
  for (const name of schema.required ?? []) {
    if (!Object.hasOwn(sent, name)) {
      problems.push({ loc: ['body', 'input', name], msg: 'Field required', type: 'value_error.missing' })
    }
  }
  return problems.length > 0 ? { problems } : { input }
}

export interface CheckInputOptions {
  readonly document: OpenApiDocument
  readonly kind?: RunKind | undefined
  readonly body?: string | undefined
}

/** An input as it may be shown: with asterisks in the place of secrets. Only of inputs that {@link checkInput} has taken. */
export function withoutSecrets(
  input: Readonly<Record<string, unknown>>,
  document: OpenApiDocument,
  kind: RunKind = 'prediction',
): Readonly<Record<string, unknown>> {
  const { properties = {} } = inputSchema(document, kind)
  const holders = Object.keys(properties).filter((name) => mayHoldSecrets(properties[name]!))
  if (holders.length === 0) return input
  const masked = holders.filter((name) => Object.hasOwn(input, name) && input[name] !== null)
  return { ...input, ...Object.fromEntries(masked.map((name) => [name, MASK])) }
}

function inputSchema({ components }: OpenApiDocument, kind: RunKind): JsonSchema {
  return components.schemas[kind === 'training' ? 'TrainingInput' : 'Input']!
}

/** A secret, or a list or an object that has one inside. */
function mayHoldSecrets(schema: JsonSchema): boolean {
  const inside = [schema.items, ...(schema.anyOf ?? []), ...Object.values(schema.properties ?? {})]
  return isSecret(schema) || inside.some((part) => part !== undefined && mayHoldSecrets(part))
}

function problem(path: string, msg: string): InputProblem {
  return { loc: ['body', 'input', path], msg, type: 'value_error' }
}

interface Subject {
  readonly value: unknown
  /** The same with its numbers as they were written, for {@link quoteJson}. Asked for by errors only: it reads the body again. */
  readonly written: () => unknown
  readonly schema: JsonSchema
  /** Names and indices from the input on, joined by slashes. */
  readonly path: string
  readonly document: OpenApiDocument
}

interface Violation {
  readonly path: string
  readonly msg: string
}

function violations(subject: Subject): Violation[] {
  const { value, schema, path, document } = subject
  const shown = () => show(subject)
  if (value === null && schema.nullable) return []
  if (schema.$ref !== undefined) {
    return violations({ ...subject, schema: document.components.schemas[schema.$ref.split('/').at(-1)!]! })
  }
  const found: Violation[] = []
  const refuse = (msg: string) => found.push({ path, msg })

  for (const part of schema.allOf ?? []) found.push(...violations({ ...subject, schema: part }))
  if (schema.anyOf?.every((part) => violations({ ...subject, schema: part }).length > 0)) {
    refuse(`${shown()} is not valid under any of the schemas listed in the 'anyOf' keyword`)
  }
  if (schema.enum && !schema.enum.includes(value)) refuse(`${shown()} is not one of ${JSON.stringify(schema.enum)}`)
  if (typeof value === 'number' && Number.isFinite(value)) checkNumber(value, subject, refuse)
  else if (typeof value === 'string') checkText(value, subject, refuse)
  else if (Array.isArray(value)) found.push(...checkList(value, subject))
  else if (typeof value === 'object' && value !== null) found.push(...checkObject(value, subject, refuse))
  if (schema.type && !isOfType(value, schema.type)) refuse(`${shown()} is not of type "${schema.type}"`)
  return found
}

function isOfType(value: unknown, type: NonNullable<JsonSchema['type']>): boolean {
  switch (type) {
    case 'array':
      return Array.isArray(value)
    case 'object':
      return typeof value === 'object' && value !== null && !Array.isArray(value)
    case 'integer':
      // JSON has one kind of number, so 5.0 is an integer.
      return Number.isInteger(value)
    case 'number':
      return Number.isFinite(value)
    default:
      return typeof value === type
  }
}

function checkNumber(value: number, subject: Subject, refuse: (msg: string) => void): void {
  const { schema } = subject
  const { minimum, maximum } = schema
  const shown = () => show(subject)
  const outside = (maximum !== undefined && value > maximum) || (minimum !== undefined && value < minimum)
  if (schema.type === 'integer' && !outside && Number.isInteger(value) && !Number.isSafeInteger(value)) {
    // JSON.parse has rounded it already: the model would silently get another number than was sent.
    refuse(`${shown()} is beyond ±${Number.MAX_SAFE_INTEGER}, where integers are no longer exact`)
  }
  if (minimum !== undefined && value < minimum) refuse(`${shown()} is less than the minimum of ${minimum}`)
  if (maximum !== undefined && value > maximum) refuse(`${shown()} is greater than the maximum of ${maximum}`)
  if (schema.exclusiveMinimum && value === minimum) {
    refuse(`${shown()} is less than or equal to the minimum of ${minimum}`)
  }
  if (schema.exclusiveMaximum && value === maximum) {
    refuse(`${shown()} is greater than or equal to the maximum of ${maximum}`)
  }
}

function checkText(value: string, subject: Subject, refuse: (msg: string) => void): void {
  const { schema } = subject
  const loneSurrogate = value.search(/\p{Surrogate}/u)
  if (loneSurrogate >= 0) {
    refuse(`the text has a lone surrogate at index ${loneSurrogate}, which no UTF-8 can carry`)
    return
  }
  const { minLength, maxLength, pattern } = schema
  // Characters, as JSON Schema counts them, not UTF-16 units.
  const length = minLength === undefined && maxLength === undefined ? 0 : [...value].length
  if (maxLength !== undefined && length > maxLength) {
    refuse(`${show(subject)} is longer than ${maxLength} ${plural(maxLength, 'character')}`)
  }
  if (minLength !== undefined && length < minLength) {
    refuse(`${show(subject)} is shorter than ${minLength} ${plural(minLength, 'character')}`)
  }
  if (pattern !== undefined && !new RegExp(pattern, 'u').test(value)) {
    refuse(`${show(subject)} does not match ${JSON.stringify(pattern)}`)
  }
}

function checkList(value: readonly unknown[], subject: Subject): Violation[] {
  const { items, minItems, maxItems } = subject.schema
  const found =
    items === undefined
      ? []
      : value.flatMap((item, index) => violations({ ...partOfSubject(subject, index), value: item, schema: items }))
  const refuse = (msg: string) => found.push({ path: subject.path, msg })
  if (maxItems !== undefined && value.length > maxItems) {
    refuse(`${show(subject)} has more than ${maxItems} ${plural(maxItems, 'item')}`)
  }
  if (minItems !== undefined && value.length < minItems) {
    refuse(`${show(subject)} has less than ${minItems} ${plural(minItems, 'item')}`)
  }
  return found
}

function checkObject(value: object, subject: Subject, refuse: (msg: string) => void): Violation[] {
  const { properties = {}, required = [] } = subject.schema
  for (const name of required) {
    if (!Object.hasOwn(value, name)) refuse(`${JSON.stringify(name)} is a required property`)
  }
  return Object.entries(value).flatMap(([name, item]) =>
    Object.hasOwn(properties, name)
      ? violations({ ...partOfSubject(subject, name), value: item, schema: properties[name]! })
      : [],
  )
}

function plural(count: number, noun: string): string {
  return count === 1 ? noun : `${noun}s`
}

/** What an error shows of a value that breaks a schema's rule: nothing of a secret. */
function show({ value, written, schema }: Subject): string {
  return mayHoldSecrets(schema) ? JSON.stringify(MASK) : quoteJson(value, written())
}

/** Where an item of a list, or a field of an object, stands. */
function partOfSubject(
  { path, written, document }: Subject,
  key: string | number,
): Pick<Subject, 'path' | 'written' | 'document'> {
  return { path: `${path}/${key}`, written: () => partOf(written(), key), document }
}

function partOf(value: unknown, key: string | number): unknown {
  return (value as Readonly<Record<string, unknown>> | undefined)?.[key]
}

function once<Value>(make: () => Value): () => Value {
  let made: { value: Value } | undefined
  return () => {
    made ??= { value: make() }
    return made.value
  }
}
