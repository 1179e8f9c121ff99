/**
 * A number in [0, 1) for a seed and a position, with nothing between calls: what a request draws depends on its seed alone,
 * not on who else is served, and any position can be drawn again.
 *
 * @param seed  any safe integer
 * @param position  0 … 2³² − 1: the number of tokens generated before
 * @returns a multiple of 2⁻⁵³
 * Source: Philox4x32-10; Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3 (SC11).
 */
export function uniform(seed: number, position: number): number {
  const key = BigInt.asUintN(64, BigInt(seed))
  const [a, b] = philox([position, 0, 0, 0], [Number(key & MASK), Number(key >> 32n)])
  return ((a >>> 5) * 2 ** 26 + (b >>> 6)) / 2 ** 53
}

type Words4 = readonly [number, number, number, number]

const MASK = 0xffff_ffffn

/** Ten rounds of Philox 4x32: a counter of four 32-bit words, under a key of two, becomes four random ones. */
export function philox(counter: Words4, key: readonly [number, number]): Words4 {
  let [c0, c1, c2, c3] = counter
  let [k0, k1] = key
  for (let round = 0; round < 10; round++) {
    const left = 0xd251_1f53n * BigInt(c0)
    const right = 0xcd9e_8d57n * BigInt(c2)
    ;[c0, c1, c2, c3] = [
      (Number(right >> 32n) ^ c1 ^ k0) >>> 0,
      Number(right & MASK),
      (Number(left >> 32n) ^ c3 ^ k1) >>> 0,
      Number(left & MASK),
    ]
    k0 = (k0 + 0x9e37_79b9) >>> 0
    k1 = (k1 + 0xbb67_ae85) >>> 0
  }
  return [c0, c1, c2, c3]
}
