import { existsSync } from 'node:fs'
import { OrtError } from '../../model/errors.js'
import { openModel } from '../../model/open.js'
import { Predictor as Gemma, setup } from '../../predict.js'
import { wrapRuntime } from '../engine/wrapped-runtime.js'

/** The Predictor that this repository serves, on a device that fails every run while the file FAULT_FILE is there. */
export const Predictor = {
  ...Gemma,
  setup: (context: Parameters<typeof setup>[0]) =>
    setup(context, async (options) => {
      const { folder, runtime } = await openModel(options)
      const faulty = wrapRuntime(runtime, (run) => async (bindings, signal) => {
        if (existsSync(process.env.FAULT_FILE!)) throw new OrtError('RunWithBinding', 1, 'the device is gone')
        await run(bindings, signal)
      })
      return { folder, runtime: faulty }
    }),
}
