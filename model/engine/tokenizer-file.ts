import { readFile } from 'node:fs/promises'
import { z } from 'zod'
import { ModelFolderError } from '../errors.js'

/** What a tokenizer.json says, with its control tokens taken apart from the rest. */
export interface TokenizerFile {
  /** The file's text without the control tokens among its added tokens: to it, `<bos>` is five characters. */
  readonly withoutControls: string
  /** The control tokens (added tokens marked special): content → id. */
  readonly controls: ReadonlyMap<string, number>
}

const addedTokens = z.array(
  z.object({
    id: z.number().int().min(0),
    content: z.string().min(1),
    special: z.boolean(),
    lstrip: z.boolean(),
    rstrip: z.boolean(),
    single_word: z.boolean(),
    normalized: z.boolean(),
  }),
)

/** How Gemma's pieces become text; the detokenizer does the same, one piece at a time. */
const gemmaDecoder = z.object({
  type: z.literal('Sequence'),
  decoders: z.tuple([
    z.object({
      type: z.literal('Replace'),
      pattern: z.object({ String: z.literal('▁') }),
      content: z.literal(' '),
    }),
    z.object({ type: z.literal('ByteFallback') }),
    z.object({ type: z.literal('Fuse') }),
  ]),
})

/**
 * Reads a Gemma tokenizer.json without parsing its 17 MB: only the added tokens and the decoder are looked at.
 *
 * @throws {ModelFolderError} the file is not JSON, has no control tokens, or turns pieces into text in another way than Gemma.
 */
export async function readTokenizerFile(path: string): Promise<TokenizerFile> {
  const text = await readFile(path, 'utf8').catch((cause: unknown) => {
    throw new ModelFolderError(path, 'cannot be read.', { cause })
  })
  try {
    const spans = findSpans(text, ['added_tokens', 'decoder'])
    const added = parseValue(text, spans, 'added_tokens', addedTokens)
    parseValue(text, spans, 'decoder', gemmaDecoder)

    const controls = added.filter((token) => token.special)
    if (controls.length === 0) throw new Error('no added token is marked special')
    const odd = controls.find((token) => token.lstrip || token.rstrip || token.single_word || token.normalized)
    if (odd !== undefined) throw new Error(`control token ${odd.content} is matched in another way than by its letters`)

    const [start, end] = spans.get('added_tokens')!
    const others = JSON.stringify(added.filter((token) => !token.special))
    return {
      withoutControls: text.slice(0, start) + others + text.slice(end),
      controls: new Map(controls.map((token) => [token.content, token.id])),
    }
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message.replaceAll(/\s+/g, ' ') : String(cause)
    throw new ModelFolderError(path, `is not a Gemma tokenizer: ${reason}.`, { cause })
  }
}

type Span = readonly [start: number, end: number]

function parseValue<T>(text: string, spans: ReadonlyMap<string, Span>, key: string, schema: z.ZodType<T>): T {
  const span = spans.get(key)
  if (span === undefined) throw new Error(`it has no ${key}`)
  const parsed = schema.safeParse(JSON.parse(text.slice(...span)))
  if (parsed.success) return parsed.data
  const issue = parsed.error.issues[0]!
  throw new Error(`${[key, ...issue.path].join('.')}: ${issue.message}`)
}

/** Where the values of the given top-level keys lie. Reads no further than it must: the vocabulary comes last in most files. */
function findSpans(text: string, keys: readonly string[]): Map<string, Span> {
  const found = new Map<string, Span>()
  let at = skipSpace(text, expect(text, skipSpace(text, 0), '{'))
  while (found.size < keys.length && text[at] !== '}') {
    const keyEnd = endOfString(text, at)
    const key = JSON.parse(text.slice(at, keyEnd)) as string
    const start = skipSpace(text, expect(text, skipSpace(text, keyEnd), ':'))
    const end = endOfValue(text, start)
    if (keys.includes(key)) found.set(key, [start, end])
    at = skipSpace(text, end)
    if (text[at] === ',') at = skipSpace(text, at + 1)
    else if (text[at] !== '}') throw new Error(`a comma is missing at ${at}`)
  }
  return found
}

function endOfValue(text: string, start: number): number {
  let depth = 0
  for (let at = start; at < text.length; at++) {
    const character = text[at]!
    if (character === '"') {
      at = endOfString(text, at) - 1
      if (depth === 0) return at + 1
    } else if (character === '{' || character === '[') depth++
    else if (character === '}' || character === ']') {
      if (depth <= 1) return depth === 1 ? at + 1 : at
      depth--
    } else if (character === ',' && depth === 0) return at
  }
  throw new Error('it ends too early')
}

function endOfString(text: string, start: number): number {
  expect(text, start, '"')
  for (let quote = text.indexOf('"', start + 1); quote >= 0; quote = text.indexOf('"', quote + 1)) {
    let first = quote
    while (text[first - 1] === '\\') first--
    if ((quote - first) % 2 === 0) return quote + 1
  }
  throw new Error('it ends within a string')
}

function skipSpace(text: string, at: number): number {
  while (at < text.length && ' \t\r\n'.includes(text[at]!)) at++
  return at
}

function expect(text: string, at: number, character: string): number {
  if (text[at] !== character) throw new Error(`${character} is missing at ${at}`)
  return at + 1
}
