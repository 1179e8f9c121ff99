import { Tokenizer as RustTokenizer } from 'tokenizers'
import { ModelFolderError } from '../errors.js'
import { readTokenizerFile } from './tokenizer-file.js'

/** Plain text, or the id of a control token. */
export type Part = string | number

/**
 * Text ↔ ids. The library's tokenizer is loaded without the control tokens, so that no text can become one: who means a
 * control token must say so, by giving its id as a part. Between control tokens the ids are Hugging Face's.
 */
export class Tokenizer {
  /** Content → id of `<bos>`, `<end_of_turn>` and the like. */
  readonly controls: ReadonlyMap<string, number>
  readonly #library: RustTokenizer
  readonly #controlIds: ReadonlySet<number>
  readonly #controlPattern: RegExp

  private constructor(library: RustTokenizer, controls: ReadonlyMap<string, number>) {
    this.#library = library
    this.controls = controls
    this.#controlIds = new Set(controls.values())
    // Where one control token begins with another, the longer one is meant, as in the library.
    const longestFirst = [...controls.keys()].sort((a, b) => b.length - a.length)
    this.#controlPattern = new RegExp(longestFirst.map(escapePattern).join('|'), 'g')
  }

  /**
   * @param file  a tokenizer.json of Gemma's kind. The genuine one (17.5 MB) holds the thread for 0.9 s.
   * @throws {ModelFolderError} it is missing, or not of that kind.
   */
  static async open(file: string): Promise<Tokenizer> {
    const { withoutControls, controls } = await readTokenizerFile(file)
    const library = load(withoutControls, file)
    // A tokenizer.json may ask for batches of equal length; ours would then be cut or filled up.
    library.disableTruncation()
    library.disablePadding()
    return new Tokenizer(library, controls)
  }

  /** Cuts text at its control tokens: what a template, or a caller of `raw`, writes as control is control. */
  split(text: string): Part[] {
    const parts: Part[] = []
    let end = 0
    for (const match of text.matchAll(this.#controlPattern)) {
      if (match.index > end) parts.push(text.slice(end, match.index))
      parts.push(this.controls.get(match[0])!)
      end = match.index + match[0].length
    }
    if (end < text.length) parts.push(text.slice(end))
    return parts
  }

  /**
   * @param parts  neighbours that are both text are tokenized apart; join them first where they belong together.
   * @returns ids; nothing is put before or behind. Runs on libuv's pool, not on this thread.
   */
  async tokenize(parts: readonly Part[]): Promise<number[]> {
    const texts = parts.filter((part) => typeof part === 'string')
    const encodings = await this.#library.encodeBatch(texts, { addSpecialTokens: false })
    let next = 0
    return parts.flatMap((part) => (typeof part === 'number' ? part : encodings[next++]!.getIds()))
  }

  /** The vocabulary's spelling of an id (`▁cat`, `<0xF0>`); undefined for an id that the vocabulary lacks. */
  piece(id: number): string | undefined {
    return this.#library.idToToken(id) ?? undefined
  }

  isControl(id: number): boolean {
    return this.#controlIds.has(id)
  }
}

function load(json: string, file: string): RustTokenizer {
  try {
    return RustTokenizer.fromString(json)
  } catch (cause) {
    throw new ModelFolderError(file, `is refused by the tokenizer library: ${(cause as Error).message}.`, { cause })
  }
}

function escapePattern(text: string): string {
  return text.replaceAll(/[.*+?^${}()|[\]\\/-]/g, '\\$&')
}
