import { endOfString } from './json-source.js'

/** How deep arrays and objects in a request may be nested: what Cog's JSON library takes. */
export const MAX_JSON_DEPTH = 127

/** A text is not JSON, or is nested too deep. The message says what and, where known, where. */
export class JsonError extends Error {
  constructor(message: string) {
    super(message)
    this.name = 'JsonError'
  }
}

/**
 * Reads a request's JSON.
 *
 * `NaN`, `Infinity` and `-Infinity`, which Python's json.dumps writes, are read as non-finite numbers rather than
 * refused, so that validation can name the field that carries one.
 *
 * @throws {JsonError} not JSON, or nested deeper than {@link MAX_JSON_DEPTH}.
 */
export function parseJson(text: string): unknown {
  const value = parseText(text)
  if (isDeeperThan(value, MAX_JSON_DEPTH)) throw new JsonError(`nested deeper than ${MAX_JSON_DEPTH} levels`)
  return value
}

/** @throws {JsonError} not UTF-8. */
export function decodeUtf8(bytes: Uint8Array): string {
  try {
    return utf8.decode(bytes)
  } catch {
    throw new JsonError('invalid UTF-8')
  }
}
const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

function parseText(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (error) {
    const finite = withoutWordsForNumbers(text)
    if (finite !== text) {
      try {
        return JSON.parse(finite)
      } catch {
        // Broken elsewhere, too: the first error stands.
      }
    }
    throw new JsonError(reasonOf(error as SyntaxError, text))
  }
}

/**
 * Writes 1e999, JSON that reads as Infinity, for each NaN and Infinity outside of strings.
 *
 * Strings are skipped by hand: an expression that matches them whole takes time in the square of a text whose last string
 * does not end (40 kB: a second).
 */
function withoutWordsForNumbers(text: string): string {
  const token = /"|-?\b(?:NaN|Infinity)\b/g
  let written = ''
  let copied = 0
  for (let match = token.exec(text); match; match = token.exec(text)) {
    if (match[0] === '"') {
      token.lastIndex = endOfString(text, token.lastIndex)
      continue
    }
    written += `${text.slice(copied, match.index)}1e999`
    copied = token.lastIndex
  }
  return written + text.slice(copied)
}

/** V8's message quotes the text around the error, which may be a prompt: only what and where is kept. */
function reasonOf({ message }: SyntaxError, text: string): string {
  if (message.startsWith('Unexpected end')) return `unexpected end at character ${text.length}`
  const position = /at position (\d+)/.exec(message)?.[1]
  return position === undefined ? 'unexpected token' : `unexpected token at character ${position}`
}

/** Walks without recursion, so that no depth can exhaust the stack. */
function isDeeperThan(value: unknown, limit: number): boolean {
  let level = typeof value === 'object' && value !== null ? [value] : []
  for (let depth = 1; level.length > 0; depth++) {
    if (depth > limit) return true
    const next: object[] = []
    for (const item of level) {
      for (const child of Object.values(item)) if (typeof child === 'object' && child !== null) next.push(child)
    }
    level = next
  }
  return false
}

/**
 * Writes JSON as Cog does: compact, the keys of every object in alphabetical (code unit) order.
 *
 * @param value plain JSON; a non-finite number becomes null.
 */
export function stringifySorted(value: unknown): string {
  return JSON.stringify(sorted(value))
}

/** The value itself where all is in order, which it mostly is, so that JSON.stringify can go its fast way. */
function sorted(value: unknown): unknown {
  if (typeof value !== 'object' || value === null) return value
  if (Array.isArray(value)) {
    const items = value.map(sorted)
    return items.every((item, i) => item === value[i]) ? value : items
  }
  const object = value as Readonly<Record<string, unknown>>
  const keys = Object.keys(object)
  const items = keys.map((key) => sorted(object[key]))
  if (keys.every((key, i) => items[i] === object[key] && (i === 0 || keys[i - 1]! < key))) return value
  // Without a prototype, a key named __proto__ is a key like any other.
  const copy: Record<string, unknown> = Object.create(null)
  for (const [key, item] of keys.map((key, i) => [key, items[i]] as const).sort(([a], [b]) => (a < b ? -1 : 1))) {
    copy[key] = item
  }
  return copy
}
