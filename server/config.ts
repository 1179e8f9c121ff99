import { z } from 'zod'
import { PRICES } from './cost.js'
import { HTTP_LIMITS } from './limits.js'
import type { LoggerOptions } from './logger.js'
import type { FileLimits } from './run-files.js'

/** A variable, or a field of cog.yaml, has a value outside its range. Whoever starts the server ends with exit code 2. */
export class SettingError extends Error {
  /** The variable's name, or the file and the field's path. */
  readonly setting: string

  constructor(setting: string, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'SettingError'
    this.setting = setting
  }
}

/** Text from the environment → number. What is no number stays text, for the schema to refuse. */
function numeric<Schema extends z.ZodType>(schema: Schema) {
  return z.preprocess(
    (text) => (typeof text === 'string' && text.trim() !== '' && !Number.isNaN(Number(text)) ? Number(text) : text),
    schema,
  )
}

/** `file.ts:Name`: a module, and the name that it exports something by. */
export const REFERENCE = /^([^:]+\.[cm]?[jt]s):([A-Za-z_$][\w$]*)$/
const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const

/** How many predictions may run at once. */
export const MOST_CONCURRENT = 4096

/** The server's settings: what each means, its default and its range. `.shape` feeds docs/configuration.md. */
export const serverSettings = z.object({
  PORT: numeric(z.int().min(0).max(65_535))
    .default(5000)
    .describe('TCP port to listen on; 0 takes any free one')
    .meta({ range: 'a whole number from 0 to 65535' }),
  HOST: z
    .string()
    .min(1)
    .default('127.0.0.1')
    .describe('Address to listen on; 0.0.0.0 (as in the image) listens on all')
    .meta({ range: 'an IP address or a host name of this machine' }),
  HARDWARE: z
    .enum([...PRICES.keys()])
    .default('cpu')
    .describe("The machine that predictions run on: picks the price for each prediction's `cost`")
    .meta({ range: `one of ${[...PRICES.keys()].join(', ')}` }),
  HARDWARE_PRICE: numeric(z.number().min(0).max(1))
    .optional()
    .describe('Dollars per second of your machine, in place of the price of HARDWARE')
    .meta({ range: 'a number from 0 to 1' }),
  LOG_LEVEL: z
    .enum(LOG_LEVELS)
    .optional()
    .describe("Least severe level that is logged. No level logs a prompt's or an answer's text")
    .meta({ range: `one of ${LOG_LEVELS.join(', ')}`, shownDefault: 'that of `COG_LOG_LEVEL`' }),
  COG_LOG_LEVEL: z
    .preprocess(
      (text) => (typeof text === 'string' ? text.toLowerCase() : text),
      z.enum(['debug', 'info', 'warn', 'warning', 'error']),
    )
    .default('info')
    .describe("The same by Cog's name; `LOG_LEVEL` goes before it")
    .meta({ range: 'one of debug, info, warn, warning, error' }),
  LOG_FORMAT: z
    .string()
    .transform((text) => (text === 'console' ? 'console' : 'json'))
    .optional()
    .describe('Readable lines, or one JSON object a line')
    .meta({
      range: '`console`; any other text, as in Cog, is `json`',
      shownDefault: '`console` on a terminal, else `json`',
    }),
  COG_PREDICT_TYPE_STUB: z
    .string()
    .regex(REFERENCE)
    .optional()
    .describe('The Predictor to serve in place of that of cog.yaml, from whose folder the file is named')
    .meta({ range: 'file.ts:Name', shownDefault: '`predict` of cog.yaml' }),
  COG_TRAIN_TYPE_STUB: z
    .string()
    .regex(REFERENCE)
    .optional()
    .describe('The same for the training that cog.yaml names')
    .meta({ range: 'file.ts:name', shownDefault: '`train` of cog.yaml' }),
  COG_MAX_CONCURRENCY: numeric(z.int().min(1).max(MOST_CONCURRENT))
    .optional()
    .describe('How many predictions run at once, in place of `concurrency.max` of cog.yaml; any other text counts as 1')
    .meta({ range: `a whole number from 1 to ${MOST_CONCURRENT}`, shownDefault: '`concurrency.max` of cog.yaml' }),
  QUEUE: numeric(z.int().min(0).max(100_000))
    .default(0)
    .describe('How many predictions may wait for a free slot; 0 refuses them at once with 409, as Cog does')
    .meta({ range: 'a whole number from 0 to 100000' }),
  QUEUE_MEGABYTES: numeric(z.number().positive().max(100_000))
    .default(256)
    .describe('Most megabytes (10⁶ bytes) of all inputs that wait for a slot')
    .meta({ range: 'a number above 0, at most 100000' }),
  KEEP_SECONDS: numeric(z.number().min(0).max(86_400))
    .default(0)
    .describe(
      'How long GET /predictions/{id} still tells a prediction that has ended, of the last 1,000 and 64 MiB; 0 has no such path, as Cog',
    )
    .meta({ range: 'a number from 0 to 86400' }),
  RESUME_SECONDS: numeric(z.number().min(0).max(3600))
    .default(0)
    .describe(
      'How long a prediction goes on when the connection that streams it is lost; its events carry ids then, and Last-Event-ID continues. 0 cancels it at once, as Cog. Implies KEEP_SECONDS of as much',
    )
    .meta({ range: 'a number from 0 to 3600' }),
  MAX_CONNECTIONS: numeric(z.int().min(1).max(1_000_000))
    .default(HTTP_LIMITS.connections)
    .describe('Open connections; one more is closed as soon as it comes')
    .meta({ range: 'a whole number from 1 to 1000000' }),
  RECEIVE_SECONDS: numeric(z.number().min(1).max(3600))
    .default(HTTP_LIMITS.requestMs / 1000)
    .describe('How long a client may take to send a request; 10 of them for its head')
    .meta({ range: 'a number from 1 to 3600' }),
  SHUTDOWN_FROM: z
    .enum(['loopback', 'any'])
    .default('loopback')
    .describe(
      'Who may end the server by `POST /shutdown`: `loopback` takes it only from programs on this machine, `any` from wherever it can be reached. Never from a page in a browser',
    )
    .meta({ range: 'loopback or any' }),
  AWAIT_EXPLICIT_SHUTDOWN: z
    .enum(['true', 'false'])
    .default('false')
    .describe(
      'Whether SIGTERM is ignored, so that only `POST /shutdown` or SIGINT ends the server; also `--await-explicit-shutdown`, as in Cog',
    )
    .meta({ range: 'true or false' }),
  DRAIN_DELAY_SECONDS: numeric(z.number().min(0).max(3600))
    .default(0)
    .describe(
      'How long to go on serving after SIGTERM or `POST /shutdown` while /readyz says no, so that balancers can notice',
    )
    .meta({ range: 'a number from 0 to 3600' }),
  DRAIN_SECONDS: numeric(z.number().min(0).max(3600))
    .default(25)
    .describe('How long running predictions may go on after that before they are canceled')
    .meta({ range: 'a number from 0 to 3600' }),
  OUTPUT_MEGABYTES: numeric(z.number().positive().max(400))
    .default(256)
    .describe('Most megabytes of JSON that one prediction may tell in outputs, metrics and logs; more output fails it')
    .meta({ range: 'a number above 0, at most 400' }),
  FILE_MEGABYTES: numeric(z.number().positive().max(100_000))
    .default(100)
    .describe('Most megabytes (10⁶ bytes) of one file, as an input or as an output')
    .meta({ range: 'a number above 0, at most 100000' }),
  FILES_MEGABYTES: numeric(z.number().positive().max(100_000))
    .default(400)
    .describe('Most megabytes of all input files of one prediction')
    .meta({ range: 'a number above 0, at most 100000' }),
  FILES_SECONDS: numeric(z.number().positive().max(3600))
    .default(60)
    .describe('How long fetching all input files of one prediction may take')
    .meta({ range: 'a number above 0, at most 3600' }),
  FILES_FROM_PRIVATE: z
    .enum(['true', 'false'])
    .default('false')
    .describe('Whether input files may be fetched from addresses that are not public: this machine, private networks')
    .meta({ range: 'true or false' }),
  UPLOAD_URL: z
    .url({ protocol: /^https?$/ })
    .optional()
    .describe('Where output files are put, each under its name; without it they are data URIs in the answer')
    .meta({ range: 'a URL of http or https' }),
  WEBHOOK_REACH: z
    .enum(['public', 'any'])
    .default('public')
    .describe(
      'Where webhooks may go. `public` refuses private, loopback, link-local and other special addresses: else whoever may send a request could have the server call the network behind it',
    )
    .meta({ range: 'public or any' }),
  WEBHOOK_AUTH_TOKEN: z
    .string()
    .regex(/^[\x21-\x7e]+$/)
    .optional()
    .describe('Sent with every webhook as `authorization: Bearer …`')
    .meta({ range: 'printable ASCII without spaces' }),
  WEBHOOK_SECRET: z
    .string()
    .regex(/^whsec_(?:[A-Za-z0-9+/]{4}){8,}(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/)
    .optional()
    .describe('Signs every webhook, as Standard Webhooks and Replicate do')
    .meta({ range: 'whsec_ and at least 24 bytes in base64' }),
  COG_SETUP_TIMEOUT: numeric(z.int().min(0).max(604_800))
    .default(0)
    .describe(
      "Seconds that the Predictor's setup may take, the download of a model included; then its process is ended and the setup has failed. 0: as long as it likes",
    )
    .meta({ range: 'a whole number from 0 to 604800' }),
  COG_STREAM_HISTORY_CAPACITY: numeric(z.int().min(0).max(1_000_000))
    .optional()
    .describe(
      "How many of a prediction's last events are kept for streams that join it later; with 0 they get only what comes from then on",
    )
    .meta({
      range: 'a whole number from 0 to 1000000',
      shownDefault: '1024, with `KEEP_SECONDS` or `RESUME_SECONDS` 16384',
    }),
  KUBERNETES_SERVICE_HOST: z
    .string()
    .optional()
    .describe(
      'Set by Kubernetes itself. Where it is, the empty file /var/run/cog/ready is there while predictions are taken',
    )
    .meta({ range: 'any text' }),
  COG_THROTTLE_RESPONSE_INTERVAL: numeric(z.number().min(0).max(3600))
    .default(0.5)
    .describe('Seconds after a webhook in which none is sent for `logs`')
    .meta({ range: 'a number from 0 to 3600' }),
})

export type ServerSettings = z.output<typeof serverSettings>

/** What a bad text in a variable of Cog's own counts as: Cog starts with it, so that its containers must start here, too. */
const COG_FALLBACKS: ReadonlyMap<keyof ServerSettings, string | undefined> = new Map([
  ['COG_LOG_LEVEL', undefined],
  ['COG_MAX_CONCURRENCY', '1'],
  ['COG_SETUP_TIMEOUT', undefined],
  ['COG_STREAM_HISTORY_CAPACITY', undefined],
  ['COG_THROTTLE_RESPONSE_INTERVAL', undefined],
])

/**
 * Reads the server's settings from the environment. An empty variable counts as unset.
 *
 * @param onFallback is told, in a line for the log, of each bad text that counts as something else, as in Cog.
 * @throws {SettingError} naming variable, value and legal range of the first bad one of all others.
 */
export function parseServerSettings(
  env: Readonly<Record<string, string | undefined>>,
  onFallback: (note: string) => void = () => {},
): ServerSettings {
  const known = Object.keys(serverSettings.shape)
  const given = Object.fromEntries(known.filter((name) => env[name]).map((name) => [name, env[name]]))
  for (const [name, fallback] of COG_FALLBACKS) {
    const schema = serverSettings.shape[name]
    if (schema.safeParse(given[name]).success) continue
    onFallback(
      `${name} is ${JSON.stringify(given[name])}, but should be ${schema.meta()?.range}. It counts as ${fallback ?? 'not set'}, as in Cog.`,
    )
    delete given[name]
    if (fallback !== undefined) given[name] = fallback
  }
  const parsed = serverSettings.safeParse(given)
  if (parsed.success) return parsed.data
  const name = String(parsed.error.issues[0]!.path[0]) as keyof typeof serverSettings.shape
  const range = serverSettings.shape[name].meta()?.range
  throw new SettingError(name, `${name} is ${JSON.stringify(env[name])}, but must be ${range}.`)
}

/** What to log and how; `LOG_LEVEL` goes before Cog's name for it. */
export function logOptionsOf(
  settings: Pick<ServerSettings, 'LOG_LEVEL' | 'COG_LOG_LEVEL' | 'LOG_FORMAT'>,
): Pick<LoggerOptions, 'level' | 'format'> {
  const { LOG_LEVEL, COG_LOG_LEVEL, LOG_FORMAT } = settings
  return { level: LOG_LEVEL ?? (COG_LOG_LEVEL === 'warning' ? 'warn' : COG_LOG_LEVEL), format: LOG_FORMAT }
}

/** Dollars per second of the machine that the settings name. */
export function priceOf(settings: Pick<ServerSettings, 'HARDWARE' | 'HARDWARE_PRICE'>): number {
  return settings.HARDWARE_PRICE ?? PRICES.get(settings.HARDWARE)!
}

/** What files may cost, as the settings say. */
export function fileLimitsOf(settings: ServerSettings): FileLimits {
  return {
    fileBytes: Math.floor(settings.FILE_MEGABYTES * 1e6),
    totalBytes: Math.floor(settings.FILES_MEGABYTES * 1e6),
    timeoutMs: settings.FILES_SECONDS * 1000,
    allowPrivate: settings.FILES_FROM_PRIVATE === 'true',
    ...(settings.UPLOAD_URL !== undefined && { uploadUrl: settings.UPLOAD_URL }),
  }
}
