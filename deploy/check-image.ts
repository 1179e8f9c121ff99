import { spawnSync } from 'node:child_process'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { type Container, type ImageConfig, openEngine } from './container.js'
import { capture, ENGINES, type EngineName, exitWith, findEngine, oneOf } from './engine.js'
import { TARGETS, type Target } from './image-labels.js'

const USAGE = `Builds an image and checks it: starts it with a read-only root, asks it, and stops it.

  npm run image:check -- [--target cpu|cuda] [--tag name] [--engine docker|buildah] [-- engine's options for the build]

  --target   Default: cpu.
  --tag      An image that is there, to check in place of a new one.
  --engine   Default: docker if it works here, else buildah (then as root, on Linux).
`

const BASE = 'node:24-bookworm-slim'
const READY_SECONDS = 120
/** DRAIN_SECONDS (25) and what the server gives itself after it; what docs/deploying.md asks orchestrators for. */
const GRACE_SECONDS = 40
const MEGABYTE = 1e6
const MOST_BEYOND_BASE = 300 * MEGABYTE
const MOST_CUDA = 1600 * MEGABYTE

let failures = 0

function check(what: string, holds: boolean, found: unknown = ''): void {
  if (!holds) failures++
  const detail = typeof found === 'string' ? found : JSON.stringify(found)
  process.stdout.write(`${holds ? 'ok  ' : 'FAIL'}  ${what}${detail ? `: ${detail}` : ''}\n`)
}

async function main(): Promise<number> {
  const words = process.argv.slice(2)
  const end = words.includes('--') ? words.indexOf('--') : words.length
  const { values } = parseArgs({
    args: words.slice(0, end),
    options: {
      target: { type: 'string', default: 'cpu' },
      tag: { type: 'string' },
      engine: { type: 'string' },
      help: { type: 'boolean' },
    },
  })
  if (values.help) {
    process.stdout.write(USAGE)
    return 0
  }
  const target = oneOf('target', values.target, TARGETS)
  const engine = values.engine === undefined ? findEngine() : oneOf('engine', values.engine, ENGINES)
  const image = values.tag ?? build(target, engine, words.slice(end))
  await checkImage(image, target, engine)
  process.stdout.write(failures === 0 ? 'All holds.\n' : `${failures} do not hold.\n`)
  return failures === 0 ? 0 : 1
}

/** @returns the image's name. */
function build(target: Target, engine: EngineName, options: readonly string[]): string {
  const image = `bezel-check:${target}`
  const script = fileURLToPath(new URL('build-image.ts', import.meta.url))
  const words = ['--target', target, '--engine', engine, '--tag', image, ...options]
  const { status } = spawnSync(process.execPath, [...process.execArgv, script, ...words], { stdio: 'inherit' })
  if (status !== 0) throw new Error(`The build of ${image} failed.`)
  return image
}

async function checkImage(image: string, target: Target, engineName: EngineName): Promise<void> {
  const engine = openEngine(engineName)
  if (engineName === 'docker') capture('docker', ['pull', '--quiet', BASE])
  const config = engine.config(image)
  checkConfig(config)
  checkSize(target, engine.sizeBytes(image), engine.sizeBytes(BASE))
  const started = performance.now()
  const container = await engine.start(image, config)
  try {
    const { status, setup } = await untilSetUp(container)
    check('it is READY', status === 'READY', `${status} after ${seconds(started)}`)
    if (status !== 'READY') process.stdout.write(setup?.logs ?? '')
    checkIsolation(container, target)
    await checkAnswers(container, config)
    await checkStop(container)
  } finally {
    container.remove()
  }
}

function checkConfig(config: ImageConfig): void {
  check('its user is not root, and given by number', /^[1-9]\d*(:\d+)?$/.test(config.User), config.User)
  check('tini is its entry point', config.Entrypoint[0] === 'tini', config.Entrypoint)
  check('it exposes 5000', '5000/tcp' in config.ExposedPorts)
  check('/models is a volume', '/models' in config.Volumes)
  check('it has a health check', config.Healthcheck?.Test[0] === 'CMD', config.Healthcheck?.Test)
  for (const name of ['config', 'version', 'openapi_schema']) {
    check(`it has the label run.cog.${name}`, (config.Labels[`run.cog.${name}`] ?? '') !== '')
  }
}

function checkSize(target: Target, size: number, base: number): void {
  const megabytes = (bytes: number) => `${Math.round(bytes / MEGABYTE)} MB`
  const found = `${megabytes(size)}, of which ${megabytes(base)} is ${BASE}`
  if (target === 'cpu') check('it adds at most 300 MB to its base', size - base <= MOST_BEYOND_BASE, found)
  else check('it takes at most 1.6 GB', size <= MOST_CUDA, found)
}

interface Health {
  readonly status: string
  readonly setup?: { readonly logs: string }
}

/** @returns its health after setup; `no answer` if there was none in time. */
async function untilSetUp({ url }: Container): Promise<Health> {
  let health: Health = { status: 'no answer' }
  for (const started = performance.now(); performance.now() - started < READY_SECONDS * 1000; await delay(100)) {
    const answer = await fetch(`${url}/health-check`).catch(() => undefined)
    if (answer) health = (await answer.json()) as Health
    if (answer && health.status !== 'STARTING') break
  }
  return health
}

function checkIsolation(container: Container, target: Target): void {
  const probe = container.exec('node', 'deploy/healthcheck.js')
  check('its health check passes', probe.status === 0, probe.output)
  const first = container.exec('cat', '/proc/1/comm')
  check('tini is process 1', first.output === 'tini', first.output)
  const user = container.exec('id', '-u')
  check('it does not run as root', user.output !== '0', user.output)
  const intoRoot = container.exec('touch', '/bezel/probe')
  check('its root is read-only', intoRoot.status !== 0, intoRoot.output)
  check('it may write to /models', container.exec('touch', '/models/probe').status === 0)
  const development = container.exec('ls', 'node_modules/typescript', 'node_modules/tap')
  check('it has no development dependencies', development.status !== 0)
  if (target === 'cuda') {
    const folder = 'node_modules/onnxruntime-node/bin/napi-v6/linux/x64'
    const { output } = container.exec('ldd', `${folder}/libonnxruntime_providers_cuda.so`)
    const missing = [...output.matchAll(/(\S+) => not found/g)].map(([, name]) => name)
    // That one is the driver's, and comes from the host.
    const own = missing.filter((name) => name !== 'libcuda.so.1')
    check("the CUDA provider's libraries are found", output.includes('libcudart') && own.length === 0, own.join(', '))
  }
}

async function checkAnswers({ url }: Container, config: ImageConfig): Promise<void> {
  const input = { prompt: 'What can you do?', max_new_tokens: 16, seed: 1 }
  const answer = await predict(url, input)
  const { status, output, metrics } = (await answer.json()) as { status: string; output: string[]; metrics: object }
  check('it answers a prediction', status === 'succeeded', output?.join(''))
  check('its receipt has a cost', 'cost' in metrics, metrics)

  const stream = await predict(url, input, { accept: 'text/event-stream' })
  const events = [...(await stream.text()).matchAll(/^event: (\w+)$/gm)].map(([, name]) => name)
  check('it streams', events[0] === 'start' && events.includes('output') && events.at(-1) === 'completed', {
    events: events.length,
  })

  const served = await (await fetch(`${url}/openapi.json`)).json()
  const labelled = JSON.parse(config.Labels['run.cog.openapi_schema'] ?? 'null')
  check('/openapi.json is what its label says', sorted(served) === sorted(labelled))
}

async function checkStop(container: Container): Promise<void> {
  const running = predict(container.url, { prompt: 'Go on.', max_new_tokens: 64 }, { accept: 'text/event-stream' })
  const text = (await running).text()
  const started = performance.now()
  const code = await container.terminate()
  check('on SIGTERM it ends with code 0', code === 0, `code ${code}`)
  check(`within ${GRACE_SECONDS} s`, performance.now() - started < GRACE_SECONDS * 1000, seconds(started))
  check('having answered what ran', (await text).includes('event: completed'))
}

function predict(url: string, input: object, headers: Record<string, string> = {}): Promise<Response> {
  const body = JSON.stringify({ input })
  return fetch(`${url}/predictions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body,
  })
}

function seconds(since: number): string {
  return `${((performance.now() - since) / 1000).toFixed(1)} s`
}

/** JSON with the keys of every object in order: the same text for equal documents. */
function sorted(value: unknown): string {
  return JSON.stringify(value, (_key, inner: unknown) =>
    typeof inner === 'object' && inner !== null && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)))
      : inner,
  )
}

await exitWith(USAGE, main)
