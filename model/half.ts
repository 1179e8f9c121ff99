/**
 * 16-bit floats as their bits: f16 (IEEE binary16) and bf16 (the upper half of an f32). Rounding is to the nearest, ties to
 * even, as PyTorch's; a value beyond the type's range becomes an infinity, which the caller must look for.
 */

const word = new Float32Array(1)
const bits = new Uint32Array(word.buffer)

/** f32 → f16 bits. NaN stays NaN. */
export function f16FromF32(value: number): number {
  word[0] = value
  const x = bits[0]!
  const sign = (x >>> 16) & 0x80_00
  const magnitude = x & 0x7f_ff_ff_ff
  if (magnitude > 0x7f_80_00_00) return sign | 0x7e_00
  // 65520 and above round to infinity (65504 is the largest f16).
  if (magnitude >= 0x47_7f_f0_00) return sign | 0x7c_00
  if (magnitude >= 0x38_80_00_00) {
    // Normal: rebias the exponent by 127 − 15, drop 13 bits of the fraction with round-to-even.
    return sign | ((magnitude - 0x38_00_00_00 + 0x0f_ff + ((magnitude >>> 13) & 1)) >>> 13)
  }
  // Subnormal: count in units of 2^-24. Adding 1.5 · 2^23 makes the f32 adder round to even.
  word[0] = Math.abs(value) * 2 ** 24 + 12_582_912
  return sign | (bits[0]! & 0x7_ff)
}

/** f16 bits → its value, which every f32 holds exactly. */
export function f32FromF16(half: number): number {
  const sign = half & 0x80_00 ? -1 : 1
  const exponent = (half >>> 10) & 0x1f
  const fraction = half & 0x3_ff
  if (exponent === 0x1f) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN
  if (exponent === 0) return sign * fraction * 2 ** -24
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15)
}

/** f32 → bf16 bits. NaN stays NaN. */
export function bf16FromF32(value: number): number {
  word[0] = value
  const x = bits[0]!
  if ((x & 0x7f_ff_ff_ff) > 0x7f_80_00_00) return ((x >>> 16) & 0x80_00) | 0x7f_c0
  return (x + 0x7f_ff + ((x >>> 16) & 1)) >>> 16
}

/** bf16 bits → its value, which every f32 holds exactly. */
export function f32FromBf16(half: number): number {
  bits[0] = half << 16
  return word[0]!
}

let f16Values: Float32Array | undefined

/** All 65,536 values of f16 (256 KB, made once): decoding by look-up is what a stream of weights needs. */
export function f16Table(): Float32Array {
  f16Values ??= Float32Array.from({ length: 65_536 }, (_, half) => f32FromF16(half))
  return f16Values
}
