/**
 * llama.cpp behind the plainest server that streams, for bench/serve.ts: one sequence of its context for each of so many
 * requests at once, the others wait. It answers `POST /predictions` and `GET /health-check` as far as that benchmark asks.
 *
 *   PORT=… CONTEXT_LENGTH=… node --import tsx bench/peers/llama-server.ts <file.gguf> <sequences>
 */
import { createServer, type ServerResponse } from 'node:http'
import { availableParallelism } from 'node:os'
import { getLlama, type LlamaContextSequence, LlamaLogLevel } from 'node-llama-cpp'

interface Input {
  readonly prompt: string
  readonly max_new_tokens: number
}

const [modelPath, count] = process.argv.slice(2) as [string, string]
const threads = availableParallelism()
const sequences = Number(count)
const llama = await getLlama({ gpu: false, build: 'never', maxThreads: threads, logLevel: LlamaLogLevel.error })
const model = await llama.loadModel({ modelPath, gpuLayers: 0 })
const context = await model.createContext({ sequences, contextSize: Number(process.env.CONTEXT_LENGTH), threads })
const free: LlamaContextSequence[] = Array.from({ length: sequences }, () => context.getSequence())
const waiting: ((sequence: LlamaContextSequence) => void)[] = []

/** The free sequence that holds most of this prompt already, as llama.cpp's own server chooses. */
async function take(prompt: readonly number[]): Promise<LlamaContextSequence> {
  if (free.length === 0) return new Promise((resolve) => waiting.push(resolve))
  const held = free.map((sequence) => sequence.compareContextTokens([...prompt] as never).firstDifferentIndex)
  return free.splice(held.indexOf(Math.max(...held)), 1)[0]!
}

function giveBack(sequence: LlamaContextSequence): void {
  const next = waiting.shift()
  if (next) next(sequence)
  else free.push(sequence)
}

async function predict({ prompt, max_new_tokens }: Input, response: ServerResponse): Promise<void> {
  const send = (event: string, data: object) => response.write(`event: ${event}\ndata: ${JSON.stringify(data)}\n\n`)
  response.writeHead(200, { 'content-type': 'text/event-stream' })
  // Special tokens in the text are tokens, as in a prompt that is taken as it is.
  const bos = model.tokens.bos === null ? [] : [model.tokens.bos]
  const tokens = [...bos, ...model.tokenize(prompt, true)]
  const sequence = await take(tokens)
  let generated = 0
  try {
    const { firstDifferentIndex } = sequence.compareContextTokens(tokens)
    // At least the last token is read anew: its logits give the first of the answer.
    const kept = Math.min(firstDifferentIndex, tokens.length - 1)
    await sequence.eraseContextTokenRanges([{ start: kept, end: sequence.nextTokenIndex }])
    for await (const token of sequence.evaluate(tokens.slice(kept), { temperature: 0, yieldEogToken: true })) {
      send('output', { chunk: model.detokenize([token]), index: generated })
      if (++generated === max_new_tokens) break
    }
  } finally {
    giveBack(sequence)
  }
  const metrics = { input_token_count: tokens.length, output_token_count: generated }
  send('completed', { status: 'succeeded', metrics })
  response.end()
}

const server = createServer((request, response) => {
  request.socket.setNoDelay(true)
  if (request.url === '/health-check') {
    response.end('{"status":"READY"}')
    return
  }
  let body = ''
  request.setEncoding('utf8')
  request.on('data', (text: string) => {
    body += text
  })
  request.on('end', () => {
    const { input } = JSON.parse(body) as { input: Input }
    predict(input, response).catch((error: unknown) => response.destroy(error as Error))
  })
})
server.listen(Number(process.env.PORT), '127.0.0.1')
process.once('SIGTERM', () => process.exit(0))
