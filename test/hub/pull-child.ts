import { pullSnapshot } from '../../model/hub/snapshot.js'

/**
 * A process of its own that pulls, and sends its parent every report and line: `[id, endpoint, cacheDir]` as arguments.
 */
const [id = '', endpoint = '', cacheDir = ''] = process.argv.slice(2)
const send = (message: object) => process.send?.(message)

const { path } = await pullSnapshot({
  id,
  endpoint,
  cacheDir,
  report: ({ phase, done }) => send({ phase, done }),
  log: (line) => send({ line }),
})
send({ path })
process.disconnect?.()
