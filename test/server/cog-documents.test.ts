import { readFileSync } from 'node:fs'
import t from 'tap'
import { z } from 'zod'
import { file, outputFile } from '../../server/files.js'
import { openApiDocument } from '../../server/openapi.js'
import { iterator, type OutputType, type Training, textStream } from '../../server/predictor.js'
import { secret } from '../../server/secret.js'

/** What fixtures/cog-models.py declares in Python. */
const result = z.object({
  text: z.string(),
  score: z.number(),
  image_file: outputFile(),
  labels: z.array(z.string()),
  remark: z.string().nullish(),
  count: z.int().default(5),
})

const models: Record<
  string,
  { input?: z.ZodRawShape; output: OutputType; train?: Pick<Training, 'input' | 'output'> }
> = {
  Scalars: {
    input: {
      text: z.string().min(2).max(10).regex(/^a.*$/).describe('A text'),
      plain: z.string(),
      count: z.int().min(1).max(10).default(5).describe('A number'),
      ratio: z.number().min(0.5).max(2.5).default(0.7),
      flag: z.boolean().default(false),
      seed: z.int().optional().describe('Drawn if left out'),
      note: z.string().optional(),
      limit: z.number().min(0).optional(),
      old: z.string().default('x').meta({ description: 'Use text', deprecated: true }),
    },
    output: z.string(),
  },
  Choices: {
    input: {
      mode: z.enum(['fast', 'best']).default('fast').describe('How'),
      level: z.literal([1, 2, 3]),
      image_size: z.enum(['small', 'large']).optional(),
    },
    output: z.int(),
  },
  Lists: {
    input: {
      words: z.array(z.string()),
      counts: z.array(z.int()).describe('Some numbers'),
      ratios: z.array(z.number()).default([0.5, 1.5]),
      flags: z.array(z.boolean()).optional(),
      stop: z.union([z.string(), z.array(z.string())]).describe('Where to stop'),
      extra: z.record(z.string(), z.unknown()).describe('Any object'),
      until: z
        .union([z.string(), z.array(z.string())])
        .optional()
        .describe('The same, if any'),
    },
    output: z.array(z.string()),
  },
  Files: {
    input: {
      image: file({ accept: 'image/*' }).describe('An image'),
      mask: file().optional(),
      document: file().describe('The older type'),
      pages: z.array(file()).describe('More of them'),
      logo: file().prefault('https://example.com/logo.png'),
    },
    output: outputFile(),
  },
  Secrets: {
    input: { token: secret().describe('An API token'), key: secret().optional() },
    output: z.boolean(),
  },
  Object: { output: result },
  FileList: { output: z.array(outputFile()) },
  FileIterator: { output: iterator(outputFile()) },
  Words: { output: iterator(z.string()) },
  Numbers: { output: iterator(z.int()) },
  Text: { output: textStream() },
  AnyObject: { output: z.record(z.string(), z.unknown()) },
  CountsByName: { output: z.record(z.string(), z.int()) },
  Ratio: { output: z.number() },
  Objects: { output: z.array(result) },
  Anything: {
    input: {
      value: z.unknown(),
      described: z.unknown().describe('What comes'),
      maybe: z.unknown().optional(),
      several: z.array(z.unknown()).describe('A list of them'),
    },
    output: z.unknown(),
  },
  AnyList: { output: z.array(z.unknown()) },
  AnyIterator: { output: iterator(z.unknown()) },
  AnyField: { output: z.object({ value: z.unknown(), name: z.string() }) },
  Trained: {
    input: {
      prompt: z.string().describe('What to say'),
      mode: z.enum(['fast', 'best']).default('fast'),
    },
    output: textStream(),
    train: {
      input: z.object({
        data: file().describe('What to learn from'),
        mode: z.enum(['fast', 'best']).default('best'),
        method: z.enum(['lora', 'full']).default('lora'),
        steps: z.int().min(1).default(100),
        seed: z.int().optional(),
      }),
      output: z.object({ weights: outputFile() }),
    },
  },
  TrainedInSteps: { output: z.string(), train: { input: z.object({}), output: iterator(z.string()) } },
}

const documents: Record<string, unknown> = JSON.parse(
  readFileSync(new URL('fixtures/cog-documents.json', import.meta.url), 'utf8'),
)

t.strictSame(Object.keys(models), Object.keys(documents), 'each model of cog-models.py has its twin here')

function never(): never {
  throw new Error('only described')
}

for (const [name, { input = {}, output, train }] of Object.entries(models)) {
  t.test(`${name}: the document equals what Cog's own generator writes for the model in Python`, async (t) => {
    const document = openApiDocument({
      input: z.object(input),
      output,
      streaming: false,
      ...(train && { train: { ...train, run: never } }),
    })
    t.strictSame(JSON.parse(JSON.stringify(document)), documents[name])
  })
}
