import t from 'tap'
import { availableMemory } from '../model/memory.js'

const MEMINFO =
  'MemTotal:       24684096 kB\nMemFree:         1000000 kB\nMemAvailable:    8000000 kB\nSwapFree:  9000000 kB\n'

/** A machine of these files, and no others. */
function machine(files: Readonly<Record<string, string>>): (file: string) => Promise<string> {
  const all: Readonly<Record<string, string>> = { '/proc/meminfo': MEMINFO, ...files }
  return async (file) => {
    const text = all[file]
    if (text === undefined) throw new Error(`ENOENT: ${file}`)
    return text
  }
}

t.test('without a limit it is what the machine has left, without swap', async (t) => {
  const whole = { bytes: 8_192_000_000, boundBy: 'this machine' }
  t.same(await availableMemory(machine({})), whole)
  t.same(await availableMemory(machine({ '/proc/self/cgroup': '0::/\n' })), whole)
  const unlimited = { '/proc/self/cgroup': '0::/user.slice\n', '/sys/fs/cgroup/user.slice/memory.max': 'max\n' }
  t.same(await availableMemory(machine(unlimited)), whole)
})

t.test("a container's limit counts, less what is used in it but for files that can be dropped", async (t) => {
  const files = {
    '/proc/self/cgroup': '0::/\n',
    '/sys/fs/cgroup/memory.max': '4000000000\n',
    '/sys/fs/cgroup/memory.high': 'max\n',
    '/sys/fs/cgroup/memory.current': '3000000000\n',
    '/sys/fs/cgroup/memory.stat': 'anon 500000000\nfile 2400000000\ninactive_file 2000000000\nactive_file 400000000\n',
  }
  const found = { bytes: 3_400_000_000, boundBy: "the container's limit of 4000 MB" }
  t.same(await availableMemory(machine(files)), found)
  // Where the container sees its path on the host, which leads nowhere.
  const seen = { ...files, '/proc/self/cgroup': '0::/system.slice/docker-1.scope\n' }
  t.same(await availableMemory(machine(seen)), found)
  const outside = { ...files, '/proc/self/cgroup': '0::/../../other\n' }
  t.same(await availableMemory(machine(outside)), found)
  const throttled = { ...files, '/sys/fs/cgroup/memory.high': '3000000000\n' }
  t.match(await availableMemory(machine(throttled)), { bytes: 2_400_000_000, boundBy: /3000 MB/ })
  const over = { ...files, '/sys/fs/cgroup/memory.max': '400000000\n' }
  t.equal((await availableMemory(machine(over))).bytes, 0)
})

t.test('the tightest of all that hold is what counts', async (t) => {
  const group = (name: string, max: number) => ({
    [`/sys/fs/cgroup/${name}/memory.max`]: `${max}`,
    [`/sys/fs/cgroup/${name}/memory.current`]: '1000000000',
  })
  const files = {
    '/proc/self/cgroup': '0::/pods/pod-1/container\n',
    ...group('pods/pod-1/container', 6_000_000_000),
    ...group('pods/pod-1', 5_000_000_000),
    ...group('pods', 100_000_000_000),
  }
  t.match(await availableMemory(machine(files)), { bytes: 4_000_000_000, boundBy: /5000 MB/ })
  const full = { ...files, '/proc/meminfo': 'MemAvailable:  1000 kB\n' }
  t.same(await availableMemory(machine(full)), { bytes: 1_024_000, boundBy: 'this machine' })
})

t.test('limits of the older kind of groups hold, too', async (t) => {
  const files = {
    '/proc/self/cgroup': '9:name=systemd:/\n4:cpu,memory:/docker/1\n3:cpuset:/\n0::/\n',
    '/sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes': '2000000000\n',
    '/sys/fs/cgroup/memory/docker/1/memory.usage_in_bytes': '1500000000\n',
    '/sys/fs/cgroup/memory/docker/1/memory.stat':
      'inactive_file 7\ntotal_inactive_file 900000000\ntotal_active_file 1\n',
    '/sys/fs/cgroup/memory/memory.limit_in_bytes': '9223372036854771712\n',
    '/sys/fs/cgroup/memory/memory.usage_in_bytes': '7000000000\n',
  }
  t.match(await availableMemory(machine(files)), { bytes: 1_400_000_001, boundBy: /2000 MB/ })
})

t.test('this machine is read as any other', async (t) => {
  const { bytes } = await availableMemory()
  t.ok(bytes > 0 && bytes <= process.constrainedMemory() + Number.MAX_SAFE_INTEGER)
})
