import { readFile } from 'node:fs/promises'
import { z } from 'zod'
import { InvalidRequestError, ModelFolderError } from '../errors.js'
import { BoundedTemplate } from './bounded-jinja.js'
import type { Part, Tokenizer } from './tokenizer.js'

/** One turn of a conversation. */
export interface Message {
  readonly role: 'system' | 'user' | 'assistant'
  readonly content: string
}

/**
 * Gemma has no system role: the system text opens the first user turn, with a blank line behind it.
 *
 * @returns turns that alternate, user first and last.
 * @throws {InvalidRequestError} `messages`: a turn is not the one that is due, or the last is not the user's. Names its index.
 */
export function mergeSystem(messages: readonly Message[], systemPrompt = ''): Message[] {
  const system = [systemPrompt, ...messages.filter(({ role }) => role === 'system').map(({ content }) => content)]
  const opening = system.filter((text) => text.trim() !== '').join('\n\n')

  const turns: Message[] = []
  for (const [index, { role, content }] of messages.entries()) {
    if (role === 'system') continue
    const due = turns.length % 2 === 0 ? 'user' : 'assistant'
    if (role !== due) {
      throw new InvalidRequestError(
        'messages',
        `messages[${index}] has the role ${role}, but turns must alternate, user first: ${due} is due there.`,
      )
    }
    turns.push({ role, content: turns.length === 0 && opening !== '' ? `${opening}\n\n${content}` : content })
  }
  if (turns.length % 2 === 0) {
    const found = turns.length === 0 ? 'messages has no user turn' : `messages[${messages.length - 1}] is an answer`
    throw new InvalidRequestError('messages', `${found}, but the last turn must be the user's. Add one.`)
  }
  return turns
}

/** A model's own chat template: turns → the prompt, in which only the template can write control tokens. */
export class ChatTemplate {
  readonly #source: string
  readonly #template: BoundedTemplate
  readonly #names: Readonly<Record<string, string>>
  readonly #tokenizer: Tokenizer
  /** The characters that a control token can begin with: `<` for Gemma. */
  readonly #firstCharacters: ReadonlySet<string>

  private constructor(source: string, names: Readonly<Record<string, string>>, tokenizer: Tokenizer) {
    this.#source = source
    this.#template = new BoundedTemplate(source)
    this.#names = names
    this.#tokenizer = tokenizer
    this.#firstCharacters = new Set([...tokenizer.controls.keys()].map((content) => [...content][0]!))
  }

  /**
   * @param file  a tokenizer_config.json.
   * @returns undefined where it has no template, as with models that were not trained to chat.
   * @throws {ModelFolderError} it cannot be read, or its template fails on a single user turn.
   */
  static async open(file: string, tokenizer: Tokenizer): Promise<ChatTemplate | undefined> {
    try {
      const { chat_template: source, ...names } = tokenizerConfig.parse(JSON.parse(await readFile(file, 'utf8')))
      if (source === undefined) return undefined
      const template = new ChatTemplate(source, names, tokenizer)
      template.render([{ role: 'user', content: 'Hi' }])
      return template
    } catch (cause) {
      const reason = cause instanceof Error ? cause.message : String(cause)
      throw new ModelFolderError(file, `no usable chat template: ${reason}`, { cause })
    }
  }

  /**
   * @param turns  as mergeSystem gives them.
   * @returns the prompt, ready to be tokenized. A control token that a user wrote is text there, letter by letter.
   * @throws {InvalidRequestError} `messages`: the template refuses them, or went over its limits.
   */
  render(turns: readonly Message[]): Part[] {
    // A character that occurs nowhere here is put behind each one that could open a control token in a user's text. So no
    // control token is found there, and the character is taken out before the text is tokenized in one piece with its
    // surroundings, as Hugging Face does it.
    const shield = unusedCharacter([this.#source, ...turns.map(({ content }) => content)])
    const messages = turns.map(({ role, content }) => ({ role, content: this.#shielded(content, shield) }))
    return this.#tokenizer
      .split(this.#evaluate(messages))
      .map((part) => (typeof part === 'number' ? part : part.replaceAll(shield, '')))
      .filter((part) => part !== '')
  }

  #shielded(content: string, shield: string): string {
    let shielded = content
    for (const character of this.#firstCharacters) shielded = shielded.replaceAll(character, character + shield)
    return shielded
  }

  #evaluate(messages: readonly Message[]): string {
    const characters = messages.reduce((sum, { content }) => sum + content.length, 0)
    // Gemma's template takes about 30 steps a turn and some 30 characters beside the content; heavy ones a hundred times that.
    const limits = {
      steps: 100_000 + 2_000 * messages.length + characters,
      size: 20_000 + 1_000 * messages.length + 4 * characters,
    }
    try {
      return this.#template.render({ ...this.#names, messages, add_generation_prompt: true }, limits)
    } catch (cause) {
      const reason = cause instanceof Error ? cause.message : String(cause)
      throw new InvalidRequestError('messages', `The model's chat template refuses the messages: ${reason}.`, { cause })
    }
  }
}

const token = z
  .union([z.string(), z.object({ content: z.string() })])
  .nullish()
  .transform((value) => (typeof value === 'string' ? value : (value?.content ?? '')))

const tokenizerConfig = z.object({
  bos_token: token,
  eos_token: token,
  chat_template: z
    .union([z.string(), z.array(z.object({ name: z.string(), template: z.string() }))])
    .nullish()
    .transform((value) =>
      Array.isArray(value) ? value.find(({ name }) => name === 'default')?.template : (value ?? undefined),
    ),
})

/** @returns a character of the private use area that none of the texts holds. */
function unusedCharacter(texts: readonly string[]): string {
  for (let code = 0xe000; code <= 0xf8ff; code++) {
    const character = String.fromCharCode(code)
    if (!texts.some((text) => text.includes(character))) return character
  }
  throw new InvalidRequestError('messages', 'messages use all 6,400 characters of the private use area. Leave one out.')
}
