import { HubError } from '../errors.js'
import { printable } from './printable.js'

const NEEDED = ['config.json', 'tokenizer.json', 'tokenizer_config.json']
/** Read, or copied into the export, where they are there. */
const OPTIONAL = [
  'generation_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
  'chat_template.jinja',
  'tokenizer.model',
  'LICENSE',
  'LICENSE.txt',
  'NOTICE',
  'NOTICE.txt',
]
const GGUF = /\.gguf$/i
const MAX_NAMED = 10
const SINGLE = 'model.safetensors'
const INDEX = 'model.safetensors.index.json'
const SHARD = /^model-\d{5}-of-\d{5}\.safetensors$/

/**
 * Picks what the exporter reads from the files of a repository's top folder: the configuration, the tokenizer, and one copy
 * of the weights (safetensors, in one file or sharded). GGUF, PyTorch pickles, adapters and folders stay on the Hub:
 * they would be the same weights again.
 *
 * @returns names, in the order of `names`. Where the weights are there both whole and sharded, it takes the whole file, as
 *   Hugging Face's own loader does.
 * @throws {HubError} a file that no export can do without is not there, so that nobody waits for 5 GB to learn it.
 */
export function selectCheckpointFiles(names: readonly string[]): string[] {
  const there = new Set(names)
  const isWeight = there.has(SINGLE)
    ? (name: string) => name === SINGLE
    : (name: string) => name === INDEX || SHARD.test(name)
  const missing = NEEDED.filter((name) => !there.has(name))
  const sharded = there.has(INDEX) && names.some((name) => SHARD.test(name))
  if (!there.has(SINGLE) && !sharded) missing.push(`${SINGLE} (or ${INDEX} with its shards)`)
  if (missing.length > 0) {
    const files = names.filter((name) => GGUF.test(name))
    throw new HubError(
      `This repository is not a checkpoint that can be exported: it has no ${missing.join(' and no ')}. ` +
        'Choose one with safetensors weights and a tokenizer.json, such as google/gemma-2b-it' +
        (files.length === 0 ? '.' : `; or name a GGUF file of it behind a colon: ${listed(files)}.`),
    )
  }
  return names.filter((name) => NEEDED.includes(name) || OPTIONAL.includes(name) || isWeight(name))
}

/**
 * Picks one GGUF file, which holds the tokenizer as well.
 *
 * @returns its name alone.
 * @throws {HubError} the repository's top folder has no such file; it names those that are there.
 */
export function selectGgufFile(names: readonly string[], file: string): string[] {
  if (names.includes(file)) return [file]
  const files = names.filter((name) => GGUF.test(name))
  const there = files.length === 0 ? 'no GGUF file' : listed(files)
  throw new HubError(`This repository has no ${file} in its top folder. It has ${there}.`)
}

function listed(names: readonly string[]): string {
  const shown = names.slice(0, MAX_NAMED).map((name) => printable(name, 100))
  return names.length > MAX_NAMED ? `${shown.join(', ')} and ${names.length - MAX_NAMED} more` : shown.join(', ')
}
