import { parseModelSettings } from '../model/settings.js'
import type { Command } from './command.js'
import { createTerminal } from './terminal.js'

/** @param environment  HF_TOKEN, HF_ENDPOINT and MODEL_CACHE are read from it. */
export function pullCommand(environment: NodeJS.ProcessEnv): Command {
  return {
    name: 'pull',
    summary: 'Downloads a checkpoint or a GGUF file from the Hugging Face Hub, so that a later start needs no network.',
    positionals: [{ name: 'id', meaning: 'owner/name, owner/name@revision, or either with :file.gguf' }],
    flags: [],
    example: 'HF_TOKEN=hf_… bezel pull google/gemma-2b-it',

    async run({ positionals: [model] }) {
      const settings = parseModelSettings({ ...environment, MODEL: model })
      const { parseModelId } = await import('../model/hub/model-id.js')
      const { id, revision, file } = parseModelId(settings.MODEL)
      const { pullSnapshot } = await import('../model/hub/snapshot.js')
      using terminal = createTerminal()
      const snapshot = await pullSnapshot({
        id,
        revision,
        file,
        cacheDir: settings.MODEL_CACHE,
        endpoint: settings.HF_ENDPOINT,
        ...(settings.HF_TOKEN === undefined ? {} : { token: settings.HF_TOKEN }),
        report: terminal.report,
        log: terminal.say,
        signal: terminal.interrupted,
      })
      terminal.say(`${id} at commit ${snapshot.commit.slice(0, 12)} is whole in ${snapshot.path}`)
      terminal.say(`Serve it:  MODEL=${model} npm start`)
      return 0
    },
  }
}
