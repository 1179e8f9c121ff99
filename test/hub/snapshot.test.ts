import { existsSync } from 'node:fs'
import { mkdir, readdir, readFile, rm, symlink, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { DiskFullError, HubError } from '../../model/errors.js'
import { systemClock } from '../../model/hub/retry.js'
import { findSnapshot } from '../../model/hub/snapshot.js'
import { GEMMA_FILES, gemmaRepository, noise } from './checkpoint.js'
import { json, sendPart } from './fake-hub.js'
import { failure, ID, type Scene, SHARD, scene } from './scene.js'

t.test('pulls the files an export needs, each with its bytes, into one folder of the commit', async (t) => {
  const { hub, pull, home, commit, lines } = await scene(t)
  const snapshot = await pull()
  t.equal(snapshot.path, join(home, commit))
  t.equal(snapshot.commit, commit)
  t.strictSame([...snapshot.files].sort(), GEMMA_FILES)
  for (const name of GEMMA_FILES) {
    t.ok((await readFile(join(snapshot.path, name))).equals(Buffer.from(gemmaRepository()[name] ?? '')), name)
  }
  t.strictSame((await readdir(snapshot.path)).sort(), ['.snapshot.json', ...GEMMA_FILES])
  t.strictSame((await readdir(home)).sort(), [commit, 'refs'], 'no lock and no partial folder is left')
  t.strictSame(lines, [])
  t.ok(hub.requests.some((request) => request.path.endsWith('/revision/main')))
})

t.test('reports the bytes of all files together, never past the total', async (t) => {
  const { pull, reports } = await scene(t)
  await pull()
  const files = gemmaRepository()
  const total = GEMMA_FILES.reduce((bytes, name) => bytes + Buffer.from(files[name] ?? '').length, 0)
  t.ok(reports.length >= GEMMA_FILES.length)
  t.ok(reports.every((report) => report.phase === 'download' && report.unit === 'bytes' && report.total === total))
  t.ok(reports.every((report, i) => report.done >= (reports[i - 1]?.done ?? 0) && report.done <= total))
  t.equal(reports.at(-1)?.done, total)
})

t.test('a snapshot by its commit needs no network once it is there', async (t) => {
  const { hub, pull, commit } = await scene(t)
  await pull({ revision: commit })
  const asked = hub.requests.length
  t.equal((await pull({ revision: commit })).commit, commit)
  t.equal(hub.requests.length, asked)
})

t.test('an unmoved branch costs one question', async (t) => {
  const { hub, pull, commit } = await scene(t)
  await pull()
  const asked = hub.requests.length
  t.equal((await pull()).commit, commit)
  t.strictSame(
    hub.requests.slice(asked).map((request) => request.path),
    [`/api/models/${ID}/revision/main`],
  )
})

t.test('a branch that has moved is pulled anew, without the files that stayed the same', async (t) => {
  const { hub, pull, home, commit } = await scene(t)
  await pull()
  const moved = hub.push(ID, { ...gemmaRepository(), 'generation_config.json': '{"eos_token_id":[1,107]}\n' })
  const asked = hub.requests.length
  const snapshot = await pull()
  t.equal(snapshot.commit, moved)
  t.equal(await readFile(join(snapshot.path, 'generation_config.json'), 'utf8'), '{"eos_token_id":[1,107]}\n')
  t.strictSame(
    hub.requests
      .slice(asked)
      .filter((request) => request.path.includes('/resolve/'))
      .map((request) => request.path),
    [`/${ID}/resolve/${moved}/generation_config.json`],
  )
  t.strictSame((await readdir(home)).sort(), [commit, moved, 'refs'].sort(), 'the old snapshot stays')
})

t.test('findSnapshot knows what was pulled last, without the network', async (t) => {
  const { hub, pull, cacheDir, commit } = await scene(t)
  t.equal(await findSnapshot({ id: ID, cacheDir }), undefined)
  await pull()
  await hub.close()
  t.equal((await findSnapshot({ id: ID, cacheDir }))?.commit, commit)
  t.equal((await findSnapshot({ id: ID, cacheDir, revision: commit }))?.commit, commit)
  t.equal(await findSnapshot({ id: ID, cacheDir, revision: 'v2' }), undefined)
  t.equal(await findSnapshot({ id: 'google/gemma-7b-it', cacheDir }), undefined)
})

t.test('uses the snapshot of the last pull, and says so, when the Hub', async (t) => {
  const outages: [string, (scene: Scene) => void | Promise<void>][] = [
    [
      'cannot be reached',
      async ({ hub }) => {
        await hub.close()
      },
    ],
    [
      'is down',
      ({ hub }) => {
        hub.intercept = ({ response }) => Boolean(response.writeHead(503).end())
      },
    ],
    ['refuses the token', ({ hub }) => hub.set(ID, { private: true })],
    [
      'answers nonsense',
      ({ hub }) => {
        hub.intercept = ({ response }) => Boolean(response.end('<html>'))
      },
    ],
  ]
  for (const [name, begin] of outages) {
    t.test(name, async (t) => {
      const here = await scene(t)
      await here.pull()
      await begin(here)
      const snapshot = await here.pull()
      t.equal(snapshot.commit, here.commit)
      t.equal(here.lines.length, 1)
      t.match(here.lines[0], `Using the snapshot of ${ID}@main pulled earlier (commit ${here.commit}): `)
      t.strictSame(here.clock.pauses, [], 'one attempt is enough')
    })
  }
})

t.test('does not fall back where the Hub says that the revision is gone', async (t) => {
  const { hub, pull, home, commit } = await scene(t)
  await mkdir(join(home, 'refs'), { recursive: true })
  await pull()
  await writeFile(join(home, 'refs', 'v1'), commit)
  const error = await failure(pull({ revision: 'v1' }))
  t.type(error, HubError)
  t.match(error.message, `There is no model ${ID} at revision v1`)
  t.match(error.message, 'has no branch, tag or commit "v1"')
  t.equal(hub.requests.at(-1)?.path, `/api/models/${ID}/revision/v1`)
})

t.test('a snapshot that has lost a file is completed, and only what it lacks is downloaded', async (t) => {
  const { hub, pull, cacheDir, commit, lines } = await scene(t)
  const { path } = await pull()
  await rm(join(path, 'tokenizer.json'))
  await truncate(join(path, 'config.json'), 5)
  t.equal(await findSnapshot({ id: ID, cacheDir }), undefined)
  const asked = hub.requests.length
  await pull()
  t.strictSame(
    hub.requests
      .slice(asked)
      .filter((request) => request.path.includes('/resolve/'))
      .map((request) => request.path)
      .sort(),
    [`/${ID}/resolve/${commit}/config.json`, `/${ID}/resolve/${commit}/tokenizer.json`],
  )
  t.equal(await readFile(join(path, 'config.json'), 'utf8'), gemmaRepository()['config.json'])
  t.match(lines, [`The snapshot of ${ID} at commit ${commit} is incomplete: pulling what it lacks.`])
})

t.test('writes no file whose name could leave the folder or means a device', async (t) => {
  const names = [
    '../evil',
    '..',
    '/etc/evil',
    'a/b',
    'a\\b',
    'C:evil',
    'nul',
    'COM1.json',
    'config.json.',
    'evil\u0000',
    'evil\u001b[2J',
    '.hidden',
    'x'.repeat(300),
    'ein\u202etxt',
  ]
  for (const name of names) {
    t.test(JSON.stringify(name.slice(0, 30)), async (t) => {
      const { pull, cacheDir } = await scene(t, { ...gemmaRepository(), [name]: 'evil' })
      const error = await failure(pull({ files: (names) => names }))
      t.type(error, HubError)
      t.match(error.message, 'which is not safe as a name here')
      t.notMatch(error.message, /[\p{Cc}\p{Cf}]/u)
      t.notOk(existsSync(join(cacheDir, 'hub')))
    })
  }
  t.test('and pulls the rest where nobody needs such a file', async (t) => {
    const { pull } = await scene(t, { '../../config.json': 'evil', ...gemmaRepository(), '../evil': 'evil' })
    t.strictSame([...(await pull()).files].sort(), GEMMA_FILES)
  })
})

t.test('refuses a listing', async (t) => {
  const hash = { oid: 'a'.repeat(40) }
  const file = (path: string, fields: object) => ({ type: 'file', path, size: 3, ...hash, ...fields })
  const whole = ['config.json', 'tokenizer.json', 'tokenizer_config.json', 'model.safetensors'].map((path) =>
    file(path, {}),
  )
  const listings: [string, unknown, RegExp][] = [
    ['that is not a list', { error: 'x' }, /cannot be read\. Check HF_ENDPOINT/],
    ['of nothing', [], /it has no config\.json and no tokenizer\.json and no/],
    [
      'with a negative size',
      [...whole.slice(1), file('config.json', { size: -1 })],
      /config\.json with -1 as its size/,
    ],
    [
      'with a size in words',
      [...whole.slice(1), file('config.json', { size: '3' })],
      /config\.json with "3" as its size/,
    ],
    [
      'with a huge text',
      [...whole.slice(1), file('config.json', { size: 1e9 })],
      /config\.json with 1\.00 GB, more than the 256 MB/,
    ],
    [
      'with a huge file',
      [...whole.slice(0, 3), file('model.safetensors', { lfs: { oid: 'b'.repeat(64), size: 1e12 } })],
      /model\.safetensors with 1\.00 TB, more than the 64\.0 GB/,
    ],
    [
      'without a hash',
      [...whole.slice(1), file('config.json', { oid: undefined })],
      /config\.json without a usable git-blob hash/,
    ],
    [
      'with a hash of another kind',
      [...whole.slice(0, 3), file('model.safetensors', { lfs: { oid: 'xyz', size: 3 } })],
      /model\.safetensors without a usable sha256 hash \("xyz"\)/,
    ],
    ['with a file twice', [...whole, whole[0]], /5 files to pull of google\/gemma-2b-it, 1 of them twice/],
    [
      'without weights',
      whole.slice(0, 3),
      /it has no model\.safetensors \(or model\.safetensors\.index\.json with its shards\)/,
    ],
  ]
  for (const [name, listing, message] of listings) {
    t.test(name, async (t) => {
      const { hub, pull } = await scene(t)
      hub.intercept = ({ path, response }) => {
        if (!path.includes('/tree/')) return false
        json(response, listing)
        return true
      }
      const error = await failure(pull())
      t.type(error, HubError)
      t.match(error.message, message)
    })
  }
  t.test('that never ends', async (t) => {
    const { hub, pull } = await scene(t)
    hub.intercept = ({ path, response }) => {
      if (!path.includes('/tree/')) return false
      response.setHeader('link', `<${hub.url}${path}>; rel="next"`)
      json(response, [])
      return true
    }
    t.match((await failure(pull())).message, /lists more than 20 pages of files/)
  })
  t.test('that is too large', async (t) => {
    const { hub, pull } = await scene(t)
    hub.intercept = ({ path, response }) => {
      if (!path.includes('/tree/')) return false
      response.end(Buffer.alloc(8_000_001, '['))
      return true
    }
    t.match((await failure(pull())).message, /answers with more than 8 MB/)
  })
})

t.test('a commit that is none is refused', async (t) => {
  const { hub, pull } = await scene(t)
  hub.intercept = ({ path, response }) => {
    if (!path.includes('/revision/')) return false
    json(response, { sha: '../../evil' })
    return true
  }
  t.match((await failure(pull())).message, `gave no commit for ${ID} at revision main`)
})

t.test('says before the first byte that the disk is too small', async (t) => {
  const { hub, pull, home, commit } = await scene(t)
  const error = await failure(pull({ freeBytes: async () => 1000 }))
  t.type(error, DiskFullError)
  t.equal((error as DiskFullError).path, join(home, `${commit}.partial`))
  t.match(error.message, 'no space left on this disk (391 kB are to be downloaded, 1.00 kB are free)')
  t.notOk(hub.requests.some((request) => request.path.includes('/resolve/')))
  await t.resolves(pull({ freeBytes: async () => undefined }), 'a disk that cannot tell is tried')
})

t.test('counts what is there already when it asks for space', async (t) => {
  const { pull, home, commit } = await scene(t)
  await mkdir(join(home, `${commit}.partial`), { recursive: true })
  await writeFile(
    join(home, `${commit}.partial`, `${SHARD}.incomplete`),
    noise(300_000, 'shard 1').subarray(0, 299_000),
  )
  await t.resolves(pull({ freeBytes: async () => 100_000 }))
})

// The kernel's own "no space left on device": every write to /dev/full ends so. Only Linux has it.
t.test('a disk that fills up on the way', { skip: !existsSync('/dev/full') }, async (t) => {
  const { hub, pull, home, commit, clock } = await scene(t)
  const partial = join(home, `${commit}.partial`)
  await mkdir(partial, { recursive: true })
  await symlink('/dev/full', join(partial, `${SHARD}.incomplete`))
  const error = await failure(pull())
  t.type(error, DiskFullError)
  t.match(
    error.message,
    `${join(partial, `${SHARD}.incomplete`)}: no space left on this disk. Free some, or choose another`,
  )
  t.strictSame(clock.pauses, [], 'it is not taken for a lost connection')
  t.notOk(existsSync(join(home, commit)))
  t.notOk(existsSync(join(home, `${commit}.lock`)))

  await rm(join(partial, `${SHARD}.incomplete`))
  const asked = hub.requests.length
  await pull()
  t.strictSame(
    hub.requests
      .slice(asked)
      .filter((request) => request.path.includes('/resolve/'))
      .map((request) => request.path),
    [`/${ID}/resolve/${commit}/${SHARD}`],
    'what had arrived is not asked for again',
  )
})

t.test('a cache that is no folder is named', async (t) => {
  const { pull } = await scene(t)
  const file = join(t.testdir({ cache: 'a file' }), 'cache')
  const error = await failure(pull({ cacheDir: file }))
  t.type(error, HubError)
  t.match(error.message, /cannot be used \(ENOTDIR\)\. .* or set MODEL_CACHE to another/)
})

t.test('two pulls in one process download once', async (t) => {
  const { hub, pull } = await scene(t)
  // The real clock: on the fake one, half a minute of waiting is over before a file is there.
  const [one, two] = await Promise.all([pull({ clock: systemClock }), pull({ clock: systemClock })])
  t.strictSame(one, two)
  const asked = hub.requests.filter((request) => request.path.endsWith(SHARD))
  t.strictSame(
    asked.map((request) => request.host),
    ['hub', 'cdn'],
  )
})

t.test('a pull that another process has taken over stops, and leaves the field to it', async (t) => {
  const { hub, pull, home, commit, clock } = await scene(t)
  const lock = join(home, `${commit}.lock`)
  hub.intercept = (exchange) => {
    if (exchange.file?.name !== SHARD) return false
    sendPart(exchange, 50_000, 'hang')
    void writeFile(lock, 'another').then(clock.beat)
    return true
  }
  const error = await failure(pull())
  t.type(error, HubError)
  t.match(error.message, `${lock} was taken over by another process, which goes on with the work.`)
  t.equal(await readFile(lock, 'utf8'), 'another')
  t.notOk(existsSync(join(home, commit)))
})
