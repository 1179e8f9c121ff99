import { TransientError } from './retry.js'

/**
 * The bytes of an answer as they come.
 *
 * @throws {TransientError} the connection was lost. What the caller's loop throws passes as it is, so that a full disk is
 *   never taken for a lost connection.
 */
export async function* readBody(response: Response): AsyncGenerator<Uint8Array> {
  if (response.body === null) return
  const chunks = response.body[Symbol.asyncIterator]()
  let ended = false
  try {
    for (;;) {
      const next = await chunks.next()
      ended = next.done === true
      if (next.done) return
      yield next.value
    }
  } catch (error) {
    ended = true
    if (error instanceof TransientError) throw error
    throw new TransientError(`the connection was lost (${networkReason(error)})`, { cause: error })
  } finally {
    if (!ended) await chunks.return?.()
  }
}

/** What happened on the network: fetch says "fetch failed" or "terminated", and keeps the reason as the cause. */
export function networkReason(error: unknown): string {
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error
  if (!(cause instanceof Error)) return 'unknown reason'
  return 'code' in cause && typeof cause.code === 'string' ? cause.code : cause.message
}
