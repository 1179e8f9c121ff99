import { setTimeout as sleep } from 'node:timers/promises'
import { type Ask, ask, type Outcome } from './client.js'

/** Outcomes in the order of the asks, and how long all of it took. */
export interface LoadResult {
  readonly outcomes: readonly Outcome[]
  /** Seconds from the first request to the end of the last. */
  readonly duration: number
}

/** So many users, each sending the next request as soon as the last one has ended. */
export async function closedLoop(url: string, users: number, asks: readonly Ask[]): Promise<LoadResult> {
  const outcomes: Outcome[] = []
  let next = 0
  return timed(outcomes, async () => {
    const user = async () => {
      while (next < asks.length) {
        const index = next++
        outcomes[index] = await ask(url, asks[index]!)
      }
    }
    await Promise.all(Array.from({ length: users }, user))
  })
}

/**
 * Requests that come as they come, whether others have ended or not: a Poisson process.
 * @param rate  requests a second, in the mean
 * @param random  0 ≤ x < 1; the same sequence gives the same arrivals
 */
export async function openLoop(
  url: string,
  rate: number,
  asks: readonly Ask[],
  random: () => number,
): Promise<LoadResult> {
  const outcomes: Outcome[] = []
  const begin = performance.now()
  let at = 0
  const arrivals = asks.map((one) => {
    at += (-Math.log(1 - random()) / rate) * 1000
    return { one, at }
  })
  return timed(outcomes, async () => {
    await Promise.all(
      arrivals.map(async ({ one, at }, index) => {
        await sleep(begin + at - performance.now())
        outcomes[index] = await ask(url, one)
      }),
    )
  })
}

/**
 * Conversations side by side: each user's next turn holds all that was said before.
 * @param opening  what every conversation begins with
 * @param says  the user's words, by user and turn
 * @returns outcomes by turn
 */
export async function conversations(
  url: string,
  { opening, says, newTokens }: { opening: string; says: readonly (readonly string[])[]; newTokens: number },
): Promise<LoadResult[]> {
  const turns: Outcome[][] = says[0]!.map(() => [])
  const begin = performance.now()
  await Promise.all(
    says.map(async (words) => {
      let prompt = opening
      for (const [turn, text] of words.entries()) {
        prompt += `<start_of_turn>user\n${text}<end_of_turn>\n<start_of_turn>model\n`
        const outcome = await ask(url, { prompt, newTokens })
        turns[turn]!.push(outcome)
        prompt += `${outcome.text}<end_of_turn>\n`
      }
    }),
  )
  const duration = (performance.now() - begin) / 1000
  return turns.map((outcomes) => ({ outcomes, duration }))
}

async function timed(outcomes: readonly Outcome[], run: () => Promise<void>): Promise<LoadResult> {
  const begin = performance.now()
  await run()
  return { outcomes, duration: (performance.now() - begin) / 1000 }
}
