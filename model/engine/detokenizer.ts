/** What a detokenizer must know of a vocabulary. */
export interface Vocabulary {
  piece(id: number): string | undefined
  isControl(id: number): boolean
}

const REPLACEMENT = '\u{FFFD}'

/**
 * Ids → text, one id at a time, whole characters only. `▁` is a blank, control tokens are skipped, and byte pieces
 * (`<0xF0>`) are held until they make a character. Nothing is decoded twice.
 *
 * The text is what Hugging Face decodes from the same ids, with one exception. There, a run of byte pieces that is not valid
 * UTF-8 as a whole becomes U+FFFD for each of its bytes, its whole characters too, which can only be known when the run is
 * over. Here a character is given out as soon as it is whole, and only bytes that belong to none become U+FFFD, one each.
 *
 * Source: huggingface/tokenizers, decoders/byte_fallback.rs; The Unicode Standard, table 3-7 (well-formed UTF-8).
 */
export class Detokenizer {
  readonly #vocabulary: Vocabulary
  /** Bytes of a character that is not whole yet: 0 … 3. */
  #bytes: number[] = []

  constructor(vocabulary: Vocabulary) {
    this.#vocabulary = vocabulary
  }

  /** @returns the text that this id makes certain; often a word, '' within a character or for a control token. */
  push(id: number): string {
    if (this.#vocabulary.isControl(id)) return ''
    const piece = this.#vocabulary.piece(id) ?? ''
    const byte = byteOf(piece)
    if (byte === undefined) return this.flush() + piece.replaceAll('▁', ' ')
    this.#bytes.push(byte)
    return this.#takeWhole()
  }

  /** @returns what stands for the bytes that never became a character. */
  flush(): string {
    const text = REPLACEMENT.repeat(this.#bytes.length)
    this.#bytes = []
    return text
  }

  #takeWhole(): string {
    let text = ''
    while (this.#bytes.length > 0) {
      const state = utf8State(this.#bytes)
      if (state === 'partial') break
      if (state === 'whole') {
        text += Buffer.from(this.#bytes).toString('utf8')
        this.#bytes = []
      } else {
        text += REPLACEMENT
        this.#bytes.shift()
      }
    }
    return text
  }
}

/** What an id stands for by itself: the one byte of a byte piece, else its text; of a control token its name. */
export function tokenBytes(vocabulary: Vocabulary, id: number): Uint8Array {
  const piece = vocabulary.piece(id) ?? ''
  const byte = byteOf(piece)
  if (byte !== undefined) return Uint8Array.of(byte)
  return new TextEncoder().encode(vocabulary.isControl(id) ? piece : piece.replaceAll('▁', ' '))
}

function byteOf(piece: string): number | undefined {
  const match = /^<0x([0-9A-Fa-f]{2})>$/.exec(piece)
  return match ? Number.parseInt(match[1]!, 16) : undefined
}

/** @param bytes  1 … 4 of them; all but the last were 'partial' together. */
function utf8State(bytes: readonly number[]): 'whole' | 'partial' | 'invalid' {
  const [lead, second] = bytes as [number, number?]
  if (lead < 0x80) return 'whole'
  if (lead < 0xc2 || lead > 0xf4) return 'invalid'
  if (second !== undefined) {
    // Beyond the plain range of a second byte lie overlong forms, surrogates and what exceeds U+10FFFF.
    const lowest = lead === 0xe0 ? 0xa0 : lead === 0xf0 ? 0x90 : 0x80
    const highest = lead === 0xed ? 0x9f : lead === 0xf4 ? 0x8f : 0xbf
    if (second < lowest || second > highest) return 'invalid'
  }
  if (bytes.slice(2).some((byte) => byte < 0x80 || byte > 0xbf)) return 'invalid'
  const length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4
  return bytes.length === length ? 'whole' : 'partial'
}
