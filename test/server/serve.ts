import { exitOnSignals, startServer } from '../../server/main.js'

/** The server as a program: `serve.ts <cog.yaml>`. Its log, JSON lines on stdout, tells where it listens. */
exitOnSignals(await startServer({ env: process.env, cogFile: process.argv[2]! }))
