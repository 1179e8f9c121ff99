import { LogitsError, TokenMaskError } from '../errors.js'
import type { ChosenToken, LogprobQuestion } from './logprobs.js'
import type { Request } from './request.js'
import type { Batch, Runner } from './runner.js'
import type { Candidates, SamplingRow } from './sampler.js'

/** What a step gave each of its requests that was due a token: one, or the reason for none. */
export type Tokens = ReadonlyMap<Request, ChosenToken | Error>

/** Asks nothing: for a row whose token nobody will look at. */
const PLAIN_ROW: SamplingRow = { temperature: 1, penalty: 1, edits: new Map(), candidates: 1 }

/**
 * Runs a step's batches, and chooses a token for each of the requests.
 *
 * @param requests  one for each wanted row, in the order of the batches.
 * @throws what Runner.run throws. Then no request has got a token, and each keeps its state.
 */
export async function chooseTokens(
  runner: Runner,
  batches: readonly Batch[],
  requests: readonly Request[],
  signal: AbortSignal,
): Promise<Tokens> {
  const tokens = new Map<Request, number | Error>()
  const rows = requests.map((request) => {
    const row = rowOf(request)
    if (!(row instanceof Error)) return row
    // The others of the step must not wait for it, so it runs along once more.
    tokens.set(request, row)
    return PLAIN_ROW
  })
  const candidates = await runner.run(batches, rows, signal)
  for (const [index, request] of requests.entries()) {
    const token = tokens.get(request) ?? choose(request, candidates[index]!)
    if (token !== undefined) tokens.set(request, token)
  }
  // Nearly always the candidates at hand will do. The model's logits stay for more until its next run.
  for (const [index, request] of requests.entries()) {
    let known = candidates[index]!.values.length
    while (!tokens.has(request)) {
      const more = await runner.widen(index, rows[index]!, known)
      const token = choose(request, more)
      if (token !== undefined) tokens.set(request, token)
      known = more.values.length
    }
  }
  return withLogprobs(runner, requests, tokens)
}

/** Where requests ask for them, after all tokens are chosen: what they cost is not the others', and nor is their run. */
async function withLogprobs(
  runner: Runner,
  requests: readonly Request[],
  tokens: ReadonlyMap<Request, number | Error>,
): Promise<Tokens> {
  const questions: LogprobQuestion[] = []
  for (const [row, request] of requests.entries()) {
    const id = tokens.get(request)
    if (request.logprobs === undefined || typeof id !== 'number') continue
    questions.push({ row, id, alternatives: request.logprobs })
  }
  const answers = questions.length === 0 ? [] : await runner.logprobs(questions)
  const byRow = new Map(questions.map(({ row }, index) => [row, answers[index]!]))
  return new Map(
    requests.map((request, row) => {
      const id = tokens.get(request)!
      const logprob = byRow.get(row)
      return [request, id instanceof Error ? id : { id, ...(logprob && { logprob }) }] as const
    }),
  )
}

function rowOf(request: Request): SamplingRow | Error {
  try {
    return request.sampler.row()
  } catch (error) {
    if (error instanceof TokenMaskError) return error
    throw error
  }
}

function choose(request: Request, candidates: Candidates): number | Error | undefined {
  try {
    return request.sampler.choose(candidates)
  } catch (error) {
    if (error instanceof LogitsError) return error
    throw error
  }
}
