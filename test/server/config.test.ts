import t from 'tap'
import { fileLimitsOf, logOptionsOf, parseServerSettings, priceOf, serverSettings } from '../../server/config.js'
import { costOf, PRICES } from '../../server/cost.js'

t.test('without variables the defaults hold, and an empty variable is none', async (t) => {
  const defaults = {
    PORT: 5000,
    HOST: '127.0.0.1',
    HARDWARE: 'cpu',
    COG_LOG_LEVEL: 'info',
    QUEUE: 0,
    QUEUE_MEGABYTES: 256,
    OUTPUT_MEGABYTES: 256,
    KEEP_SECONDS: 0,
    RESUME_SECONDS: 0,
    SHUTDOWN_FROM: 'loopback',
    AWAIT_EXPLICIT_SHUTDOWN: 'false',
    DRAIN_DELAY_SECONDS: 0,
    MAX_CONNECTIONS: 1024,
    RECEIVE_SECONDS: 300,
    DRAIN_SECONDS: 25,
    FILE_MEGABYTES: 100,
    FILES_MEGABYTES: 400,
    FILES_SECONDS: 60,
    FILES_FROM_PRIVATE: 'false',
    WEBHOOK_REACH: 'public',
    COG_SETUP_TIMEOUT: 0,
    COG_THROTTLE_RESPONSE_INTERVAL: 0.5,
  }
  t.strictSame(parseServerSettings({}), defaults)
  t.strictSame(parseServerSettings({ PORT: '', HARDWARE_PRICE: '', COG_MAX_CONCURRENCY: '', UNKNOWN: 'x' }), defaults)
})

t.test('variables are read as what they are', async (t) => {
  const env = { PORT: '0', HOST: '0.0.0.0', HARDWARE: 'gpu-l40s-2x', HARDWARE_PRICE: '1e-3', DRAIN_SECONDS: '0.5' }
  t.match(parseServerSettings(env), { ...env, PORT: 0, HARDWARE_PRICE: 0.001, DRAIN_SECONDS: 0.5 })
})

t.test('a bad setting is named with its value and its range', async (t) => {
  const bad: [string, string, string][] = [
    ['PORT', 'http', 'PORT is "http", but must be a whole number from 0 to 65535.'],
    ['PORT', '65536', 'PORT is "65536", but must be a whole number from 0 to 65535.'],
    ['PORT', '-1', 'PORT is "-1", but must be a whole number from 0 to 65535.'],
    ['PORT', '50.5', 'PORT is "50.5", but must be a whole number from 0 to 65535.'],
    ['PORT', ' ', 'PORT is " ", but must be a whole number from 0 to 65535.'],
    ['HARDWARE', 'gpu', `HARDWARE is "gpu", but must be one of ${[...PRICES.keys()].join(', ')}.`],
    ['HARDWARE_PRICE', '-1', 'HARDWARE_PRICE is "-1", but must be a number from 0 to 1.'],
    ['HARDWARE_PRICE', 'NaN', 'HARDWARE_PRICE is "NaN", but must be a number from 0 to 1.'],
    ['HARDWARE_PRICE', 'Infinity', 'HARDWARE_PRICE is "Infinity", but must be a number from 0 to 1.'],
    ['LOG_LEVEL', 'loud', 'LOG_LEVEL is "loud", but must be one of trace, debug, info, warn, error, fatal, silent.'],
    ['FILE_MEGABYTES', '0', 'FILE_MEGABYTES is "0", but must be a number above 0, at most 100000.'],
    ['FILES_FROM_PRIVATE', 'yes', 'FILES_FROM_PRIVATE is "yes", but must be true or false.'],
    ['UPLOAD_URL', 'file:///tmp', 'UPLOAD_URL is "file:///tmp", but must be a URL of http or https.'],
    ['SHUTDOWN_FROM', 'all', 'SHUTDOWN_FROM is "all", but must be loopback or any.'],
    ['AWAIT_EXPLICIT_SHUTDOWN', 'yes', 'AWAIT_EXPLICIT_SHUTDOWN is "yes", but must be true or false.'],
    ['WEBHOOK_REACH', 'all', 'WEBHOOK_REACH is "all", but must be public or any.'],
    [
      'COG_PREDICT_TYPE_STUB',
      'predict.py:Predictor',
      'COG_PREDICT_TYPE_STUB is "predict.py:Predictor", but must be file.ts:Name.',
    ],
    ['DRAIN_SECONDS', '1h', 'DRAIN_SECONDS is "1h", but must be a number from 0 to 3600.'],
  ]
  for (const [setting, value, message] of bad) {
    t.throws(() => parseServerSettings({ [setting]: value }), { name: 'SettingError', setting, message })
  }
})

t.test("a bad text in a variable of Cog's own counts as something else, as in Cog, and is told", async (t) => {
  const settings = (env: Record<string, string>) => {
    const notes: string[] = []
    return { ...parseServerSettings(env, (note) => notes.push(note)), notes }
  }
  for (const value of ['0', '-1', 'four', '2.5', '1e9', ' ']) {
    t.match(settings({ COG_MAX_CONCURRENCY: value }), {
      COG_MAX_CONCURRENCY: 1,
      notes: [
        `COG_MAX_CONCURRENCY is ${JSON.stringify(value)}, but should be a whole number from 1 to 4096. It counts as 1, as in Cog.`,
      ],
    })
  }
  t.match(settings({ COG_MAX_CONCURRENCY: '64' }), { COG_MAX_CONCURRENCY: 64, notes: [] })
  for (const name of ['COG_SETUP_TIMEOUT', 'COG_STREAM_HISTORY_CAPACITY']) {
    const { notes, ...read } = settings({ [name]: '1.5' })
    t.strictSame(read, parseServerSettings({}), name)
    t.match(notes, [`${name} is "1.5", but should be a whole number from 0 to `])
    t.match(settings({ [name]: '0' }), { [name]: 0, notes: [] })
  }
  t.match(settings({ COG_LOG_LEVEL: 'loud', COG_THROTTLE_RESPONSE_INTERVAL: '-1' }), {
    COG_LOG_LEVEL: 'info',
    COG_THROTTLE_RESPONSE_INTERVAL: 0.5,
    notes: [
      'COG_LOG_LEVEL is "loud", but should be one of debug, info, warn, warning, error. It counts as not set, as in Cog.',
      'COG_THROTTLE_RESPONSE_INTERVAL is "-1", but should be a number from 0 to 3600. It counts as not set, as in Cog.',
    ],
  })
})

t.test("the log's level has Cog's name, too, and its format is console or JSON", async (t) => {
  const options = (env: Record<string, string>) => logOptionsOf(parseServerSettings(env))
  t.strictSame(options({}), { level: 'info', format: undefined })
  t.strictSame(options({ COG_LOG_LEVEL: 'WARNING', LOG_FORMAT: 'console' }), { level: 'warn', format: 'console' })
  t.strictSame(options({ COG_LOG_LEVEL: 'debug', LOG_LEVEL: 'silent' }), { level: 'silent', format: undefined })
  t.strictSame(options({ LOG_FORMAT: 'structured' }), { level: 'info', format: 'json' })
})

t.test('every setting says what it means and what it may be', async (t) => {
  for (const [name, schema] of Object.entries(serverSettings.shape)) {
    t.ok(schema.description, name)
    t.ok(schema.meta()?.range, name)
  }
})

t.test('the price is that of the hardware, unless one is given', async (t) => {
  t.equal(priceOf({ HARDWARE: 'gpu-l40s' }), 0.000975)
  t.equal(priceOf({ HARDWARE: 'gpu-h100-8x' }), 0.0122)
  t.equal(priceOf({ HARDWARE: 'cpu', HARDWARE_PRICE: 0 }), 0)
  t.equal(costOf(2.87, 0.000975), 0.00279825)
  t.equal(costOf(0.1, 0.0007), 0.00007, 'without the noise of binary fractions')
})

t.test('what files may cost is told in bytes and milliseconds', async (t) => {
  const defaults = { fileBytes: 100_000_000, totalBytes: 400_000_000, timeoutMs: 60_000, allowPrivate: false }
  t.strictSame(fileLimitsOf(parseServerSettings({})), defaults)
  const env = { FILE_MEGABYTES: '0.5', FILES_FROM_PRIVATE: 'true', UPLOAD_URL: 'https://files.test/put' }
  const set = { fileBytes: 500_000, allowPrivate: true, uploadUrl: 'https://files.test/put' }
  t.strictSame(fileLimitsOf(parseServerSettings(env)), { ...defaults, ...set })
})
