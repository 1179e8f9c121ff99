import { readFileSync } from 'node:fs'

export interface Memory {
  /** Bytes that no file backs and no other process shares: what this process costs. */
  readonly anonymous: number
  /** Bytes of files that are mapped and in memory: pages that others share, and that the system may drop. */
  readonly mapped: number
}

/** This process's memory, by the kernel's account (Linux). */
export function ownMemory(): Memory {
  const status = readFileSync('/proc/self/status', 'utf8')
  const field = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(status)?.[1] ?? 0) * 1024
  return { anonymous: field('RssAnon'), mapped: field('RssFile') }
}
