import { memoryOf } from '../memory.js'
import type { Answer, Contestant, ContestantOptions, Opened, Question } from './contestant.js'

/** The child's side: opens a contestant with the options of the command line and answers its parent, one question at a time. */
export async function serve(open: (options: ContestantOptions) => Promise<Contestant>): Promise<void> {
  const start = performance.now()
  const contestant = await open(JSON.parse(process.argv[2]!) as ContestantOptions)
  await contestant.decode(1, 4, 2)
  const { sessionMs } = contestant
  const opened: Opened = { loadMs: performance.now() - start, ...(sessionMs === undefined ? {} : { sessionMs }) }
  process.send!(opened)
  process.on('message', (question: Question) => {
    answer(contestant, question)
      .catch((error: unknown): Answer => ({ error: error instanceof Error ? error.message : String(error) }))
      .then((result) => process.send!(result))
  })
  process.on('disconnect', () => process.exit(0))
}

async function answer(contestant: Contestant, question: Question): Promise<Answer> {
  switch (question.kind) {
    case 'prefill':
      return { value: await contestant.prefill(question.tokens) }
    case 'decode':
      return { value: await contestant.decode(question.sequences, question.depth, question.newTokens) }
    case 'pause':
      return { value: await longestPause(() => contestant.prefill(question.tokens)) }
    case 'memory': {
      const { anonymous, mapped } = memoryOf()
      return { memory: { privateBytes: anonymous, mappedBytes: mapped } }
    }
  }
}

/** By a timer of 1 ms: how much later than that it ever came. */
async function longestPause(work: () => Promise<unknown>): Promise<number> {
  let last = performance.now()
  let longest = 0
  const look = () => {
    const now = performance.now()
    longest = Math.max(longest, now - last - 1)
    last = now
  }
  const timer = setInterval(look, 1)
  await work()
  look()
  clearInterval(timer)
  return longest
}
