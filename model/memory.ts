import { readFile } from 'node:fs/promises'
import path from 'node:path'

/** How much memory this process could take now, without swapping, and what bounds it. */
export interface AvailableMemory {
  readonly bytes: number
  /** As it stands in a sentence: "this machine", "the container's limit of 4000 MB". */
  readonly boundBy: string
}

/** A file's text; rejects where there is none. Replaced in tests. */
type Read = (file: string) => Promise<string>

const CGROUPS = '/sys/fs/cgroup'

/**
 * The least of what the machine has left and what each memory limit above this process leaves: a container's limit says
 * nothing of how full its machine is, nor the other way round. What the system keeps of files for speed alone counts as free in both.
 *
 * Source: Linux, Documentation/filesystems/proc.rst (MemAvailable), admin-guide/cgroup-v2.rst (memory.max, memory.high,
 *   memory.current, memory.stat), admin-guide/cgroup-v1/memory.rst.
 */
export async function availableMemory(read: Read = (file) => readFile(file, 'utf8')): Promise<AvailableMemory> {
  const found = [...(await machineMemory(read)), ...(await cgroupMemory(read))]
  return found.reduce((least, one) => (one.bytes < least.bytes ? one : least))
}

async function machineMemory(read: Read): Promise<AvailableMemory[]> {
  const kilobytes = /^MemAvailable:\s+(\d+) kB$/m.exec(await textOf(read, '/proc/meminfo'))?.[1]
  // Where there is no such file, libuv knows what the system calls free.
  const bytes = kilobytes === undefined ? process.availableMemory() : Number(kilobytes) * 1024
  return [{ bytes, boundBy: 'this machine' }]
}

interface CgroupFiles {
  readonly limits: readonly string[]
  readonly usage: string
  /** Keys of memory.stat: pages of files, which are given up when memory is needed. */
  readonly files: readonly string[]
}

const V2: CgroupFiles = {
  limits: ['memory.max', 'memory.high'],
  usage: 'memory.current',
  files: ['active_file', 'inactive_file'],
}
const V1: CgroupFiles = {
  limits: ['memory.limit_in_bytes'],
  usage: 'memory.usage_in_bytes',
  files: ['total_active_file', 'total_inactive_file'],
}

async function cgroupMemory(read: Read): Promise<AvailableMemory[]> {
  const membership = await textOf(read, '/proc/self/cgroup')
  const found: AvailableMemory[] = []
  for (const [, controllers, group] of membership.matchAll(/^\d+:([^:]*):(.*)$/gm)) {
    const isV2 = controllers === ''
    if (!isV2 && !controllers!.split(',').includes('memory')) continue
    const root = isV2 ? CGROUPS : path.join(CGROUPS, 'memory')
    // Limits of those above hold, too. In a container the path may be the host's, and lead nowhere: its root is its own group.
    const names = group!.split('/').filter((name) => name !== '' && name !== '..')
    for (let depth = names.length; depth >= 0; depth--) {
      const left = await leftInCgroup(read, path.join(root, ...names.slice(0, depth)), isV2 ? V2 : V1)
      if (left !== undefined) found.push(left)
    }
  }
  return found
}

async function leftInCgroup(read: Read, folder: string, names: CgroupFiles): Promise<AvailableMemory | undefined> {
  const limits = await Promise.all(names.limits.map(async (name) => textOf(read, path.join(folder, name))))
  // "max" is none, and so is a file that is not there.
  const limit = Math.min(...limits.map((text) => (/^\d+$/.test(text.trim()) ? Number(text) : Number.POSITIVE_INFINITY)))
  if (limit === Number.POSITIVE_INFINITY) return undefined
  const stat = await textOf(read, path.join(folder, 'memory.stat'))
  const usage = Number(await textOf(read, path.join(folder, names.usage)))
  const files = names.files.map((name) => Number(new RegExp(`^${name} (\\d+)$`, 'm').exec(stat)?.[1] ?? 0))
  const bytes = limit - usage + files.reduce((sum, one) => sum + one, 0)
  return { bytes: Math.max(bytes, 0), boundBy: `the container's limit of ${Math.round(limit / 1e6)} MB` }
}

function textOf(read: Read, file: string): Promise<string> {
  return read(file).catch(() => '')
}
