import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'

const root = fileURLToPath(new URL('../..', import.meta.url))

/** From → what it may import: path prefixes, or exact files. Everything may import from its own folder. */
const allowed: Record<string, readonly string[]> = {
  'server/': [],
  'predict.ts': ['server/predictor', 'model/'],
  'examples/': ['server/predictor', 'server/files', 'server/secret'],
  'cli.ts': ['cli/', 'server/', 'model/', 'predict'],
  'cli/': ['server/', 'model/', 'predict'],
  'model/engine/': ['model/runtime/', 'model/onnx/', 'model/*'],
  'model/export/': ['model/gguf/', 'model/onnx/', 'model/*'],
  'model/gguf/': ['model/*'],
  'model/hub/': ['model/errors', 'model/progress'],
  'model/runtime/': ['model/errors', 'model/progress'],
  'model/onnx/': [],
  'model/': ['model/engine/', 'model/export/', 'model/hub/', 'model/runtime/'],
}

function sources(folder: string): string[] {
  return readdirSync(join(root, folder), { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name)
    if (entry.isDirectory()) return sources(path)
    return entry.name.endsWith('.ts') ? [path] : []
  })
}

const files = ['cli.ts', 'predict.ts', ...['cli', 'server', 'model', 'examples'].flatMap(sources)]

function importsOf(file: string): string[] {
  const text = readFileSync(join(root, file), 'utf8')
  return [...text.matchAll(/(?:from|import|import\()\s*'(\.[^']+)'/g)].map(([, path]) =>
    relative(root, join(root, dirname(file), path!)).replace(/\.js$/, ''),
  )
}

/** The most specific rule that a file stands under. */
function ruleFor(file: string): string {
  const rule = Object.keys(allowed)
    .filter((prefix) => file.startsWith(prefix))
    .sort((a, b) => b.length - a.length)[0]
  if (rule === undefined) throw new Error(`No import rule for ${file}: add its folder to this test.`)
  return rule
}

function isAllowed(rule: string, target: string): boolean {
  if (rule.endsWith('/') && target.startsWith(rule)) return true
  return allowed[rule]!.some((entry) => {
    if (entry.endsWith('/*')) return dirname(target) === entry.slice(0, -2)
    return entry.endsWith('/') ? target.startsWith(entry) : target === entry
  })
}

t.test('imports go one way: server knows nothing of the model, and the model nothing of HTTP', async (t) => {
  const wrong = files.flatMap((file) =>
    importsOf(file)
      .filter((target) => !isAllowed(ruleFor(file), target))
      .map((target) => `${file} imports ${target}`),
  )
  t.same(wrong, [])
  t.ok(files.some((file) => importsOf(file).length > 0))
})

t.test('no module imports itself through others', async (t) => {
  const graph = new Map(files.map((file) => [file.replace(/\.ts$/, ''), importsOf(file)]))
  const cycles: string[] = []
  const done = new Set<string>()
  function walk(file: string, path: readonly string[]): void {
    if (path.includes(file)) cycles.push([...path.slice(path.indexOf(file)), file].join(' → '))
    if (path.includes(file) || done.has(file)) return
    for (const target of graph.get(file) ?? []) walk(target, [...path, file])
    done.add(file)
  }
  for (const file of graph.keys()) walk(file, [])
  t.same(cycles, [])
})

t.test('the environment is read in three files only, and set in one', async (t) => {
  const code = (file: string) => readFileSync(join(root, file), 'utf8').replaceAll(/\/\*[\s\S]*?\*\/|\/\/.*$/gm, '')
  const readers = files.filter((file) => /process\.env\b/.test(code(file)))
  t.same(
    readers.filter((file) => !['cli.ts', 'predict.ts', 'server/main.ts', 'server/worker-main.ts'].includes(file)),
    [],
  )
})
