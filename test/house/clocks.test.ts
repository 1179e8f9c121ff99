import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'

const root = fileURLToPath(new URL('../..', import.meta.url))

/** Where the machine's clock is read, which may jump, and what for; all that is measured is measured by `performance.now`. */
const READERS: Readonly<Record<string, string>> = {
  'server/service.ts': 'the times of setup that /health-check tells',
  'server/webhooks.ts': 'the time that a signature carries',
  'model/hub/retry.ts': 'to compare with the date of a Retry-After',
  'model/hub/lock.ts': 'the time of a file: a sign of life, and the age of what a killed process left',
  'model/runtime/packed-cache.ts': 'the age of a file',
}

t.test('the clock of the machine, which may jump, is read only to be told or to be compared with dates', async (t) => {
  const files = ['server', 'model'].flatMap((folder) =>
    readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
      .filter((file) => file.endsWith('.ts'))
      .map((file) => join(folder, file)),
  )
  const readers = files.filter((file) => /\bDate\.now\b|\bnew Date\(\)/.test(readFileSync(join(root, file), 'utf8')))
  t.strictSame(readers.sort(), Object.keys(READERS).sort())
})
