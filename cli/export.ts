import type { BlockSize } from '../model/export/export.js'
import type { Target, WeightDtype } from '../model/folder.js'
import type { Command } from './command.js'
import { createTerminal } from './terminal.js'

export const exportCommand: Command = {
  name: 'export',
  summary: 'Turns a Hugging Face checkpoint of Gemma 1 into an ONNX model that Bezel serves.',
  positionals: [
    { name: 'checkpoint', meaning: 'the folder with config.json, *.safetensors and the tokenizer' },
    { name: 'folder', meaning: 'the folder to make; must not exist, or be empty' },
  ],
  flags: [
    { name: 'target', value: 'device', choices: ['cpu', 'cuda'], meaning: 'where the model will run (default: cpu)' },
    {
      name: 'dtype',
      value: 'dtype',
      choices: ['f32', 'f16', 'bf16', 'q4', 'q8'],
      meaning: 'how the weights are kept (default: q4)',
    },
    {
      name: 'block-size',
      value: 'number',
      choices: ['32', '64', '128'],
      meaning: 'weights per scale in q4 and q8 (default: 128 for cpu, 32 for cuda)',
    },
  ],
  example: 'bezel export ./gemma-2b-it ./gemma-2b-it-q4 --target cpu --dtype q4',

  async run({ positionals, flags }) {
    const [checkpoint, folder] = positionals as [string, string]
    const { defaultExport, exportModel } = await import('../model/export/export.js')
    const fallback = defaultExport((flags.get('target') ?? 'cpu') as Target)
    using terminal = createTerminal()
    const manifest = await exportModel({
      checkpoint,
      out: folder,
      target: fallback.target,
      dtype: (flags.get('dtype') ?? fallback.dtype) as WeightDtype,
      blockSize: Number(flags.get('block-size') ?? fallback.blockSize) as BlockSize,
      report: terminal.report,
      signal: terminal.interrupted,
    })
    const bytes = manifest.files.reduce((sum, file) => sum + file.bytes, 0)
    terminal.say(`${folder}: ${manifest.dtype} for ${manifest.target}, ${(bytes / 1e6).toFixed(1)} MB.`)
    terminal.say(`Serve it:  MODEL=${folder} npm start`)
    return 0
  },
}
