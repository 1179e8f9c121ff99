import { readdirSync, readFileSync } from 'node:fs'

export interface Memory {
  /** Bytes that no file backs and no other process shares: what this process costs. */
  readonly anonymous: number
  /** Bytes of files that are mapped and in memory: pages that others share, and that the system may drop. */
  readonly mapped: number
}

/** A process's memory, by the kernel's account (Linux). */
export function memoryOf(pid: number | 'self' = 'self'): Memory {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8')
  const field = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(status)?.[1] ?? 0) * 1024
  return { anonymous: field('RssAnon'), mapped: field('RssFile') }
}

/** The processes that a process has started, by whichever of its threads, and that live. */
export function childrenOf(pid: number): number[] {
  return readdirSync(`/proc/${pid}/task`).flatMap((thread) => {
    const text = readFileSync(`/proc/${pid}/task/${thread}/children`, 'utf8').trim()
    return text === '' ? [] : text.split(' ').map(Number)
  })
}
