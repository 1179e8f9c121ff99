import type { BlockSize } from '../model/export/format.js'
import type { Target, WeightDtype } from '../model/folder.js'
import type { Command } from './command.js'
import { createTerminal } from './terminal.js'

export const exportCommand: Command = {
  name: 'export',
  summary: 'Turns a checkpoint or a GGUF file of Gemma 1 into an ONNX model that Bezel serves.',
  positionals: [
    { name: 'checkpoint', meaning: 'the folder with config.json, *.safetensors and the tokenizer; or a .gguf file' },
    { name: 'folder', meaning: 'the folder to make; must not exist, or be empty' },
  ],
  flags: [
    { name: 'target', value: 'device', choices: ['cpu', 'cuda'], meaning: 'where the model will run (default: cpu)' },
    {
      name: 'dtype',
      value: 'dtype',
      choices: ['f32', 'f16', 'bf16', 'q4', 'q8'],
      meaning: 'how the weights are kept (default: q4; of a GGUF file q8 where it has more than 4 bits)',
    },
    {
      name: 'block-size',
      value: 'number',
      choices: ['32', '64', '128'],
      meaning: 'weights per scale in q4 and q8 (default: 128 for cpu, 32 for cuda and for GGUF files)',
    },
    {
      name: 'embedding',
      value: 'dtype',
      choices: ['q4', 'q8'],
      meaning:
        'how the embedding, which is the output matrix too, is kept (default: as the GGUF file, or as the others)',
    },
  ],
  example: 'bezel export ./gemma-2b-it ./gemma-2b-it-q4 --target cpu --dtype q4',

  async run({ positionals, flags }) {
    const [checkpoint, folder] = positionals as [string, string]
    const { exportModel } = await import('../model/export/export.js')
    const blockSize = flags.get('block-size')
    using terminal = createTerminal()
    const manifest = await exportModel({
      checkpoint,
      out: folder,
      target: (flags.get('target') ?? 'cpu') as Target,
      dtype: flags.get('dtype') as WeightDtype | undefined,
      blockSize: blockSize === undefined ? undefined : (Number(blockSize) as BlockSize),
      embedding: flags.get('embedding') as 'q4' | 'q8' | undefined,
      log: terminal.say,
      report: terminal.report,
      signal: terminal.interrupted,
    })
    const bytes = manifest.files.reduce((sum, file) => sum + file.bytes, 0)
    terminal.say(`${folder}: ${manifest.dtype} for ${manifest.target}, ${(bytes / 1e6).toFixed(1)} MB.`)
    terminal.say(`Serve it:  MODEL=${folder} npm start`)
    return 0
  },
}
