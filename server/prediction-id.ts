import { randomFillSync } from 'node:crypto'

const LENGTH = 26
const BASE32 = 'abcdefghijklmnopqrstuvwxyz234567'

/** Random bytes for many ids: to ask the system for each alone takes longer than all else about it. */
const pool = new Uint8Array(LENGTH * 128)
let used = pool.length

/**
 * Draws an id: 26 characters of lower-case base32, 130 random bits, the form that Cog's documentation recommends to clients.
 *
 * Cog's own ids are the clock's nanoseconds, which collide and can be guessed, and whoever knows an id can cancel.
 */
export function newId(): string {
  if (used === pool.length) {
    randomFillSync(pool)
    used = 0
  }
  let id = ''
  for (const end = used + LENGTH; used < end; used++) id += BASE32[pool[used]! & 31]
  return id
}
