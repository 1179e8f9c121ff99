import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import t, { type Test } from 'tap'
import type { Outcome } from '../../bench/serving/client.js'
import { servingFigures } from '../../bench/serving/figures.js'
import { closedLoop, conversations, openLoop } from '../../bench/serving/load.js'
import { asks, seeded } from '../../bench/serving/prompts.js'

t.test("figures are vLLM's, over what succeeded", async (t) => {
  const outcome = (pieces: number[], endedAt: number): Outcome => {
    return { sentAt: 0, pieces, endedAt, text: '', inputTokens: 10, outputTokens: 3 }
  }
  const outcomes = [outcome([100, 150, 200], 200), outcome([300, 500, 900], 900), { ...outcome([], 5), failure: '503' }]
  t.match(servingFigures({ outcomes, duration: 2 }, { ttft: 200, tpot: 60 }), {
    completed: 2,
    failed: 1,
    total_input_tokens: 20,
    total_output_tokens: 6,
    request_throughput: 1,
    request_goodput: 0.5,
    output_throughput: 3,
    total_token_throughput: 13,
    mean_ttft_ms: 200,
    median_ttft_ms: 100,
    p99_ttft_ms: 300,
    mean_tpot_ms: 175,
    mean_itl_ms: 175,
    p99_itl_ms: 400,
    mean_e2el_ms: 550,
  })
})

t.test('the same seed gives the same requests', async (t) => {
  const lengths = { least: 5, newTokens: 4 }
  t.same(asks(20, lengths, seeded(3)), asks(20, lengths, seeded(3)))
  t.not(asks(1, lengths, seeded(3))[0]!.prompt, asks(1, lengths, seeded(4))[0]!.prompt)
})

/** A server that answers each prompt with its own length in two pieces, and refuses what says so. */
async function server(t: Test) {
  let atOnce = 0
  let most = 0
  const listening = createServer((request, response) => {
    most = Math.max(most, ++atOnce)
    response.once('close', () => atOnce--)
    let body = ''
    request.on('data', (bytes) => {
      body += bytes
    })
    request.on('end', () => {
      const { prompt, max_new_tokens } = JSON.parse(body).input as { prompt: string; max_new_tokens: number }
      if (prompt.includes('refuse')) {
        response.writeHead(409).end('{"error":"full"}')
        return
      }
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      for (const [index, chunk] of ['<', `${prompt.length}>`].entries()) {
        response.write(`event: output\ndata: ${JSON.stringify({ chunk, index })}\n\n`)
      }
      const metrics = { input_token_count: prompt.length, output_token_count: max_new_tokens }
      response.end(`event: completed\ndata: ${JSON.stringify({ status: 'succeeded', metrics })}\n\n`)
    })
  }).listen(0, '127.0.0.1')
  await new Promise((resolve) => listening.once('listening', resolve))
  t.teardown(() => listening.close())
  return { url: `http://127.0.0.1:${(listening.address() as AddressInfo).port}`, most: () => most }
}

t.test('a closed loop has no more requests under way than users, and a refusal is counted', async (t) => {
  const { url, most } = await server(t)
  const wanted = ['a', 'bb', 'refuse', 'dddd', 'eeeee'].map((prompt) => ({ prompt, newTokens: 7 }))
  const { outcomes } = await closedLoop(url, 2, wanted)
  t.same(
    outcomes.map(({ text, inputTokens, outputTokens, failure }) => failure ?? [text, inputTokens, outputTokens]),
    [['<1>', 1, 7], ['<2>', 2, 7], '409 {"error":"full"}', ['<4>', 4, 7], ['<5>', 5, 7]],
  )
  t.ok(most() <= 2)
})

t.test('an open loop sends every request, whatever the others do', async (t) => {
  const { url } = await server(t)
  const { outcomes } = await openLoop(url, 1000, asks(10, { least: 2, newTokens: 1 }, seeded(1)), seeded(2))
  t.equal(outcomes.filter(({ failure }) => failure === undefined).length, 10)
})

t.test('each turn of a conversation holds all that was said before', async (t) => {
  const { url } = await server(t)
  const says = [
    ['one', 'two'],
    ['three', 'four'],
  ]
  const [first, second] = await conversations(url, { opening: 'opening', says, newTokens: 5 })
  const turn = (words: string) => `<start_of_turn>user\n${words}<end_of_turn>\n<start_of_turn>model\n`.length
  t.same(first!.outcomes.map(({ inputTokens }) => inputTokens).sort(), [7 + turn('one'), 7 + turn('three')].sort())
  const answered = (words: string) => 7 + turn(words) + `<${7 + turn(words)}><end_of_turn>\n`.length
  t.same(
    second!.outcomes.map(({ inputTokens }) => inputTokens).sort(),
    [answered('one') + turn('two'), answered('three') + turn('four')].sort(),
  )
})
