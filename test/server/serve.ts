import { exitWhenTold, startServer } from '../../server/main.js'

/** The server as a program: `serve.ts <cog.yaml>`. Beside its log, it prints where it listens and its worker's process id. */
const server = await startServer({ env: process.env, cogFile: process.argv[2]! })
exitWhenTold(server)
process.stdout.write(`${JSON.stringify({ url: server.url, workerPid: server.workerPid })}\n`)
