import { TokenMaskError } from '../errors.js'

/**
 * Which tokens may come next in an answer whose ids so far are given (the prompt's are not among them): their ids, or a bitmask
 * of ⌈V / 32⌉ words in which id i is bit i mod 32 of word ⌊i / 32⌋ (the layout of xgrammar and llguidance), or undefined for
 * all. Called once for each token, before its step. An answer ends with an end token, so at its end the mask must allow one.
 */
export type TokenMask = (answer: readonly number[]) => Iterable<number> | Uint32Array | undefined

/**
 * Writes what a mask allows as one byte for each id of the vocabulary: 1 is allowed.
 *
 * @param banned  ids that may not come whatever the mask says; their bytes are the mask's all the same.
 * @throws {TokenMaskError} nothing is left, or an id or the mask's length is not the vocabulary's.
 */
export function writeMask(
  allowed: Iterable<number> | Uint32Array,
  bytes: Uint8Array,
  banned: (id: number) => boolean,
): void {
  if (allowed instanceof Uint32Array) writeBits(allowed, bytes)
  else writeIds(allowed, bytes)
  for (let id = bytes.indexOf(1); id >= 0; id = bytes.indexOf(1, id + 1)) if (!banned(id)) return
  throw new TokenMaskError('it allows no token that may come')
}

function writeIds(allowed: Iterable<number>, bytes: Uint8Array): void {
  bytes.fill(0)
  for (const id of allowed) {
    if (!Number.isInteger(id) || id < 0 || id >= bytes.length) {
      throw new TokenMaskError(`it allows the id ${id}, but ids are whole numbers from 0 to ${bytes.length - 1}`)
    }
    bytes[id] = 1
  }
}

function writeBits(words: Uint32Array, bytes: Uint8Array): void {
  const wanted = Math.ceil(bytes.length / 32)
  if (words.length !== wanted) {
    throw new TokenMaskError(`it has ${words.length} words, but the vocabulary of ${bytes.length} takes ${wanted}`)
  }
  for (let id = 0; id < bytes.length; id++) bytes[id] = (words[id >>> 5]! >>> (id & 31)) & 1
}
