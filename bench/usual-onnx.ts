/**
 * Makes of an export (q4, block 32) a folder as transformers.js usually gets one: its own quantizing script leaves
 * MatMulNBits' accuracy level open, so that ONNX Runtime computes in f32. The weights are those of the export, by links.
 *
 *   node --import tsx bench/usual-onnx.ts <exported folder> <new folder>
 *
 * Source: scripts/quantize.py of huggingface/transformers.js (MatMulNBits quantizer: block size 32, symmetric, no accuracy
 * level).
 */
import { link, mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { openModelFolder } from '../model/folder.js'
import { ModelProto } from '../model/onnx/proto.js'

const [from, to] = process.argv.slice(2)
if (!from || !to) throw new Error('usage: node --import tsx bench/usual-onnx.ts <exported folder> <new folder>')

const { portableModel, weightDtype, manifest } = await openModelFolder(from)
if (weightDtype !== 'q4' || manifest.blockSize !== 32)
  throw new Error(
    `${from} is ${weightDtype} in blocks of ${manifest.blockSize}; the usual files are q4 in blocks of 32.`,
  )
const model = ModelProto.toObject(ModelProto.decode(await readFile(portableModel)))
for (const node of model.graph.node) {
  node.attribute = node.attribute?.filter(({ name }: { name: string }) => name !== 'accuracy_level')
}
await mkdir(to)
for (const { name } of (await readdir(from, { withFileTypes: true })).filter((entry) => entry.isFile())) {
  if (name !== path.basename(portableModel)) await link(path.join(from, name), path.join(to, name))
}
await writeFile(path.join(to, path.basename(portableModel)), ModelProto.encode(ModelProto.fromObject(model)).finish())
