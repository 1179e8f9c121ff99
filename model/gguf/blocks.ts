import { f16Table } from '../half.js'
import type { TensorType } from './tensor-types.js'

/**
 * Blocks of GGUF's tensor types → f32. In every type a block's weights lie one after another along a row; where two are packed
 * into a byte, they are half a block apart, not neighbours.
 * Source: the block structures in ggml-common.h and dequantize_row_* in ggml-quants.c of ggml-org/ggml. The results are those
 * of gguf 0.19 (Python), bit for bit: every product is exact in f64, and is rounded to f32 once, as it is there.
 */
type Dequantize = (bytes: Uint8Array, into: Float32Array) => void

const DEQUANTIZERS: Readonly<Record<string, Dequantize>> = {
  F32: (bytes, into) => new Uint8Array(into.buffer, into.byteOffset, bytes.byteLength).set(bytes),
  F16: (bytes, into) => {
    const values = f16Table()
    for (let i = 0, at = 0; at < bytes.length; i++, at += 2) into[i] = values[half(bytes, at)]!
  },
  BF16: (bytes, into) => {
    const bits = new Uint32Array(into.buffer, into.byteOffset, into.length)
    for (let i = 0, at = 0; at < bytes.length; i++, at += 2) bits[i] = half(bytes, at) << 16
  },
  Q4_0: (bytes, into) => {
    for (let at = 0, out = 0; at < bytes.length; at += 18, out += 32) {
      const d = f16(bytes, at)
      for (let i = 0; i < 16; i++) {
        const byte = bytes[at + 2 + i]!
        into[out + i] = d * ((byte & 15) - 8)
        into[out + 16 + i] = d * ((byte >> 4) - 8)
      }
    }
  },
  Q4_1: (bytes, into) => {
    for (let at = 0, out = 0; at < bytes.length; at += 20, out += 32) {
      const d = f16(bytes, at)
      const min = f16(bytes, at + 2)
      for (let i = 0; i < 16; i++) {
        const byte = bytes[at + 4 + i]!
        into[out + i] = d * (byte & 15) + min
        into[out + 16 + i] = d * (byte >> 4) + min
      }
    }
  },
  // The fifth bits of all 32 weights come first, as one little-endian number.
  Q5_0: (bytes, into) => {
    for (let at = 0, out = 0; at < bytes.length; at += 22, out += 32) {
      const d = f16(bytes, at)
      const high = half(bytes, at + 2) | (half(bytes, at + 4) << 16)
      for (let i = 0; i < 16; i++) {
        const byte = bytes[at + 6 + i]!
        into[out + i] = d * (((byte & 15) | (((high >>> i) & 1) << 4)) - 16)
        into[out + 16 + i] = d * (((byte >> 4) | (((high >>> (16 + i)) & 1) << 4)) - 16)
      }
    }
  },
  Q5_1: (bytes, into) => {
    for (let at = 0, out = 0; at < bytes.length; at += 24, out += 32) {
      const d = f16(bytes, at)
      const min = f16(bytes, at + 2)
      const high = half(bytes, at + 4) | (half(bytes, at + 6) << 16)
      for (let i = 0; i < 16; i++) {
        const byte = bytes[at + 8 + i]!
        into[out + i] = d * ((byte & 15) | (((high >>> i) & 1) << 4)) + min
        into[out + 16 + i] = d * ((byte >> 4) | (((high >>> (16 + i)) & 1) << 4)) + min
      }
    }
  },
  Q8_0: (bytes, into) => {
    for (let at = 0, out = 0; at < bytes.length; at += 34, out += 32) {
      const d = f16(bytes, at)
      for (let i = 0; i < 32; i++) into[out + i] = d * signed(bytes[at + 2 + i]!)
    }
  },
  // 256 weights in eight groups of 32, each with a scale and a minimum of 6 bits; 2 · 4 bits of neighbouring groups share a byte.
  Q4_K: (bytes, into) => {
    for (let at = 0, out = 0; at < bytes.length; at += 144, out += 256) {
      const d = f16(bytes, at)
      const dMin = f16(bytes, at + 2)
      for (let group = 0; group < 8; group++) {
        const scale = d * sixBits(bytes, at + 4, group)
        const min = dMin * sixBits(bytes, at + 4, group + 8)
        const from = at + 16 + (group >> 1) * 32
        const shift = (group & 1) * 4
        for (let i = 0; i < 32; i++) into[out + group * 32 + i] = scale * ((bytes[from + i]! >> shift) & 15) - min
      }
    }
  },
  // As Q4_K, with a fifth bit: bit `group` of one of 32 bytes.
  Q5_K: (bytes, into) => {
    for (let at = 0, out = 0; at < bytes.length; at += 176, out += 256) {
      const d = f16(bytes, at)
      const dMin = f16(bytes, at + 2)
      for (let group = 0; group < 8; group++) {
        const scale = d * sixBits(bytes, at + 4, group)
        const min = dMin * sixBits(bytes, at + 4, group + 8)
        const from = at + 48 + (group >> 1) * 32
        const shift = (group & 1) * 4
        for (let i = 0; i < 32; i++) {
          const high = (bytes[at + 16 + i]! >> group) & 1
          into[out + group * 32 + i] = scale * (((bytes[from + i]! >> shift) & 15) | (high << 4)) - min
        }
      }
    }
  },
  // 256 weights: the low four bits (128 bytes), the high two (64), sixteen scales of 8 bits, the scale of all.
  Q6_K: (bytes, into) => {
    for (let at = 0, out = 0; at < bytes.length; at += 210, out += 256) {
      const d = f16(bytes, at + 208)
      let scale = 0
      for (let run = 0; run < 8; run++) {
        // Runs of 32 weights; four of them share 64 bytes of low bits and 32 of high bits.
        const lows = at + (run >> 2) * 64 + (run & 1) * 32
        const lowShift = (run & 2) * 2
        const highs = at + 128 + (run >> 2) * 32
        const highShift = (run & 3) * 2
        for (let i = 0; i < 32; i++) {
          if ((i & 15) === 0) scale = d * signed(bytes[at + 192 + run * 2 + (i >> 4)]!)
          const low = (bytes[lows + i]! >> lowShift) & 15
          const high = (bytes[highs + i]! >> highShift) & 3
          into[out + run * 32 + i] = scale * ((low | (high << 4)) - 32)
        }
      }
    }
  },
}

/** Names of the types that `dequantize` reads. */
export const READABLE_TYPES: readonly string[] = Object.keys(DEQUANTIZERS)

/**
 * @param bytes  whole blocks
 * @param into  filled from its start; as many weights as the blocks hold
 */
export function dequantize(type: TensorType, bytes: Uint8Array, into: Float32Array): void {
  DEQUANTIZERS[type.name]!(bytes, into)
}

/** Types whose blocks are MatMulNBits' own, but for the order of bytes: the same scale, the same steps, the same zero point. */
export const REPACKABLE: Readonly<Record<string, { readonly bits: 4 | 8; readonly blockSize: 32 }>> = {
  Q4_0: { bits: 4, blockSize: 32 },
  Q8_0: { bits: 8, blockSize: 32 },
}

/**
 * Takes blocks of Q4_0 or Q8_0 apart, without any arithmetic: every weight stays the number that it is.
 *
 * @param bytes  n whole blocks
 * @param packed  [n · 32 · bits / 8]; 4 bits: the even weight in the low nibble, 8 is zero; 8 bits: 128 is zero
 * @param scales  [n], f32 or, as they lie in the file, f16
 * @returns the index of the first block whose scale is not finite, or −1
 * Source: MatMulNBits (com.microsoft, version 1).
 */
export function repack(
  type: TensorType,
  bytes: Uint8Array,
  packed: Uint8Array,
  scales: Float32Array | Uint16Array,
): number {
  const values = f16Table()
  const isHalf = scales instanceof Uint16Array
  const move = type.name === 'Q4_0' ? moveNibbles : moveBytes
  let bad = -1
  for (let at = 0, block = 0; at < bytes.length; at += type.bytes, block++) {
    const scale = half(bytes, at)
    scales[block] = isHalf ? scale : values[scale]!
    if ((scale & 0x7c_00) === 0x7c_00 && bad < 0) bad = block
    move(bytes, at + 2, packed, block)
  }
  return bad
}

/** Weights i and i + 16 share a byte in the file; weights 2j and 2j + 1 do here. */
function moveNibbles(bytes: Uint8Array, from: number, packed: Uint8Array, block: number): void {
  const to = block * 16
  for (let j = 0; j < 8; j++) {
    const even = bytes[from + 2 * j]!
    const odd = bytes[from + 2 * j + 1]!
    packed[to + j] = (even & 15) | ((odd & 15) << 4)
    packed[to + 8 + j] = (even >> 4) | (odd & 0xf0)
  }
}

function moveBytes(bytes: Uint8Array, from: number, packed: Uint8Array, block: number): void {
  for (let i = 0; i < 32; i++) packed[block * 32 + i] = bytes[from + i]! ^ 0x80
}

function half(bytes: Uint8Array, at: number): number {
  return bytes[at]! | (bytes[at + 1]! << 8)
}

function f16(bytes: Uint8Array, at: number): number {
  return f16Table()[half(bytes, at)]!
}

function signed(byte: number): number {
  return (byte << 24) >> 24
}

/** Sixteen numbers of 6 bits in twelve bytes: the first four of each eight lie low, the others in what is left. */
function sixBits(bytes: Uint8Array, at: number, index: number): number {
  const [half, i] = [index >> 3, index & 7]
  if (i < 4) return bytes[at + half * 4 + i]! & 63
  return ((bytes[at + 4 + i]! >> (half * 4)) & 15) | ((bytes[at + half * 4 + i - 4]! >> 6) << 4)
}
