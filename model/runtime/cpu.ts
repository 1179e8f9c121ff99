import { readFile } from 'node:fs/promises'
import { cpus } from 'node:os'

/** Flags of /proc/cpuinfo that MLAS and KleidiAI may choose a kernel by, and so the layout that weights are packed in. */
const X86_KERNELS = /^(sse|ssse|avx|fma|f16c|amx|vnni)/

/**
 * What of this CPU decides how ONNX Runtime packs weights: its instruction set on Linux, its model elsewhere. Two machines
 * with the same answer read each other's packed weights.
 */
export async function cpuIdentity(): Promise<string> {
  const models = [...new Set(cpus().map(({ model }) => model))].sort().join(', ')
  if (process.platform !== 'linux') return `${process.arch} ${models}`
  const text = await readFile('/proc/cpuinfo', 'utf8').catch(() => '')
  const features = parseCpuFeatures(text)
  return features.length > 0 ? `${process.arch} ${features.join(' ')}` : `${process.arch} ${models}`
}

/**
 * The instruction set in /proc/cpuinfo, sorted: x86 says `flags`, of which most are no business of ours, ARM `Features`.
 * Where cores differ (big and little), only what all of them have.
 */
export function parseCpuFeatures(cpuinfo: string): string[] {
  const cores = [...cpuinfo.matchAll(/^(flags|Features)\s*:\s*(.*)$/gm)].map(([, field, list]) => {
    const features = list!.trim().split(/\s+/)
    return new Set(field === 'flags' ? features.filter((feature) => X86_KERNELS.test(feature)) : features)
  })
  const [first, ...rest] = cores
  if (!first) return []
  return [...first].filter((feature) => rest.every((core) => core.has(feature))).sort()
}
