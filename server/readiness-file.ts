import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import type { Logger } from 'pino'

/** Where Cog's containers have it, for a probe such as `test -f /var/run/cog/ready`. */
export const READINESS_FILE = '/var/run/cog/ready'

/**
 * Makes or removes the empty file that is there while predictions are taken. A file system that refuses is told in the log,
 * and disturbs nothing.
 */
export function setReadinessFile(path: string, ready: boolean, log: Logger): void {
  try {
    if (!ready) {
      rmSync(path, { force: true })
      return
    }
    mkdirSync(dirname(path), { recursive: true })
    writeFileSync(path, '')
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    // No warning: most who run on Kubernetes ask /readyz, and give the container no folder for this.
    log.info({ reason }, `${path} could not be ${ready ? 'written' : 'removed'}`)
  }
}
