import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { pino } from 'pino'
import t from 'tap'
import { setReadinessFile } from '../../server/readiness-file.js'

t.test('the file is there while predictions are taken, and not before or after', async (t) => {
  const path = join(t.testdir({ old: { ready: 'left by an earlier process' } }), 'old', 'ready')
  const fresh = join(t.testdirName, 'run', 'cog', 'ready')
  const log = pino({ level: 'silent' })
  setReadinessFile(path, false, log)
  t.notOk(existsSync(path))
  for (const file of [path, fresh]) {
    setReadinessFile(file, true, log)
    setReadinessFile(file, true, log)
    t.equal(readFileSync(file, 'utf8'), '')
    setReadinessFile(file, false, log)
    setReadinessFile(file, false, log)
    t.notOk(existsSync(file))
  }
})

t.test('where no file can be written, the log says so', async (t) => {
  const lines: string[] = []
  const log = pino({ level: 'info' }, { write: (line) => lines.push(line) })
  const path = join(t.testdir({ cog: 'no folder' }), 'cog', 'ready')
  setReadinessFile(path, true, log)
  t.match(lines, [new RegExp(`"reason":"(EEXIST|ENOTDIR).*${path} could not be written"`)])
})
