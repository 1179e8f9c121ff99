import { basename, join, resolve, win32 } from 'node:path'
import fc from 'fast-check'
import t from 'tap'
import { HubError } from '../../model/errors.js'
import { formatBytes } from '../../model/hub/format-bytes.js'
import { parseRemoteFile } from '../../model/hub/remote-file.js'

const OID = 'a'.repeat(40)
const SHA = 'b'.repeat(64)

t.test('reads a small file with its git hash, a large one with its SHA-256 and its own size', async (t) => {
  t.strictSame(parseRemoteFile({ type: 'file', path: 'config.json', size: 627, oid: OID }), {
    name: 'config.json',
    sizeBytes: 627,
    hash: { algorithm: 'git-blob', hex: OID },
  })
  const lfs = { oid: SHA, size: 4_945_242_264, pointerSize: 135 }
  t.strictSame(parseRemoteFile({ type: 'file', path: 'model.safetensors', size: 135, oid: OID, lfs }), {
    name: 'model.safetensors',
    sizeBytes: 4_945_242_264,
    hash: { algorithm: 'sha256', hex: SHA },
  })
})

t.test('an entry of any shape is read or refused with a HubError', async () => {
  const entry = fc.oneof(
    fc.anything(),
    fc.record(
      { path: fc.anything(), size: fc.anything(), oid: fc.anything(), lfs: fc.anything() },
      { requiredKeys: [] },
    ),
  )
  fc.assert(
    fc.property(entry, (value) => {
      try {
        parseRemoteFile(value)
        return true
      } catch (error) {
        return error instanceof HubError
      }
    }),
  )
})

t.test('an accepted name lies in the folder, on every system', async () => {
  const piece = fc.constantFrom(
    '..',
    '.',
    '/',
    '\\',
    'a',
    'con',
    'NUL',
    'com1',
    'aux',
    ':',
    ' ',
    '\0',
    '.json',
    '~',
    '$',
    '\u202e',
  )
  const name = fc.oneof(
    fc.string(),
    fc.array(piece, { maxLength: 6 }).map((pieces) => pieces.join('')),
  )
  fc.assert(
    fc.property(name, (path) => {
      let accepted: string
      try {
        accepted = parseRemoteFile({ path, size: 1, oid: OID }).name
      } catch {
        return true
      }
      const inFolder = resolve('/cache/x', accepted) === join('/cache/x', basename(accepted))
      const onWindows = win32.resolve('C:\\cache', accepted) === `C:\\cache\\${accepted}`
      const device = /^(?:con|nul|aux|prn|com\d|lpt\d)(?:\.|$)/i.test(accepted)
      return inFolder && onWindows && !device && !/[. ]$/.test(accepted)
    }),
  )
})

t.test('sizes read as on the pages of the Hub', async (t) => {
  const sizes: [number, string][] = [
    [0, '0 B'],
    [999, '999 B'],
    [1000, '1.00 kB'],
    [9996, '10.0 kB'],
    [99_960, '100 kB'],
    [999_499, '999 kB'],
    [999_500, '1.00 MB'],
    [4_945_242_264, '4.95 GB'],
    [67_121_608, '67.1 MB'],
    [2e15, '2000 TB'],
  ]
  for (const [bytes, text] of sizes) t.equal(formatBytes(bytes), text)
})
