import { execFileSync } from 'node:child_process'
import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Load } from './closed-loop.js'

const WRK = '/usr/bin/wrk'

export const hasWrk = existsSync(WRK)

export interface WrkResult {
  /** Answers of 200 a second, and all others. */
  readonly okPerSecond: number
  readonly refused: number
  /** Of all answers. */
  readonly p99Ms: number
}

/** The closed loop of `wrk`, one thread: what a client in C asks of a server. @param folder for its script. */
export function wrk({ url, connections, seconds, input }: Load, folder: string): WrkResult {
  const script = join(folder, 'load.lua')
  // Lua reads JSON's escapes of ASCII as JSON does.
  const body = JSON.stringify(JSON.stringify({ input }))
  writeFileSync(
    script,
    `wrk.method = "POST"
wrk.path = "/predictions"
wrk.body = ${body}
wrk.headers["content-type"] = "application/json"
ok, refused = 0, 0
local threads = {}
function setup(thread) table.insert(threads, thread) end
function response(status) if status == 200 then ok = ok + 1 else refused = refused + 1 end end
function done(summary, latency)
  local all, bad = 0, 0
  for _, thread in ipairs(threads) do all = all + thread:get("ok"); bad = bad + thread:get("refused") end
  print(string.format('{"seconds":%f,"ok":%d,"refused":%d,"p99":%f}',
    summary.duration / 1e6, all, bad, latency:percentile(99) / 1000))
end
`,
  )
  const text = execFileSync(WRK, ['-t1', `-c${connections}`, `-d${seconds}s`, '--timeout', '20s', '-s', script, url], {
    encoding: 'utf8',
  })
  const result = JSON.parse(text.trim().split('\n').at(-1)!)
  return { okPerSecond: result.ok / result.seconds, refused: result.refused, p99Ms: result.p99 }
}
