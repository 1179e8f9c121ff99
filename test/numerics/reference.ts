import { cp, readdir, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { SafetensorsFile } from '../../model/export/safetensors.js'
import { tinyTokenizer } from '../export/random-checkpoint.js'

const FIXTURES = fileURLToPath(new URL('fixtures/', import.meta.url))
/** Its weights lie with the model itself; the fixture folder has the reference only. */
const DEMO = 'demo'
const DEMO_CHECKPOINT = fileURLToPath(new URL('../../model/demo/checkpoint/', import.meta.url))

/** Every model that transformers was asked about. */
export async function allFixtures(): Promise<string[]> {
  const names = (await readdir(FIXTURES)).sort()
  if (names.length === 0) throw new Error('no fixtures: run python test/numerics/make.py')
  return names
}

/** The tiny random configurations: all but the demo model. */
export async function randomFixtures(): Promise<string[]> {
  return (await allFixtures()).filter((name) => name !== DEMO)
}

/** Copies a fixture's checkpoint to `folder`. The random ones get the tests' tokenizer, which transformers did not write. */
export async function copyCheckpoint(name: string, folder: string): Promise<void> {
  if (name === DEMO) {
    await cp(DEMO_CHECKPOINT, folder, { recursive: true })
    return
  }
  for (const file of ['config.json', 'model.safetensors']) {
    await cp(path.join(FIXTURES, name, file), path.join(folder, file))
  }
  const { tokenizer, config } = tinyTokenizer()
  await writeFile(path.join(folder, 'tokenizer.json'), JSON.stringify(tokenizer))
  await writeFile(path.join(folder, 'tokenizer_config.json'), JSON.stringify(config))
}

/** What Hugging Face's transformers computed: see make.py. */
export interface Reference {
  /** [P] */
  readonly prompt: number[]
  /** [P][V]: the logits of every position of the prompt. */
  readonly logits: Float32Array[]
  /** [64] */
  readonly greedy: number[]
  /** [V]: the logits from which the last of `greedy` was taken. */
  readonly lastLogits: Float32Array
}

export async function readReference(name: string): Promise<Reference> {
  await using file = await SafetensorsFile.open(path.join(FIXTURES, name, 'reference.safetensors'))
  const read = async (tensor: string) => {
    const entry = file.tensors.get(tensor)
    if (!entry) throw new Error(`${name}: no ${tensor} in reference.safetensors. Run make.py again.`)
    const bytes = new Uint8Array(entry.byteLength)
    await file.read(entry, 0, bytes)
    return { shape: entry.shape, buffer: bytes.buffer }
  }
  const ids = async (tensor: string) => [...new BigInt64Array((await read(tensor)).buffer)].map(Number)
  const { shape, buffer } = await read('logits')
  const rows = Array.from({ length: shape[0]! }, (_, row) => new Float32Array(buffer, row * shape[1]! * 4, shape[1]!))
  return {
    prompt: await ids('prompt'),
    logits: rows.slice(0, -1),
    lastLogits: rows.at(-1)!,
    greedy: await ids('greedy'),
  }
}
