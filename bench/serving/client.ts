import { request } from 'node:http'

/** What is asked of a server; the same text, taken as it is, for every peer. */
export interface Ask {
  readonly prompt: string
  /** Exactly so many tokens are to be generated. */
  readonly newTokens: number
}

/** How one request went. Times in milliseconds of performance.now(). */
export interface Outcome {
  readonly sentAt: number
  /** When each piece of text came. */
  readonly pieces: readonly number[]
  readonly endedAt: number
  readonly text: string
  readonly inputTokens: number
  readonly outputTokens: number
  /** What went wrong; absent where the prediction succeeded. */
  readonly failure?: string
}

interface Completed {
  readonly status: string
  readonly error?: string
  readonly metrics: { readonly input_token_count?: number; readonly output_token_count?: number }
}

/** Sends a prediction and reads its stream to the end. Never rejects: a refusal is an outcome. */
export function ask(url: string, { prompt, newTokens }: Ask): Promise<Outcome> {
  const input = { prompt, raw: true, max_new_tokens: newTokens, min_new_tokens: newTokens, temperature: 0 }
  const headers = { 'content-type': 'application/json', accept: 'text/event-stream' }
  const sentAt = performance.now()
  return new Promise((resolve) => {
    const pieces: number[] = []
    let text = ''
    let completed: Completed | undefined
    const end = (failure?: string) =>
      resolve({
        sentAt,
        pieces,
        endedAt: performance.now(),
        text,
        inputTokens: completed?.metrics.input_token_count ?? 0,
        outputTokens: completed?.metrics.output_token_count ?? 0,
        ...(failure === undefined ? {} : { failure }),
      })
    const sent = request(`${url}/predictions`, { method: 'POST', headers, agent: false }, (response) => {
      let rest = ''
      response.setEncoding('utf8')
      response.on('data', (bytes: string) => {
        rest += bytes
        for (let at = rest.indexOf('\n\n'); at >= 0; at = rest.indexOf('\n\n')) {
          const event = /^event: (\w+)\ndata: (.*)$/.exec(rest.slice(0, at))
          rest = rest.slice(at + 2)
          if (event?.[1] === 'output') {
            pieces.push(performance.now())
            text += (JSON.parse(event[2]!) as { chunk: string }).chunk
          } else if (event?.[1] === 'completed') completed = JSON.parse(event[2]!) as Completed
        }
      })
      response.on('end', () => {
        if (response.statusCode !== 200) end(`${response.statusCode} ${rest.slice(0, 200)}`)
        else if (completed?.status === 'succeeded') end()
        else end(completed?.error ?? `the stream ended as ${completed?.status ?? 'nothing'}`)
      })
      response.on('error', (error) => end(error.message))
    })
    sent.on('error', (error) => end(error.message))
    sent.end(JSON.stringify({ input }))
  })
}
