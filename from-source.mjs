// The command line from source, as `npm start` runs it: transpiles into dist/, without checking types, then runs what lies there.
// A loader (tsx) would do the same in memory, but in each of the three places where code is loaded (the server, the model's
// process and its thread), at a quarter of a second each.
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import { build, stop } from 'esbuild'
import { bundleDependencies } from './bundle-dependencies.mjs'

const { outputFiles } = await build({
  absWorkingDir: import.meta.dirname,
  entryPoints: ['cli.ts', 'predict.ts', 'cli/**/*.ts', 'server/**/*.ts', 'model/**/*.ts'],
  outbase: '.',
  outdir: 'dist',
  format: 'esm',
  platform: 'node',
  target: 'node20',
  sourcemap: true,
  logLevel: 'warning',
  write: false,
})

// Only what has changed, and whole files only: another process may be loading them.
await Promise.all(
  outputFiles.map(async ({ path, contents }) => {
    const before = await readFile(path).catch(() => undefined)
    if (before?.equals(contents)) return
    await mkdir(dirname(path), { recursive: true })
    const temporary = `${path}.${process.pid}`
    await writeFile(temporary, contents)
    await rename(temporary, path)
  }),
)
await bundleDependencies()
// Its helper process would stay as long as this one.
await stop()
await import('./dist/cli.js')
