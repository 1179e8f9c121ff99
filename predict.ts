import { z } from 'zod'
import { Engine, type EngineDescription } from './model/engine/engine.js'
import type { EndEvent } from './model/engine/request.js'
import { InvalidRequestError, PromptTooLongError } from './model/errors.js'
import { openModel } from './model/open.js'
import { parseModelSettings } from './model/settings.js'
import { definePredictor, InputError, type SetupContext, textStream } from './server/predictor.js'

const DEFAULT_PROMPT = 'Write me a poem about Machine Learning.'

/** JSON can carry half of a surrogate pair; no tokenizer can. */
const text = () => z.string().refine((value) => value.isWellFormed(), 'holds a lone surrogate, which is no character')

export const Predictor = definePredictor({
  // The first seven are those of the hosted google-deepmind/gemma-2b-it, in its order and with its defaults.
  input: z.object({
    prompt: text().default(DEFAULT_PROMPT).describe('Text for the model.'),
    max_new_tokens: z.int().min(1).default(256).describe('Most tokens to generate.'),
    min_new_tokens: z.int().min(-1).default(-1).describe('Fewest tokens to generate; -1 for no minimum.'),
    temperature: z
      .number()
      .min(0)
      .max(5)
      .default(0.7)
      .describe('Randomness: 0 always takes the likeliest token, above 1 is wild.'),
    top_p: z
      .number()
      .min(0)
      .max(1)
      .default(0.95)
      .describe('Choose among the likeliest tokens of this total probability.'),
    top_k: z.int().default(50).describe('Choose among this many of the likeliest tokens; 0 or less for all.'),
    repetition_penalty: z
      .number()
      .min(0)
      .refine((value) => value > 0, 'must be greater than 0')
      .default(1)
      .describe('Above 1 discourages what the text already has; 1 is off.'),
    system_prompt: text().optional().describe('Instructions that open the first user turn: Gemma has no system role.'),
    stop_sequences: z
      .union([text(), z.array(text())])
      .optional()
      .describe('Texts that end the answer, separated by commas, or a list of them. They are not part of the answer.'),
    seed: z
      .int()
      .min(0)
      .max(Number.MAX_SAFE_INTEGER)
      .optional()
      .describe('The same seed and input give the same answer; drawn and reported if left out.'),
    messages: z
      .array(z.object({ role: z.enum(['system', 'user', 'assistant']), content: text() }))
      .min(1)
      .optional()
      .describe('A conversation instead of a prompt: turns of user and assistant that end with the user.'),
    raw: z.boolean().default(false).describe('Take the prompt as it is: no chat template, control tokens included.'),
  }),
  output: textStream(),
  streaming: true,

  setup: (context) => setup(context, openModel),

  async check(input, { engine }) {
    if (input.messages && input.prompt !== DEFAULT_PROMPT) {
      throw new InputError('prompt', 'prompt and messages exclude each other. Put the prompt into the last user turn.')
    }
    for (const field of ['messages', 'system_prompt'] as const) {
      if (input.raw && input[field]) throw new InputError(field, `raw takes a prompt only: leave ${field} out.`)
    }
    try {
      return await engine.prepare({
        ...(input.messages ? { messages: input.messages } : { prompt: input.prompt }),
        ...(input.system_prompt === undefined ? {} : { systemPrompt: input.system_prompt }),
        ...(input.seed === undefined ? {} : { seed: input.seed }),
        raw: input.raw,
        maxNewTokens: input.max_new_tokens,
        minNewTokens: Math.max(input.min_new_tokens, 0),
        temperature: input.temperature,
        topP: input.top_p,
        topK: input.top_k,
        repetitionPenalty: input.repetition_penalty,
        stop: stopSequences(input.stop_sequences),
      })
    } catch (error) {
      if (error instanceof PromptTooLongError)
        throw new InputError(input.messages ? 'messages' : 'prompt', error.message)
      if (error instanceof InvalidRequestError) throw new InputError(inputName(error.field), error.message)
      throw error
    }
  },

  async *predict(_input, { engine }, { prepared, signal, metrics }) {
    for await (const event of engine.generate(prepared, { signal })) {
      if (event.type === 'text') yield event.text
      else for (const [name, value] of Object.entries(receipt(event))) metrics.set(name, value)
    }
  },

  async teardown({ engine, runtime }) {
    await engine[Symbol.asyncDispose]()
    await runtime[Symbol.asyncDispose]()
  },
})

/** @param open  tests put a runtime of their own under the model that they open. */
export async function setup(context: SetupContext, open: typeof openModel) {
  const { concurrency, limitConcurrency, log, progress, signal, defunct } = context
  const settings = parseModelSettings(process.env)
  const setupLog = { info: (line: string) => log(line), warn: (line: string) => log(line, 'warn') }
  const { folder, runtime } = await open({ settings, report: progress, log: setupLog, signal })
  const engine = await Engine.open({
    folder,
    runtime,
    slots: concurrency,
    ...(settings.CONTEXT_LENGTH === undefined ? {} : { contextLength: settings.CONTEXT_LENGTH }),
    streamPauseMs: settings.STREAM_PAUSE_MS,
    batchInvariant: settings.BATCH_INVARIANT === 'on',
    log: setupLog,
    onDefunct: ({ message }) => defunct(message),
  })
  limitConcurrency(engine.slots)
  log(startLine(engine.describe()))
  return { engine, runtime }
}

/** `"a,b"` and `["a", "b"]` are the same; an empty text would stop everything at once, and counts as none. */
function stopSequences(value: string | readonly string[] | undefined): string[] {
  const list = typeof value === 'string' ? value.split(',') : (value ?? [])
  return list.filter((sequence) => sequence !== '')
}

/** What the Predictor knows of a run, in tokens and seconds; the server adds its own times and the dollars. */
function receipt(end: EndEvent): Record<string, number | string> {
  const seconds = (ms: number) => Number((ms / 1000).toFixed(6))
  const rate = (tokens: number, ms: number) => Number(((tokens / ms) * 1000).toFixed(2))
  return {
    input_token_count: end.promptTokens,
    cached_token_count: end.cachedTokens,
    output_token_count: end.outputTokens,
    ...(end.timeToFirstTokenMs !== undefined && { time_to_first_token: seconds(end.timeToFirstTokenMs) }),
    ...(end.prefillMs > 0 && { prefill_tokens_per_second: rate(end.promptTokens - end.cachedTokens, end.prefillMs) }),
    // From the first token to the last: one token alone has no speed.
    ...(end.decodeMs > 0 && { tokens_per_second: rate(end.outputTokens - 1, end.decodeMs) }),
    finish_reason: end.finishReason,
    ended_by: end.endedBy,
    seed: end.seed,
  }
}

/** Where the model runs, and what its memory goes to. */
function startLine(engine: EngineDescription): string {
  const megabytes = (bytes: number) => `${(bytes / 1e6).toFixed(1)} MB`
  const { slots, contextLength, cacheBytes, memory } = engine
  return (
    `${engine.model}: ${engine.dtype} on ${engine.device}, ${engine.threads} threads. ` +
    `${slots} slots × ${contextLength} tokens (context length) × ${cacheBytes / slots / contextLength} bytes = ` +
    `${megabytes(cacheBytes)} of KV cache when full; ${megabytes(engine.weightBytes)} of weights; ` +
    `at most ${megabytes(engine.runBytes)} to run them` +
    (memory === undefined ? '.' : `; ${megabytes(memory.bytes)} were left of ${memory.boundBy}.`)
  )
}

/** The engine's name of a field → the input's. */
function inputName(field: string): string {
  return field === 'stop' ? 'stop_sequences' : field.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)
}
