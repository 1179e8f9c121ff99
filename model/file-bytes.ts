import type { FileHandle } from 'node:fs/promises'
import { CheckpointError } from './errors.js'

/**
 * Fills `into` with a file's bytes from `position` on.
 * @throws {CheckpointError} the file ends before: somebody changed it after its size was asked for.
 */
export async function readFully(handle: FileHandle, path: string, position: number, into: Uint8Array): Promise<void> {
  let done = 0
  while (done < into.byteLength) {
    const { bytesRead } = await handle.read(into, done, into.byteLength - done, position + done)
    if (bytesRead === 0) {
      throw new CheckpointError(path, `ended at byte ${position + done} while ${into.byteLength} were being read.`)
    }
    done += bytesRead
  }
}
