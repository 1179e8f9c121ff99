import { createHash } from 'node:crypto'
import { open, stat } from 'node:fs/promises'
import type { ReportProgress } from '../progress.js'

export interface SourceFile {
  readonly name: string
  readonly path: string
}

/** `sha256` in hexadecimal. */
export interface HashedFile {
  readonly name: string
  readonly bytes: number
  readonly sha256: string
}

/** What is hashed between two looks at the clock, the progress bar and the signal. */
const CHUNK_BYTES = 8 << 20

/** SHA-256 of each file. Reads each once from its start to its end. */
export async function hashFiles(
  files: readonly SourceFile[],
  report: ReportProgress,
  signal?: AbortSignal,
): Promise<HashedFile[]> {
  const sizes = await Promise.all(files.map(async (file) => (await stat(file.path)).size))
  const total = sizes.reduce((sum, size) => sum + size, 0)
  const chunk = new Uint8Array(CHUNK_BYTES)
  const hashed: HashedFile[] = []
  let done = 0
  for (const file of files) {
    const hash = createHash('sha256')
    const handle = await open(file.path, 'r')
    let bytes = 0
    try {
      for (;;) {
        signal?.throwIfAborted()
        const { bytesRead } = await handle.read(chunk, 0, chunk.byteLength, bytes)
        if (bytesRead === 0) break
        hash.update(chunk.subarray(0, bytesRead))
        bytes += bytesRead
        done += bytesRead
        report({ phase: 'Hashing the checkpoint', done, total, unit: 'bytes' })
      }
    } finally {
      await handle.close()
    }
    hashed.push({ name: file.name, bytes, sha256: hash.digest('hex') })
  }
  return hashed
}
