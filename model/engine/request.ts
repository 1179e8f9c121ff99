import { randomInt } from 'node:crypto'
import { InvalidRequestError, PromptTooLongError } from '../errors.js'
import { Detokenizer, tokenBytes, type Vocabulary } from './detokenizer.js'
import { type ChosenLogprob, type ChosenToken, type Logprob, MOST_ALTERNATIVES } from './logprobs.js'
import type { PromptSource } from './prompt.js'
import { Sampler, type SamplingParameters } from './sampler.js'
import { StopMatcher } from './stop.js'
import type { TokenMask } from './token-mask.js'

/** What the engine is asked for. */
export interface GenerateRequest extends PromptSource {
  /** ≥ 1; lowered to what a slot holds. */
  readonly maxNewTokens: number
  /** ≥ 0; 0 by default. */
  readonly minNewTokens?: number
  /** ≥ 0; 0 is greedy; 1 by default. */
  readonly temperature?: number
  /** 0 … 1; 1 by default, which is off. */
  readonly topP?: number
  /** ≤ 0 is off, and the default; 1 is greedy. */
  readonly topK?: number
  /** > 0; 1 by default, which is off. */
  readonly repetitionPenalty?: number
  /** A safe integer; drawn if left out. */
  readonly seed?: number
  /** Texts that end the answer and are not part of it. None may be empty. */
  readonly stop?: readonly string[]
  /**
   * 0 … 20: tells the log-probability of each token, and that many of the likeliest beside it. They are the model's own, of its
   * logits before any of the above and the mask, as OpenAI and vLLM tell them.
   */
  readonly logprobs?: number
  /** What may come next. */
  readonly tokenMask?: TokenMask
}

/** A request that is checked and tokenized, and can be generated. */
export interface PreparedRequest {
  readonly promptIds: readonly number[]
  /** Most tokens that will be generated: what was asked for, or what the slot holds beside the prompt. */
  readonly maxNewTokens: number
  /** Which of the two it is. */
  readonly limitedBySlot: boolean
  readonly sampling: SamplingParameters
  readonly stop: readonly string[]
  /** How many alternatives; undefined where no log-probabilities are wanted. */
  readonly logprobs: number | undefined
}

/** What ended an answer; `slot-full` is a limit of the engine where `max-new-tokens` is one of the request. */
export type EndedBy = 'end-token' | 'stop-string' | 'max-new-tokens' | 'slot-full' | 'canceled'
export type FinishReason = 'stop' | 'length' | 'canceled'

const FINISH_REASONS: Readonly<Record<EndedBy, FinishReason>> = {
  'end-token': 'stop',
  'stop-string': 'stop',
  'max-new-tokens': 'length',
  'slot-full': 'length',
  canceled: 'canceled',
}

/** A piece of the answer: whole characters, never a part of a stop string. */
export interface TextEvent {
  readonly type: 'text'
  readonly text: string
  /** Tokens generated since the piece before, which may be 0 for what was held back at the end. */
  readonly tokens: number
  /** Where they were asked for: of these tokens, in order. */
  readonly logprobs?: readonly TokenLogprobs[]
}

/** A token as OpenAI's interface tells it. */
export interface TokenLogprob extends Logprob {
  /** A part of a character is U+FFFD. */
  readonly text: string
  /** Those of all tokens, one after another, are the answer's UTF-8. */
  readonly bytes: Uint8Array
}

export interface TokenLogprobs extends TokenLogprob {
  /** The likeliest of its step, best first; the token itself is one of them where it is so likely. */
  readonly alternatives: readonly TokenLogprob[]
}

/** Always the last event. Times in milliseconds, of a monotonic clock. */
export interface EndEvent {
  readonly type: 'end'
  readonly finishReason: FinishReason
  readonly endedBy: EndedBy
  readonly seed: number
  readonly promptTokens: number
  /** Tokens of the prompt that were in a slot already, and not computed again. */
  readonly cachedTokens: number
  /** All that were sampled, the end token among them. */
  readonly outputTokens: number
  /** Accepted → slot; the whole time if it never had one. */
  readonly queueMs: number
  /** Slot → first token. */
  readonly prefillMs: number
  /** First token → last. */
  readonly decodeMs: number
  /** Accepted → first token; undefined if there was none. */
  readonly timeToFirstTokenMs: number | undefined
  readonly totalMs: number
  /** Where they were asked for: of the tokens behind the last piece, such as an end token or those of a stop string. */
  readonly logprobs?: readonly TokenLogprobs[]
}

export type GenerateEvent = TextEvent | EndEvent

/**
 * Checks a request's numbers and fits it into a slot.
 * @throws {InvalidRequestError} a value is out of range; `field` names it.
 * @throws {PromptTooLongError} the prompt leaves no room for a token.
 */
export function prepareRequest(
  request: GenerateRequest,
  promptIds: readonly number[],
  slotTokens: number,
): PreparedRequest {
  const { maxNewTokens, minNewTokens = 0, temperature = 1, topP = 1, topK = 0, repetitionPenalty = 1 } = request
  const { seed = randomInt(2 ** 32), stop = [], logprobs, tokenMask } = request
  assertRange('maxNewTokens', maxNewTokens, Number.isInteger(maxNewTokens) && maxNewTokens >= 1, 'an integer from 1')
  assertRange('minNewTokens', minNewTokens, Number.isInteger(minNewTokens) && minNewTokens >= 0, 'an integer from 0')
  assertRange('temperature', temperature, Number.isFinite(temperature) && temperature >= 0, '0 or more')
  assertRange('topP', topP, topP >= 0 && topP <= 1, 'from 0 to 1')
  assertRange('topK', topK, Number.isInteger(topK), 'an integer')
  const penaltyIsRight = Number.isFinite(repetitionPenalty) && repetitionPenalty > 0
  assertRange('repetitionPenalty', repetitionPenalty, penaltyIsRight, 'greater than 0')
  assertRange('seed', seed, Number.isSafeInteger(seed), 'an integer that a double holds exactly')
  if (logprobs !== undefined) {
    const isCount = Number.isInteger(logprobs) && logprobs >= 0 && logprobs <= MOST_ALTERNATIVES
    assertRange('logprobs', logprobs, isCount, `an integer from 0 to ${MOST_ALTERNATIVES}`)
  }
  if (stop.includes('')) throw new InvalidRequestError('stop', 'A stop string is empty, which would stop everything.')

  const room = slotTokens - promptIds.length
  if (room < 1) throw new PromptTooLongError(promptIds.length, slotTokens)
  return {
    promptIds,
    maxNewTokens: Math.min(maxNewTokens, room),
    limitedBySlot: room < maxNewTokens,
    sampling: { temperature, topP, topK, repetitionPenalty, minNewTokens, seed, ...(tokenMask && { tokenMask }) },
    stop,
    logprobs,
  }
}

function assertRange(field: string, value: number, right: boolean, range: string): void {
  if (!right) throw new InvalidRequestError(field, `${field} is ${value}; it must be ${range}.`)
}

export interface RequestOptions {
  readonly prepared: PreparedRequest
  readonly vocabulary: Vocabulary
  readonly endTokenIds: readonly number[]
  /** V */
  readonly vocabSize: number
  /** Milliseconds, monotonic. */
  readonly now: () => number
}

/** One request on its way: its tokens, its text, its times, and the events that its caller has not yet taken. */
export class Request {
  readonly promptTokens: number
  /** Prompt and answer. */
  readonly sequence: number[]
  readonly sampler: Sampler
  /** Resolves when it has ended or failed, and so has no slot any more. */
  readonly closed: Promise<void>
  readonly #prepared: PreparedRequest
  readonly #vocabulary: Vocabulary
  readonly #endTokenIds: readonly number[]
  readonly #detokenizer: Detokenizer
  readonly #stop: StopMatcher
  readonly #now: () => number
  readonly #acceptedAt: number
  #startedAt: number | undefined
  #cachedTokens = 0
  #firstTokenAt: number | undefined
  #lastTokenAt: number | undefined
  /** Tokens that a text event has told of. */
  #toldTokens = 0
  /** Of those that none has told of yet. */
  #logprobs: TokenLogprobs[] = []
  /** Not yet taken: no more than one for each token, and the end. */
  #events: GenerateEvent[] = []
  #failure: Error | undefined
  #ended = false
  #wake: (() => void) | undefined
  #resolveClosed = () => {}

  constructor({ prepared, vocabulary, endTokenIds, vocabSize, now }: RequestOptions) {
    this.promptTokens = prepared.promptIds.length
    this.sequence = [...prepared.promptIds]
    this.sampler = new Sampler(prepared.sampling, { endTokenIds, vocabSize }, prepared.promptIds)
    this.#prepared = prepared
    this.#vocabulary = vocabulary
    this.#endTokenIds = endTokenIds
    this.#detokenizer = new Detokenizer(vocabulary)
    this.#stop = new StopMatcher(prepared.stop)
    this.#now = now
    this.#acceptedAt = now()
    this.closed = new Promise((resolve) => {
      this.#resolveClosed = resolve
    })
  }

  /** How many alternatives it wants with each token; undefined where it wants no log-probabilities. */
  get logprobs(): number | undefined {
    return this.#prepared.logprobs
  }

  get outputTokens(): number {
    return this.sequence.length - this.promptTokens
  }

  get ended(): boolean {
    return this.#ended
  }

  /** It has got a slot. @param cachedTokens  of its prompt that the slot holds already. */
  start(cachedTokens: number): void {
    this.#startedAt = this.#now()
    this.#cachedTokens = cachedTokens
  }

  /** More of its prompt was copied from another slot. */
  addCachedTokens(tokens: number): void {
    this.#cachedTokens += tokens
  }

  /** Takes the next token of the answer. @returns what that ends the answer by, if it does. */
  accept({ id, logprob }: ChosenToken): EndedBy | undefined {
    this.#lastTokenAt = this.#now()
    this.#firstTokenAt ??= this.#lastTokenAt
    this.sequence.push(id)
    this.sampler.accept(id)
    if (logprob !== undefined) this.#logprobs.push(this.#spell(logprob))
    if (this.#endTokenIds.includes(id)) return 'end-token'

    const { text, stopped } = this.#stop.push(this.#detokenizer.push(id))
    this.#tell(text)
    if (stopped) return 'stop-string'
    if (this.outputTokens < this.#prepared.maxNewTokens) return undefined
    return this.#prepared.limitedBySlot ? 'slot-full' : 'max-new-tokens'
  }

  /** The answer is over. To be called once; what was held back goes out first, unless it was a stop string. */
  end(endedBy: EndedBy): void {
    if (endedBy !== 'stop-string') {
      const { text, stopped } = this.#stop.push(this.#detokenizer.flush())
      this.#tell(stopped ? text : text + this.#stop.flush())
    }
    const account = { endedBy, finishReason: FINISH_REASONS[endedBy], ...this.#account() }
    this.#close({ type: 'end', ...account, ...this.#takeLogprobs() })
  }

  /** The answer cannot go on; its caller gets the error behind the pieces that came before. */
  fail(error: Error): void {
    this.#failure = error
    this.#close()
  }

  /** The events as they come, once. Ends behind the end event; throws what `fail` was given. */
  async *events(): AsyncGenerator<GenerateEvent, void, undefined> {
    for (;;) {
      const events = this.#events
      this.#events = []
      yield* events
      if (this.#events.length > 0) continue
      if (this.#failure !== undefined) throw this.#failure
      if (this.#ended) return
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
  }

  #account(): Omit<EndEvent, 'type' | 'endedBy' | 'finishReason'> {
    const endedAt = this.#now()
    const startedAt = this.#startedAt ?? endedAt
    const firstTokenAt = this.#firstTokenAt ?? endedAt
    return {
      seed: this.#prepared.sampling.seed,
      promptTokens: this.promptTokens,
      cachedTokens: this.#cachedTokens,
      outputTokens: this.outputTokens,
      queueMs: startedAt - this.#acceptedAt,
      prefillMs: firstTokenAt - startedAt,
      decodeMs: (this.#lastTokenAt ?? firstTokenAt) - firstTokenAt,
      timeToFirstTokenMs: this.#firstTokenAt === undefined ? undefined : firstTokenAt - this.#acceptedAt,
      totalMs: endedAt - this.#acceptedAt,
    }
  }

  #tell(text: string): void {
    if (text === '') return
    this.#push({ type: 'text', text, tokens: this.outputTokens - this.#toldTokens, ...this.#takeLogprobs() })
    this.#toldTokens = this.outputTokens
  }

  #takeLogprobs(): { logprobs?: TokenLogprobs[] } {
    if (this.logprobs === undefined) return {}
    const logprobs = this.#logprobs
    this.#logprobs = []
    return { logprobs }
  }

  #spell({ alternatives, ...chosen }: ChosenLogprob): TokenLogprobs {
    const spelt = ({ id, logprob }: Logprob): TokenLogprob => {
      const bytes = tokenBytes(this.#vocabulary, id)
      return { id, logprob, bytes, text: new TextDecoder().decode(bytes) }
    }
    return { ...spelt(chosen), alternatives: alternatives.map(spelt) }
  }

  #close(event?: EndEvent): void {
    this.#ended = true
    if (event !== undefined) this.#events.push(event)
    this.#wake?.()
    this.#resolveClosed()
  }

  #push(event: GenerateEvent): void {
    this.#events.push(event)
    this.#wake?.()
  }
}
