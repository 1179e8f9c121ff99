import t from 'tap'
import { HubError } from '../../model/errors.js'
import { selectCheckpointFiles, selectGgufFile } from '../../model/hub/checkpoint-files.js'
import { GEMMA_FILES, gemmaRepository } from './checkpoint.js'

const TEXTS = ['config.json', 'tokenizer.json', 'tokenizer_config.json']

t.test('takes configuration, tokenizer and safetensors of google/gemma-2b-it, and no GGUF', async (t) => {
  t.strictSame(selectCheckpointFiles(Object.keys(gemmaRepository())).sort(), GEMMA_FILES)
})

t.test('takes one GGUF file where it is named, and names those that are there where it is not', async (t) => {
  const names = Object.keys(gemmaRepository())
  t.strictSame(selectGgufFile(names, 'gemma-2b-it.gguf'), ['gemma-2b-it.gguf'])
  t.throws(() => selectGgufFile(names, 'x.gguf'), {
    name: 'HubError',
    message: /no x.gguf .* It has gemma-2b-it.gguf\.$/,
  })
  t.throws(() => selectGgufFile(['README.md'], 'x.gguf'), { message: /It has no GGUF file\.$/ })
  const many = Array.from({ length: 12 }, (_, i) => `${i}\u001b.gguf`)
  t.throws(() => selectGgufFile(many, 'x.gguf'), { message: /It has 0 \.gguf, .*, 9 \.gguf and 2 more\.$/ })
})

t.test('takes one copy of the weights, the whole file before the shards', async (t) => {
  const both = [...TEXTS, 'model.safetensors', 'model.safetensors.index.json', 'model-00001-of-00001.safetensors']
  t.strictSame(selectCheckpointFiles(both), [...TEXTS, 'model.safetensors'])
})

t.test('leaves pickles, adapters, other formats and other folders', async (t) => {
  const others = [
    'pytorch_model.bin',
    'adapter_model.safetensors',
    'model.fp16.safetensors',
    'consolidated.safetensors',
    'flax_model.msgpack',
    'onnx/model.onnx',
    'original/model.safetensors',
    'training_args.bin',
    'README.md',
    'model-1-of-2.safetensors',
  ]
  t.strictSame(selectCheckpointFiles([...others, ...TEXTS, 'model.safetensors']), [...TEXTS, 'model.safetensors'])
})

t.test('refuses a repository that cannot be exported, naming all it lacks:', async (t) => {
  const cases: [string, string[], RegExp][] = [
    [
      'GGUF only',
      ['README.md', 'gemma-2b-it.gguf'],
      /no config\.json and no tokenizer\.json and no tokenizer_config\.json and no model\.safetensors \(or/,
    ],
    [
      'pickles only',
      [...TEXTS, 'pytorch_model.bin'],
      /it has no model\.safetensors \(or model\.safetensors\.index\.json with its shards\)\./,
    ],
    ['shards without their index', [...TEXTS, 'model-00001-of-00002.safetensors'], /it has no model\.safetensors \(or/],
    ['an index without its shards', [...TEXTS, 'model.safetensors.index.json'], /it has no model\.safetensors \(or/],
    [
      'no tokenizer.json',
      ['config.json', 'tokenizer_config.json', 'tokenizer.model', 'model.safetensors'],
      /it has no tokenizer\.json\./,
    ],
  ]
  for (const [name, names, message] of cases) {
    t.throws(() => selectCheckpointFiles(names), message, name)
    t.throws(() => selectCheckpointFiles(names), HubError, name)
  }
})
