import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { addressOf } from '../../model/runtime/api.js'
import { discardPages, findLibrary, isLoadable, loadLibrary } from '../../model/runtime/library.js'

t.test('the library of each supported platform is found in the package', async (t) => {
  const packageFolder = t.testdir({
    bin: {
      'napi-v6': {
        linux: { x64: { 'libonnxruntime.so.1': '' }, arm64: { 'libonnxruntime.so.1': '' } },
        darwin: { arm64: { 'libonnxruntime.1.dylib': '' } },
        win32: { x64: { 'onnxruntime.dll': '' } },
      },
    },
  })
  for (const [platform, arch, file] of [
    ['linux', 'x64', 'libonnxruntime.so.1'],
    ['linux', 'arm64', 'libonnxruntime.so.1'],
    ['darwin', 'arm64', 'libonnxruntime.1.dylib'],
    ['win32', 'x64', 'onnxruntime.dll'],
  ] as const) {
    const found = findLibrary({ platform, arch, packageFolder })
    t.equal(found, join(packageFolder, 'bin', 'napi-v6', platform, arch, file))
  }
})

t.test('a platform without a library is named, with those that have one', async (t) => {
  t.throws(() => findLibrary({ platform: 'darwin', arch: 'x64', packageFolder: '/' }), {
    name: 'LibraryError',
    code: 'ORT_LIBRARY',
    message: /no library for darwin-x64.*linux-x64, linux-arm64, darwin-arm64, win32-x64/,
  })
})

t.test('a missing library is named by its path, with the command that mends it', async (t) => {
  t.throws(() => findLibrary({ platform: 'linux', arch: 'x64', packageFolder: '/nowhere' }), {
    name: 'LibraryError',
    message: /1\.30.*\/nowhere\/bin\/napi-v6\/linux\/x64\/libonnxruntime\.so\.1.*npm ci/,
  })
})

t.test('what is no ONNX Runtime is refused, with its path', async (t) => {
  const folder = t.testdir({ 'text.so': 'no library' })
  t.throws(() => loadLibrary(join(folder, 'text.so')), { name: 'LibraryError', message: /text\.so.*npm ci/ })
  if (process.platform === 'linux') {
    t.throws(() => loadLibrary('libc.so.6'), { name: 'LibraryError', message: /libc\.so\.6 cannot be loaded/ })
  }
})

t.test('the installed library loads, in the version that is wanted, with telemetry off', async (t) => {
  const library = loadLibrary()
  t.equal(library.version, '1.30.0')
  t.ok(library.table > 0n)
  t.same(loadLibrary(), library, 'once and again')
  t.equal(process.env.ORT_DISABLE_TELEMETRY, '1', "C's environment is what Node shows on its main thread")
  t.notOk(isLoadable('libnothing-of-this-name.so'))
})

// Elsewhere the system takes the pages when it likes.
const skip = process.platform !== 'linux'
t.test('discarded pages read as zeros, and what shares a page with others stays', { skip }, async (t) => {
  const bytes = new Uint8Array(new SharedArrayBuffer(1 << 20)).fill(7)
  const resident = () => Number(/RssAnon:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))![1])
  const before = resident()
  discardPages(addressOf(bytes), bytes.byteLength - 1)
  t.ok(before - resident() > 700, 'kilobytes')
  t.equal(bytes[1 << 19], 0)
  t.equal(bytes.at(-1), 7)
  discardPages(addressOf(bytes), 100)
  bytes[0] = 1
  t.equal(bytes[0], 1)
})
