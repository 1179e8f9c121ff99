/**
 * Greedy tokens of an exported folder in @huggingface/transformers: a reference check, no part of the ordinary tests.
 *
 *     node transformers-js.mjs <exported folder> <number of tokens> <id,id,...>
 *
 * Prints the new ids as JSON. The package is a benchmark's peer and no dependency of ours: run this where it is installed.
 * Version tried: 4.3.1 with onnxruntime-node 1.30.0.
 */
import path from 'node:path'
import { AutoModelForCausalLM, env, Tensor } from '@huggingface/transformers'

const [folder, count, prompt] = process.argv.slice(2)
const ids = prompt.split(',').map(BigInt)
env.allowRemoteModels = false
env.localModelPath = path.dirname(path.resolve(folder))

const model = await AutoModelForCausalLM.from_pretrained(path.basename(path.resolve(folder)), { subfolder: '' })
const shape = [1, ids.length]
const output = await model.generate({
  inputs: new Tensor('int64', ids, shape),
  attention_mask: new Tensor(
    'int64',
    ids.map(() => 1n),
    shape,
  ),
  max_new_tokens: Number(count),
  do_sample: false,
})
console.log(JSON.stringify([...output.data.slice(ids.length)].map(Number)))
