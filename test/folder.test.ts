import { appendFile, readFile, rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import t from 'tap'
import { ModelFolderError } from '../model/errors.js'
import { exportModel } from '../model/export/export.js'
import { isCheckpointFolder, openModelFolder } from '../model/folder.js'
import { writeRandomCheckpoint } from './export/random-checkpoint.js'

const root = t.testdir()
const checkpoint = path.join(root, 'checkpoint')
const exported = path.join(root, 'exported')
await writeRandomCheckpoint(checkpoint)
await exportModel({ checkpoint, out: exported, target: 'cpu', dtype: 'q8', blockSize: 64 })

t.test('an export opens with all that its users ask of it', async (t) => {
  const folder = await openModelFolder(path.relative(process.cwd(), exported))
  const { config, manifest, ...rest } = folder
  t.equal(config.hiddenSize, 64)
  t.equal(manifest.source.length, 5)
  t.same(rest, {
    path: exported,
    engineModel: path.join(exported, 'engine.onnx'),
    portableModel: path.join(exported, 'model.onnx'),
    tokenizerFile: path.join(exported, 'tokenizer.json'),
    tokenizerConfigFile: path.join(exported, 'tokenizer_config.json'),
    weightDtype: 'q8',
    target: 'cpu',
    activationType: 'f32',
    weightBytes: (await readFile(path.join(exported, 'model.onnx_data'))).length,
    endTokenIds: [1, 5],
  })
})

t.test('a checkpoint is told from an export', async (t) => {
  t.equal(await isCheckpointFolder(checkpoint), true)
  t.equal(await isCheckpointFolder(exported), false)
  t.equal(await isCheckpointFolder(root), false)
  t.equal(await isCheckpointFolder(path.join(root, 'none')), false)
})

/** Every one of them on a fresh export. */
const FAULTS: { name: string; spoil: (folder: string) => Promise<unknown>; message: RegExp; file?: string }[] = [
  {
    name: 'no manifest',
    spoil: (folder) => rm(path.join(folder, 'manifest.json')),
    message: /holds no exported model \(no manifest\.json\)\. Make one: bezel export/,
  },
  {
    name: 'a manifest that is no JSON',
    spoil: (folder) => writeFile(path.join(folder, 'manifest.json'), '{'),
    message: /manifest\.json: is not JSON/,
    file: 'manifest.json',
  },
  {
    name: 'a manifest of another format',
    spoil: (folder) => editManifest(folder, (manifest) => ({ ...manifest, format: 2 })),
    message: /manifest\.json: format: .*expected 1.* Export the model again/,
    file: 'manifest.json',
  },
  {
    name: 'a manifest that leads out of the folder',
    spoil: (folder) => editManifest(folder, (manifest) => ({ ...manifest, files: [{ name: '../x', bytes: 1 }] })),
    message: /manifest\.json: files\.0\.name: /,
    file: 'manifest.json',
  },
  {
    name: 'a manifest that does not list a graph',
    spoil: (folder) => editManifest(folder, (manifest) => ({ ...manifest, files: [] })),
    message: /manifest\.json: does not list config\.json/,
    file: 'manifest.json',
  },
  {
    name: 'a missing data file',
    spoil: (folder) => rm(path.join(folder, 'model.onnx_data')),
    message: /model\.onnx_data: is missing, but the manifest says \d+ bytes/,
    file: 'model.onnx_data',
  },
  {
    name: 'a data file of another size',
    spoil: (folder) => appendFile(path.join(folder, 'model.onnx_data'), 'x'),
    message: /model\.onnx_data: has \d+ bytes, but the manifest says \d+ bytes/,
    file: 'model.onnx_data',
  },
]

for (const { name, spoil, message, file } of FAULTS) {
  t.test(`${name} is refused, and the error says what to do`, async (t) => {
    const folder = path.join(t.testdir(), 'exported')
    await exportModel({ checkpoint, out: folder, target: 'cpu', dtype: 'q8', blockSize: 64 })
    await spoil(folder)
    const error = await openModelFolder(folder).catch((error) => error)
    t.type(error, ModelFolderError)
    t.match(error.message, message)
    t.equal(error.path, file === undefined ? folder : path.join(folder, file))
  })
}

async function editManifest(folder: string, edit: (manifest: object) => object): Promise<void> {
  const file = path.join(folder, 'manifest.json')
  await writeFile(file, JSON.stringify(edit(JSON.parse(await readFile(file, 'utf8')))))
}
