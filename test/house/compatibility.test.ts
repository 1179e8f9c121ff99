import { readFileSync } from 'node:fs'
import t from 'tap'

const root = new URL('../../', import.meta.url)
const page = readFileSync(new URL('docs/cog-compatibility.md', root), 'utf8')

t.test('every difference from Cog names the test that holds it', async (t) => {
  const rows = page.split('\n').filter((line) => line.startsWith('| ') && !/^\| (?:what|---) /.test(line))
  t.ok(rows.length > 15)
  for (const row of rows) {
    const [what, , , file, test] = row
      .slice(2, -2)
      .split(' | ')
      .map((cell) => cell.trim())
    const text = readFileSync(new URL(file!.replaceAll('`', ''), root), 'utf8')
    t.ok(text.includes(test!), `${what}: ${file} has "${test}"`)
  }
})
