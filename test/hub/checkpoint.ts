import { createHash } from 'node:crypto'

/** Bytes that look random and are the same in every run. */
export function noise(length: number, seed: string): Buffer {
  const blocks: Buffer[] = []
  for (let i = 0; i * 64 < length; i++) blocks.push(createHash('sha512').update(`${seed} ${i}`).digest())
  return Buffer.concat(blocks).subarray(0, length)
}

/** The files of google/gemma-2b-it's top folder, by name, with a few bytes for gigabytes. */
export function gemmaRepository(): Record<string, Buffer | string> {
  return {
    '.gitattributes': '*.safetensors filter=lfs diff=lfs merge=lfs -text\n',
    'README.md': '# Gemma\n',
    'config.json': '{"architectures":["GemmaForCausalLM"]}\n',
    'gemma-2b-it.gguf': noise(9000, 'gguf'),
    'generation_config.json': '{"eos_token_id":1}\n',
    'model-00001-of-00002.safetensors': noise(300_000, 'shard 1'),
    'model-00002-of-00002.safetensors': noise(70_000, 'shard 2'),
    'model.safetensors.index.json': '{"weight_map":{}}\n',
    'special_tokens_map.json': '{}\n',
    'tokenizer.json': noise(17_000, 'tokenizer'),
    'tokenizer.model': noise(4000, 'sentencepiece'),
    'tokenizer_config.json': '{"chat_template":""}\n',
    'flax_model/': '',
  }
}

/** What of it an export needs. */
export const GEMMA_FILES = [
  'config.json',
  'generation_config.json',
  'model-00001-of-00002.safetensors',
  'model-00002-of-00002.safetensors',
  'model.safetensors.index.json',
  'special_tokens_map.json',
  'tokenizer.json',
  'tokenizer.model',
  'tokenizer_config.json',
]
