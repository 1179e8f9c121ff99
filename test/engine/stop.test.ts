import assert from 'node:assert/strict'
import fc from 'fast-check'
import t from 'tap'
import { StopMatcher } from '../../model/engine/stop.js'

function run(pieces: readonly string[], stops: readonly string[]): { out: string[]; stopped: boolean } {
  const matcher = new StopMatcher(stops)
  const out: string[] = []
  for (const piece of pieces) {
    const { text, stopped } = matcher.push(piece)
    out.push(text)
    if (stopped) return { out, stopped }
  }
  return { out: [...out, matcher.flush()], stopped: false }
}

/** The same, on the whole text at once: the first end of any stop string, and there the longest. */
function oracle(text: string, stops: readonly string[]): { text: string; stopped: boolean } {
  for (let end = 1; end <= text.length; end++) {
    const ending = stops.filter((stop) => text.slice(0, end).endsWith(stop))
    const longest = Math.max(0, ...ending.map((stop) => stop.length))
    if (longest > 0) return { text: text.slice(0, end - longest), stopped: true }
  }
  return { text, stopped: false }
}

t.test('text before the stop string goes out, the stop string does not', async (t) => {
  t.same(run(['Hello\nUser', ': hi'], ['\nUser:']), { out: ['Hello', ''], stopped: true })
  t.same(run(['abc'], []), { out: ['abc', ''], stopped: false })
})

t.test('only what may become a stop string is held back, and comes at the end when it does not', async (t) => {
  t.same(run(['one #', '#', ' two ', '##'], ['###']), { out: ['one ', '', '## two ', '', '##'], stopped: false })
  t.same(run(['aaaa', 'ab'], ['aab']), { out: ['aa', 'a'], stopped: true }, 'an end that overlaps itself')
})

t.test(
  'of several stop strings the first to be complete counts, and of those that end together the longest',
  async (t) => {
    t.same(run(['xabcdefy'], ['abcdef', 'cd']), { out: ['xab'], stopped: true })
    t.same(run(['xabcy'], ['c', 'abc']), { out: ['x'], stopped: true })
  },
)

t.test('no stop string leaks and no text is lost, however the text is cut', async (t) => {
  const letters = fc.string({ unit: fc.constantFrom('a', 'b', '😀'), minLength: 1, maxLength: 4 })
  const pieces = fc.array(fc.string({ unit: fc.constantFrom('a', 'b', 'c', '😀', '😁'), maxLength: 5 }), {
    maxLength: 12,
  })
  fc.assert(
    fc.property(pieces, fc.array(letters, { maxLength: 4 }), (pieces, stops) => {
      const { out, stopped } = run(pieces, stops)
      assert.deepEqual({ text: out.join(''), stopped }, oracle(pieces.join(''), stops))
      t.notOk(
        out.some((text) => /\p{Surrogate}/u.test(text)),
        'never half a character',
      )
    }),
    { numRuns: 2000 },
  )
})
