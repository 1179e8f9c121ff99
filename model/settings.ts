import { existsSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { z } from 'zod'
import { SettingsError } from './errors.js'
import { parseModelId } from './hub/model-id.js'
import { packageRoot } from './package-root.js'

/** A whole number in decimal digits: the environment knows only text, and `Number('')`, `'0x10'` or `'1e3'` are typing errors. */
const wholeNumber = (min: number, max: number) =>
  z
    .string()
    .regex(/^\d+$/)
    .transform(Number)
    .pipe(z.number().min(min).max(max))
    .meta({ range: `a whole number from ${min} to ${max}` })

/**
 * Every setting of the model's side, read from the environment. `description` says what it means, `range` what is legal;
 * docs/configuration.md is generated from both.
 */
export const modelSettings = z.object({
  MODEL: z
    .string()
    .min(1)
    .default(join(packageRoot, 'model', 'demo', 'onnx'))
    .meta({
      range:
        'a folder (an export, or a checkpoint), a `.gguf` file, or a Hugging Face id such as `google/gemma-2b-it[@revision]` or `owner/name:file.gguf`',
      shownDefault: 'the embedded demo model',
    })
    .describe('The model to serve. A checkpoint or a GGUF file is exported once, to `MODEL_CACHE`.'),
  DEVICE: z
    .enum(['auto', 'cpu', 'cuda'])
    .default('auto')
    .meta({ range: '`auto`, `cpu` or `cuda`' })
    .describe('Where the model runs. `auto` takes a GPU that ONNX Runtime can use, else the CPU, and says why.'),
  CONTEXT_LENGTH: wholeNumber(16, 1_048_576)
    .optional()
    .meta({ range: 'a whole number from 16 to 1048576', shownDefault: "the model's own (8192 for Gemma)" })
    .describe('Tokens that a slot holds: prompt and answer together. Never more than the model was made for.'),
  THREADS: wholeNumber(1, 1024)
    .optional()
    .meta({ range: 'a whole number from 1 to 1024', shownDefault: 'the processors that this process may use' })
    .describe('Threads for one run of the model on the CPU.'),
  BATCH_INVARIANT: z
    .enum(['on', 'off'])
    .default('on')
    .meta({ range: '`on` or `off`' })
    .describe(
      'Whether an answer is the same to the last token whoever else is served. With 4-bit weights in blocks of 64 and more (8-bit: 128) ' +
        'and several slots on the CPU, that takes another row in steps of an odd number: a lone stream decodes about a tenth slower.',
    ),
  STREAM_PAUSE_MS: wholeNumber(1, 60_000)
    .default(250)
    .describe(
      "Longest that a chunk of one prompt should hold up the others' streams, in milliseconds. A prompt that is read while " +
        'others generate goes in chunks of 64 tokens, or of 32 or 16 where those take longer than this.',
    ),
  MODEL_CACHE: z
    .string()
    .min(1)
    .optional()
    .meta({ range: 'a folder', shownDefault: '`$XDG_CACHE_HOME/bezel`, else `~/.cache/bezel`' })
    .describe('Where downloaded checkpoints and their exports are kept.'),
  HF_ENDPOINT: z
    .url({ protocol: /^https?$/ })
    .default('https://huggingface.co')
    .meta({ range: 'an http(s) address' })
    .describe('The Hub that `MODEL` ids are pulled from.'),
  HF_TOKEN: z
    .string()
    .regex(/^[\x21-\x7e]+$/)
    .optional()
    .meta({ range: 'a token without spaces', secret: true, shownDefault: 'none' })
    .describe("A Hub token with read permission, for gated repositories such as Google's."),
})

export type ModelSettings = z.output<typeof modelSettings> & { MODEL_CACHE: string }

/**
 * @param environment  usually `process.env`. A variable set to the empty string counts as not set: that is how
 *   `docker run -e NAME=` and compose files clear one.
 * @throws {SettingsError} the first setting that is outside its range, with its name, its value (unless it is a secret) and
 *   what is legal.
 */
export function parseModelSettings(environment: Readonly<Record<string, string | undefined>>): ModelSettings {
  const set = Object.fromEntries(
    Object.keys(modelSettings.shape)
      .filter((name) => environment[name])
      .map((name) => [name, environment[name]]),
  )
  const parsed = modelSettings.safeParse(set)
  if (parsed.success) {
    // What is no folder must at least look like an id: a typing error shall not become a server that never gets ready.
    if (!existsSync(parsed.data.MODEL)) parseModelId(parsed.data.MODEL)
    const caches = environment.XDG_CACHE_HOME || join(homedir(), '.cache')
    return { ...parsed.data, MODEL_CACHE: parsed.data.MODEL_CACHE ?? join(caches, 'bezel') }
  }
  const name = String(parsed.error.issues[0]?.path[0]) as keyof ModelSettings
  const { range, secret } = modelSettings.shape[name].meta() as { range: string; secret?: boolean }
  const value = secret ? 'set to a text that' : `"${environment[name]}", which`
  throw new SettingsError(name, `${name} is ${value} is not legal. It must be ${range.replaceAll('`', '')}.`)
}
