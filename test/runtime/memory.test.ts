import t from 'tap'
import { runChild } from './fork.js'

// The account is that of /proc.
const skip = process.platform !== 'linux'
t.test('creating and disposing everything 1,000 times keeps memory flat', { skip }, async (t) => {
  const { message, code, signal } = await runChild('many-times')
  t.same({ code, signal }, { code: 0, signal: null })
  const [first, ...later] = message as number[]
  for (const sample of later) {
    // One tensor has 4 MB: had a hundredth of them stayed, it would show.
    t.ok(sample - first! < 32e6, `${Math.round((sample - first!) / 1e6)} MB more than after 200 rounds`)
  }
})
