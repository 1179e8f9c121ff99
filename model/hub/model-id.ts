import { SettingsError } from '../errors.js'

/** A model on the Hub: `id` is `owner/name`, `revision` a branch, a tag or a commit. */
export interface ModelId {
  readonly id: string
  readonly revision: string
  /** One GGUF file of the repository, which is the whole model; absent where a checkpoint is meant. */
  readonly file?: string
}

/** The Hub's own rule for each half of an id: 96 of these, word characters at both ends, no `--` and no `..`. */
const HALF = /^(?!.*(?:--|\.\.))[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?$/
/** What git allows in a branch's or tag's name, less what nobody uses: the revision becomes a part of addresses and paths. */
const REVISION = /^(?!.*(?:\.\.|\/\/|\/\.|\.lock(?:\/|$)))[A-Za-z0-9_](?:[A-Za-z0-9_./-]{0,198}[A-Za-z0-9_-])?$/

/** A plain name in the repository's top folder, as parseRemoteFile takes it. */
const GGUF_FILE = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,190}\.gguf$/i

/**
 * @param text  `owner/name`, `owner/name@revision`, and either with `:file.gguf`. Without a revision it is `main`.
 * @throws {SettingsError} the text is not of that form; it names the part that is wrong.
 */
export function parseModelId(text: string): ModelId {
  const colon = text.indexOf(':')
  const repository = colon < 0 ? text : text.slice(0, colon)
  const at = repository.indexOf('@')
  const id = at < 0 ? repository : repository.slice(0, at)
  const revision = at < 0 ? 'main' : repository.slice(at + 1)
  const halves = id.split('/')
  if (halves.length !== 2 || !halves.every((half) => HALF.test(half))) {
    throw new SettingsError(
      'MODEL',
      `MODEL is "${text}", which is neither a folder or file that exists nor a Hugging Face id. An id is owner/name, or ` +
        'owner/name@revision, such as google/gemma-2b-it; either may be followed by :file.gguf.',
    )
  }
  if (!REVISION.test(revision)) {
    throw new SettingsError(
      'MODEL',
      `MODEL is "${text}": "${revision}" is not a revision. Give a branch, a tag or a commit after the @, or leave both out for main.`,
    )
  }
  if (colon < 0) return { id, revision }
  const file = text.slice(colon + 1)
  if (!GGUF_FILE.test(file)) {
    throw new SettingsError(
      'MODEL',
      `MODEL is "${text}": "${file}" is no GGUF file. Behind the colon goes the name of a file in the repository's top ` +
        'folder that ends in .gguf, such as gemma-2b-it.Q4_0.gguf.',
    )
  }
  return { id, revision, file }
}

/** True for a full commit id: it names one state for ever, while a branch or a tag may move. */
export function isCommit(revision: string): boolean {
  return /^[0-9a-f]{40}$/.test(revision)
}
