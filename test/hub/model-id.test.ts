import fc from 'fast-check'
import t from 'tap'
import { SettingsError } from '../../model/errors.js'
import { isCommit, parseModelId } from '../../model/hub/model-id.js'

const COMMIT = '0123456789abcdef0123456789abcdef01234567'

t.test('reads owner, name and revision', async (t) => {
  t.strictSame(parseModelId('google/gemma-2b-it'), { id: 'google/gemma-2b-it', revision: 'main' })
  t.strictSame(parseModelId('a/b_c.d-1'), { id: 'a/b_c.d-1', revision: 'main' })
  for (const revision of ['main', 'v1.0', 'float16', 'refs/pr/12', 'feature/x_y-z', COMMIT]) {
    t.strictSame(parseModelId(`google/gemma-2b-it@${revision}`), { id: 'google/gemma-2b-it', revision })
  }
})

t.test('reads the GGUF file behind a colon', async (t) => {
  const [id, file] = ['ggml-org/gemma-2b-it-GGUF', 'gemma-2b-it.Q4_0.gguf']
  t.strictSame(parseModelId(`${id}:${file}`), { id, revision: 'main', file })
  t.strictSame(parseModelId(`${id}@v1:A.GGUF`), { id, revision: 'v1', file: 'A.GGUF' })
  for (const name of [
    '',
    'a',
    'a.gguf.bin',
    '.gguf',
    '.a.gguf',
    '../a.gguf',
    'b/a.gguf',
    'a b.gguf',
    'a:b.gguf',
    'a\\b.gguf',
  ]) {
    t.throws(() => parseModelId(`${id}:${name}`), { name: 'SettingsError', message: /is no GGUF file/ }, name)
  }
})

t.test('refuses what is no id, and says what one looks like:', async (t) => {
  const wrong = [
    '',
    'gemma',
    './model',
    '/models/gemma',
    'C:\\models\\gemma',
    'a/b/c',
    'a/',
    '/b',
    '../b',
    'a/..',
    'a--b/c',
    'a/b--c',
    'a/b..c',
    '-a/b',
    'a/b-',
    'a/b.',
    'a b/c',
    'a/b?x',
    'a/b#x',
    'a/b%2f',
    'ä/b',
    `a/${'b'.repeat(97)}`,
    'https://huggingface.co/google/gemma-2b-it',
  ]
  for (const text of wrong) {
    t.throws(() => parseModelId(text), { name: 'SettingsError', setting: 'MODEL' }, JSON.stringify(text))
    t.throws(() => parseModelId(text), /owner\/name@revision, such as google\/gemma-2b-it/)
  }
})

t.test('refuses what is no revision:', async (t) => {
  for (const revision of [
    '',
    '..',
    'a/../b',
    '/main',
    'main/',
    'a//b',
    'a b',
    'a@b',
    '-x',
    'a.lock',
    'x.',
    'a\n',
    '.x',
    'a/.x',
    'a'.repeat(201),
  ]) {
    t.throws(() => parseModelId(`a/b@${revision}`), SettingsError, JSON.stringify(revision))
  }
})

t.test('no accepted text makes a path that leaves its folder', async () => {
  fc.assert(
    fc.property(
      fc.string({ unit: fc.constantFrom('a', '.', '/', '-', '@', '\\', ':', '%', '\0', '.gguf'), maxLength: 30 }),
      (text) => {
        let parsed: ReturnType<typeof parseModelId>
        try {
          parsed = parseModelId(text)
        } catch {
          return true
        }
        const parts = [...parsed.id.split('/'), ...parsed.revision.split('/'), ...(parsed.file?.split('/') ?? [])]
        return parts.every((part) => part !== '' && !part.startsWith('.') && !/[\\:\0%]/.test(part))
      },
    ),
  )
})

t.test('only 40 hex digits are a commit', async (t) => {
  t.ok(isCommit(COMMIT))
  for (const text of ['main', COMMIT.slice(1), `${COMMIT}0`, COMMIT.toUpperCase(), `${COMMIT}\n`])
    t.notOk(isCommit(text), text)
})
