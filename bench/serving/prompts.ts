import type { Ask } from './client.js'

const WORDS = (
  'time year people way day man thing woman life child world school state family student group country problem hand part place ' +
  'case week company system program question work government number night point home water room mother area money story fact month'
).split(' ')

/** Numbers 0 ≤ x < 1, always the same ones for a seed (mulberry32, public domain). */
export function seeded(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

/** Common English words, each one token of Gemma's with the space before it. */
export function words(count: number, random: () => number): string {
  return Array.from({ length: count }, () => WORDS[Math.floor(random() * WORDS.length)]!).join(' ')
}

/** Requests that share nothing, with prompts of many lengths: from `least` words to four times as many. */
export function asks(
  count: number,
  { least, newTokens }: { least: number; newTokens: number },
  random: () => number,
): Ask[] {
  return Array.from({ length: count }, () => {
    const length = Math.round(least * 4 ** random())
    return { prompt: `<start_of_turn>user\n${words(length, random)}<end_of_turn>\n<start_of_turn>model\n`, newTokens }
  })
}
