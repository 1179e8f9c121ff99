import { fileURLToPath } from 'node:url'
import { exitOnSignals, startServer } from '../../server/main.js'

/** A whole server on a free port: `serve.ts <cog.yaml>`. Its log, as JSON lines on stdout, tells where it listens. */
const server = await startServer({
  env: process.env,
  cogFile: process.argv[2] ?? fileURLToPath(new URL('cog.yaml', import.meta.url)),
})
exitOnSignals(server)
