import { join } from 'node:path'
import type { Test } from 'tap'
import { type PullOptions, pullSnapshot } from '../../model/hub/snapshot.js'
import type { Progress } from '../../model/progress.js'
import { gemmaRepository } from './checkpoint.js'
import { type FakeClock, fakeClock } from './fake-clock.js'
import { type FakeHub, startFakeHub } from './fake-hub.js'

export const ID = 'google/gemma-2b-it'
/** The Hub knows this token; what it opens is said in a test. */
export const TOKEN = 'hf_good'
export const SHARD = 'model-00001-of-00002.safetensors'

/** A Hub with gemma-2b-it on it, an empty cache, and what a pull said. */
export interface Scene {
  readonly hub: FakeHub
  readonly commit: string
  readonly cacheDir: string
  /** The folder of the model in the cache. */
  readonly home: string
  readonly clock: FakeClock
  readonly lines: string[]
  readonly reports: Progress[]
  pull(options?: Partial<PullOptions>): ReturnType<typeof pullSnapshot>
}

export async function scene(test: Pick<Test, 'teardown' | 'testdir'>, files = gemmaRepository()): Promise<Scene> {
  const hub = await startFakeHub([TOKEN, 'hf_other'])
  test.teardown(() => hub.close())
  const commit = hub.push(ID, files)
  const cacheDir = test.testdir()
  const clock = fakeClock()
  const lines: string[] = []
  const reports: Progress[] = []
  return {
    hub,
    cacheDir,
    home: join(cacheDir, 'hub', 'google--gemma-2b-it'),
    clock,
    lines,
    reports,
    commit,
    pull: (options) =>
      pullSnapshot({
        id: ID,
        cacheDir,
        endpoint: hub.url,
        clock,
        log: (line) => lines.push(line),
        report: (progress) => reports.push(progress),
        ...options,
      }),
  }
}

export async function failure(promise: Promise<unknown>): Promise<Error> {
  try {
    await promise
  } catch (error) {
    return error as Error
  }
  throw new Error('It was to fail, and did not.')
}
