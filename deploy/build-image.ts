import { spawn, spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { parse } from 'yaml'
import { COG_RELEASE } from '../server/cog-release.js'
import { readCogYaml } from '../server/cog-yaml.js'
import { loadPredictor } from '../server/load-predictor.js'
import { openApiDocument } from '../server/openapi.js'
import { ENGINES, type EngineName, exitWith, findEngine, oneOf } from './engine.js'
import { imageLabels, TARGETS, type Target } from './image-labels.js'

const USAGE = `Builds an image with Cog's labels.

  npm run image -- [--target cpu|cuda] [--tag name] [--weights folder] [--engine docker|buildah] [--labels] [-- engine's options]

  --target   Default: cpu.
  --tag      Default: bezel for cpu, bezel:cuda for cuda.
  --weights  An export to bake in: a folder below weights/. Default: the demo model.
  --engine   Default: docker if it works here, else buildah.
  --labels   Builds nothing, and prints the labels as JSON.

Example:  npm run image -- --target cuda --weights weights/gemma-2b-it-cuda -- --no-cache
`

const root = dirname(dirname(fileURLToPath(import.meta.url)))

async function main(): Promise<number> {
  const words = process.argv.slice(2)
  const end = words.includes('--') ? words.indexOf('--') : words.length
  const { values } = parseArgs({
    args: words.slice(0, end),
    options: {
      target: { type: 'string', default: 'cpu' },
      tag: { type: 'string' },
      weights: { type: 'string' },
      engine: { type: 'string' },
      labels: { type: 'boolean' },
      help: { type: 'boolean' },
    },
  })
  if (values.help) {
    process.stdout.write(USAGE)
    return 0
  }
  const target = oneOf('target', values.target, TARGETS)
  const labels = await labelsFor(target)
  if (values.labels) {
    process.stdout.write(`${JSON.stringify(labels, null, 2)}\n`)
    return 0
  }
  const engine = values.engine === undefined ? findEngine() : oneOf('engine', values.engine, ENGINES)
  return run(engine, [
    ...['build', '--target', target, '--tag', values.tag ?? (target === 'cpu' ? 'bezel' : `bezel:${target}`)],
    ...(values.weights === undefined ? [] : ['--build-arg', `WEIGHTS=${values.weights}`]),
    ...optionsOf(engine),
    ...Object.entries(labels).flatMap(([name, value]) => ['--label', `${name}=${value}`]),
    ...words.slice(end + 1),
    root,
  ])
}

async function labelsFor(target: Target): Promise<Record<string, string>> {
  const cogFile = join(root, 'cog.yaml')
  return imageLabels({
    target,
    cogYaml: parse(readFileSync(cogFile, 'utf8')) as Record<string, unknown>,
    openapi: openApiDocument(await loadPredictor(readCogYaml(cogFile))),
    cogVersion: COG_RELEASE.python_sdk,
    version: (JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string }).version,
    revision: git('rev-parse', 'HEAD'),
  })
}

/** buildah's own format, OCI's, has no place for HEALTHCHECK. The times in an image are those of the commit. */
function optionsOf(engine: EngineName): string[] {
  const seconds = git('log', '-1', '--format=%ct')
  if (engine === 'docker') return seconds === undefined ? [] : ['--build-arg', `SOURCE_DATE_EPOCH=${seconds}`]
  return ['--format', 'docker', ...(seconds === undefined ? [] : ['--timestamp', seconds])]
}

/** What git prints; undefined without git or outside of a git tree. */
function git(...words: string[]): string | undefined {
  const { status, stdout } = spawnSync('git', ['-C', root, ...words], { encoding: 'utf8' })
  return status === 0 ? stdout.trim() : undefined
}

function run(command: string, words: readonly string[]): Promise<number> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, words, { stdio: 'inherit' })
    child.once('error', reject)
    child.once('close', (code) => resolve(code ?? 1))
  })
}

await exitWith(USAGE, main)
