/**
 * What JSON.parse does not tell of a text: which keys came twice, and how numbers were written. Both are looked up where an
 * error needs them only, so the text must be JSON that has been parsed already.
 */

/**
 * Makes a function that finds the first of some names that the outermost object has as a key more than once.
 *
 * Nearly every text is done with after looking for `"name"` anywhere in it: 1.5 ms a megabyte, where JSON.parse takes 5.
 *
 * @param names of lower-case letters and underscores.
 */
export function repeatedKeyFinder(names: readonly string[]): (text: string) => string | undefined {
  const quotedName = new RegExp(`"(?:${names.join('|')})"`, 'g')
  return (text) => {
    const found = text.match(quotedName) ?? []
    const mayRepeat = new Set(found).size < found.length
    if (!mayRepeat && !ESCAPED_LETTER.test(text)) return undefined
    const seen = new Set<string>()
    for (const key of outermostKeys(text)) {
      if (!names.includes(key)) continue
      if (seen.has(key)) return key
      seen.add(key)
    }
    return undefined
  }
}

/** A letter, or the underscore, that a key could be written with. */
const ESCAPED_LETTER = /\\u00[567]/i

function* outermostKeys(text: string): Generator<string> {
  if (!/^\s*\{/.test(text)) return
  const token = /["{}[\],]/g
  let depth = 0
  let isKey = false
  for (let match = token.exec(text); match; match = token.exec(text)) {
    switch (match[0]) {
      case '"': {
        const begin = match.index
        token.lastIndex = endOfString(text, token.lastIndex)
        if (depth === 1 && isKey) yield JSON.parse(text.slice(begin, token.lastIndex))
        isKey = false
        break
      }
      case '{':
      case '[':
        depth++
        isKey = depth === 1
        break
      case ',':
        isKey = depth === 1
        break
      default:
        depth--
    }
  }
}

/** @param from just behind the opening quote. @returns just behind the closing one, or the end of the text. */
export function endOfString(text: string, from: number): number {
  for (let i = from; i < text.length; i++) {
    const character = text[i]
    if (character === '"') return i + 1
    if (character === '\\') i++
  }
  return text.length
}

/** The same value with each number's own text in its place, for {@link quoteJson}. */
export function withNumbersAsWritten(text: string): unknown {
  const token = /"|-?(?:\d[\d.eE+-]*|NaN\b|Infinity\b)/g
  let quoted = ''
  let copied = 0
  for (let match = token.exec(text); match; match = token.exec(text)) {
    if (match[0] === '"') {
      token.lastIndex = endOfString(text, token.lastIndex)
      continue
    }
    quoted += `${text.slice(copied, match.index)}"${match[0]}"`
    copied = token.lastIndex
  }
  return JSON.parse(quoted + text.slice(copied))
}

/**
 * A value as Cog's errors show it: compact, with sorted keys, and numbers that were written with a point or an exponent with
 * one of them.
 *
 * @param value plain JSON. A non-finite number is called that.
 * @param written the same part of what {@link withNumbersAsWritten} has given; undefined where that is not known.
 */
export function quoteJson(value: unknown, written: unknown): string {
  if (typeof value === 'number') return quoteNumber(value, typeof written === 'string' ? written : undefined)
  if (typeof value !== 'object' || value === null) return JSON.stringify(value)
  const part = (key: string | number) => (written as Readonly<Record<string, unknown>> | undefined)?.[key]
  if (Array.isArray(value)) return `[${value.map((item, i) => quoteJson(item, part(i))).join(',')}]`
  const fields = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1))
  return `{${fields.map(([key, item]) => `${JSON.stringify(key)}:${quoteJson(item, part(key))}`).join(',')}}`
}

/** As Rust's serde_json: what fits 64 bits as an integer is one, all else a double. */
function quoteNumber(value: number, written: string | undefined): string {
  if (!Number.isFinite(value)) return 'a non-finite number'
  if (written === undefined) return String(value)
  const isInteger = /^(?:\d+|-[1-9]\d*)$/.test(written) && BigInt(written) >= MIN_I64 && BigInt(written) <= MAX_U64
  return isInteger ? written : quoteDouble(value)
}
const MIN_I64 = -(2n ** 63n)
const MAX_U64 = 2n ** 64n - 1n

/** The shortest digits that read back; with a point from 1e-5 up to below 1e16, else with a signed exponent. */
function quoteDouble(value: number): string {
  const [, sign, digits, exponent] = /^(-?)([\d.]+)e([+-]\d+)$/.exec(value.toExponential())!
  const power = Number(exponent)
  if (power < -5 || power >= 16) return `${sign}${digits}e${exponent}`
  // JavaScript's own form, which has no exponent in this range.
  const plain = Object.is(value, -0) ? '-0' : String(value)
  return plain.includes('.') ? plain : `${plain}.0`
}
