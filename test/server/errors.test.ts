import { readFileSync } from 'node:fs'
import t from 'tap'
import { ERRORS, PREDICTION_ERRORS, ServerError } from '../../server/errors.js'

const page = readFileSync(new URL('../../docs/errors.md', import.meta.url), 'utf8')

/** Rows `| CODE | status | body | message | … |` of the page's tables. */
const rows = [...page.matchAll(/^\| `([A-Z_]+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \|/gm)].map((row) =>
  row.slice(1).map((cell) => cell.trim()),
)

t.test('docs/errors.md lists exactly the errors that the server answers, with status, body and words', async (t) => {
  const want = Object.entries(ERRORS).map(([code, { status, form, message }]) => [
    code,
    `${status}`,
    form,
    inCode(message),
  ])
  t.strictSame(
    rows.filter(([code]) => code! in ERRORS),
    want,
  )
})

t.test('docs/errors.md lists exactly the errors of predictions and streams', async (t) => {
  t.strictSame(
    rows.filter(([code]) => !(code! in ERRORS)).map(([code, , , message]) => [code, message]),
    Object.entries(PREDICTION_ERRORS).map(([code, message]) => [code, inCode(message)]),
  )
})

t.test('an error carries its values in its message', async (t) => {
  const error = ServerError.of('BODY_TOO_LARGE', { limit: 100 })
  t.match(error, { code: 'BODY_TOO_LARGE', status: 413, message: /it is over 100 bytes$/ })
  t.equal(
    ServerError.of('BODY_NOT_JSON', { reason: 'a {limit} b' }).message,
    'Failed to parse the request body as JSON: a {limit} b',
  )
})

/** As the page writes a message: in code quotes, doubled where it has some itself. */
function inCode(message: string): string {
  if (message === '') return '–'
  return message.includes('`') ? `\`\` ${message} \`\`` : `\`${message}\``
}
