import { GgufError } from '../errors.js'
import type { GgufFile } from './file.js'
import { type MetadataValue, quote } from './header.js'

/** Typed access to the metadata; without a fallback a key must be there. */
export class Keys {
  readonly #file: string
  readonly #metadata: ReadonlyMap<string, MetadataValue>

  constructor({ path, metadata }: GgufFile) {
    this.#file = path
    this.#metadata = metadata
  }

  count(key: string, most: number, fallback?: number): number {
    return this.#number(key, fallback, `a whole number from 1 to ${most} is wanted`, (value) => {
      return Number.isSafeInteger(value) && value >= 1 && value <= most
    })
  }

  positive(key: string, most: number, fallback?: number): number {
    const value = this.#number(key, fallback, `a number above 0 and up to ${most} is wanted`, (value) => {
      return value > 0 && value <= most
    })
    // The file's f32 in as many digits as it has: 1e-6 for 9.999999974752427e-7.
    const short = Number(value.toPrecision(7))
    return Math.fround(short) === value ? short : value
  }

  token(key: string, vocabSize: number, fallback: number): number {
    return this.#number(key, fallback, `a token from 0 to ${vocabSize - 1} is wanted`, (value) => {
      return Number.isSafeInteger(value) && value >= 0 && value < vocabSize
    })
  }

  /** A key that, where it is there, repeats what is known. */
  same(key: string, value: number, why: string): void {
    const found = this.#metadata.get(key) ?? value
    if (found !== value) throw new GgufError(this.#file, key, quote(found), `${why}: ${value}`)
  }

  #number(key: string, fallback: number | undefined, wanted: string, isLegal: (value: number) => boolean): number {
    const value = this.#metadata.get(key) ?? fallback
    if (typeof value === 'number' && isLegal(value)) return value
    throw new GgufError(this.#file, key, value === undefined ? 'missing' : quote(value), wanted)
  }
}
