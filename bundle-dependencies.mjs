// Puts the packages that every start loads into dist/node_modules, each as one file, where what lies in dist/ finds them before the
// ones of many files: to load 250 files takes four times as long as to load four.
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { build } from 'esbuild'

const PACKAGES = ['fastify', 'pino', 'yaml', 'zod']
const folder = `${import.meta.dirname}/dist/node_modules`
const require = createRequire(import.meta.url)

/** Does nothing where the bundles are those of the versions that are installed. */
export async function bundleDependencies() {
  await Promise.all(PACKAGES.map(bundle))
}

async function bundle(name) {
  const { version } = JSON.parse(await readFile(`${import.meta.dirname}/node_modules/${name}/package.json`, 'utf8'))
  const manifest = JSON.stringify({ name, version, type: 'module', exports: './index.js' })
  const before = await readFile(`${folder}/${name}/package.json`, 'utf8').catch(() => undefined)
  if (before === manifest) return
  const { outputFiles } = await build({
    absWorkingDir: import.meta.dirname,
    stdin: { contents: exportsOf(name), resolveDir: import.meta.dirname },
    bundle: true,
    format: 'esm',
    platform: 'node',
    target: 'node20',
    banner: { js: "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);" },
    // Not needed for a start: Fastify asks for them where routes have schemas, and for its own tests.
    external: ['@fastify/ajv-compiler', '@fastify/fast-json-stringify-compiler', 'light-my-request', 'pino-pretty'],
    legalComments: 'inline',
    logLevel: 'warning',
    write: false,
  })
  await mkdir(`${folder}/${name}`, { recursive: true })
  await replace(`${folder}/${name}/index.js`, outputFiles[0].contents)
  // Last, so that it vouches for the other.
  await replace(`${folder}/${name}/package.json`, manifest)
}

/** A CommonJS package has its names at run time only. */
function exportsOf(name) {
  const module = require(name)
  if (module.__esModule) return `export * from '${name}'; export { default } from '${name}'`
  const names = Object.keys(module).filter((key) => /^[A-Za-z_$][\w$]*$/.test(key) && key !== 'default')
  return `import module from '${name}'; export default module; export const { ${names.join(', ')} } = module`
}

/** Whole files only: another process may be loading them. */
async function replace(path, contents) {
  const temporary = `${path}.${process.pid}`
  await writeFile(temporary, contents)
  await rename(temporary, path)
}

if (process.argv[1] === import.meta.filename) await bundleDependencies()
