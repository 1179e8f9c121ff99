import { InvalidRequestError } from '../errors.js'
import type { ModelFolder } from '../folder.js'
import { ChatTemplate, type Message, mergeSystem } from './chat-template.js'
import { type Part, Tokenizer } from './tokenizer.js'

/** What a prompt is made of: either `prompt` or `messages`. */
export interface PromptSource {
  /** One user turn; with `raw`, the whole prompt as it is. */
  readonly prompt?: string
  readonly messages?: readonly Message[]
  /** Opens the first user turn. Not with `raw`. */
  readonly systemPrompt?: string
  /** The prompt without a template, its control tokens taken as such, and exactly one `<bos>` before it. */
  readonly raw?: boolean
}

/** Makes prompts for one model: its chat template, then its tokenizer. */
export class PromptMaker {
  readonly tokenizer: Tokenizer
  readonly #template: ChatTemplate | undefined
  readonly #bos: number

  private constructor(tokenizer: Tokenizer, template: ChatTemplate | undefined, bos: number) {
    this.tokenizer = tokenizer
    this.#template = template
    this.#bos = bos
  }

  /** @throws {ModelFolderError} tokenizer or chat template cannot be used. */
  static async open(folder: ModelFolder): Promise<PromptMaker> {
    const tokenizer = await Tokenizer.open(folder.tokenizerFile)
    const template = await ChatTemplate.open(folder.tokenizerConfigFile, tokenizer)
    return new PromptMaker(tokenizer, template, folder.config.bosTokenId)
  }

  /**
   * @returns the prompt's ids, `<bos>` first.
   * @throws {InvalidRequestError} what is given contradicts itself, or the template refuses it; `field` says which of it.
   */
  async ids(source: PromptSource): Promise<number[]> {
    assertCharacters(source)
    return this.tokenizer.tokenize(this.#parts(source))
  }

  #parts({ prompt, messages, systemPrompt, raw = false }: PromptSource): Part[] {
    if ((prompt === undefined) === (messages === undefined)) {
      throw new InvalidRequestError('prompt', 'Either prompt or messages is needed, and not both.')
    }
    if (this.#template !== undefined && !raw) {
      return this.#template.render(mergeSystem(messages ?? [{ role: 'user', content: prompt! }], systemPrompt))
    }
    const why = raw ? 'raw takes a prompt only' : 'This model has no chat template, and takes a prompt only'
    if (prompt === undefined) throw new InvalidRequestError('messages', `${why}: leave messages out.`)
    if (systemPrompt) throw new InvalidRequestError('systemPrompt', `${why}: leave systemPrompt out.`)
    const parts = raw ? this.tokenizer.split(prompt) : [prompt]
    const start = parts.findIndex((part) => part !== this.#bos)
    return [this.#bos, ...(start < 0 ? [] : parts.slice(start))]
  }
}

function assertCharacters({ prompt = '', messages = [], systemPrompt = '' }: PromptSource): void {
  const texts = [
    { field: 'prompt', name: 'prompt', text: prompt },
    { field: 'systemPrompt', name: 'systemPrompt', text: systemPrompt },
    ...messages.map(({ content }, index) => ({ field: 'messages', name: `messages[${index}].content`, text: content })),
  ]
  const broken = texts.find(({ text }) => !text.isWellFormed())
  if (broken === undefined) return
  throw new InvalidRequestError(
    broken.field,
    `${broken.name} holds a lone surrogate, which is no character. Send whole characters.`,
  )
}
