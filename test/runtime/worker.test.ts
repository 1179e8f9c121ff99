import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import ts from 'typescript'
import { RuntimeWorker } from '../../model/runtime/worker.js'
import { runChild } from './fork.js'

const OPTIONS = { libraryPath: '', threads: 1, device: 'cpu', deviceId: 0, tf32: true } as const
const fixture = (name: string) => new URL(`./fixtures/${name}.mjs`, import.meta.url)

/** Runs node, and gives what it wrote. */
async function node(...args: string[]) {
  const child = spawn(process.execPath, args, { cwd: fileURLToPath(new URL('../..', import.meta.url)) })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      output += text
    })
  }
  const [code] = await once(child, 'close')
  return { code, output }
}

t.test('when the thread ends, open and later questions fail with its reason, and closing is at peace', async (t) => {
  const { worker } = await RuntimeWorker.start(OPTIONS, fixture('dying-worker'))
  const questions = [worker.call('run', { bindings: [] }), worker.call('dispose', { id: 1 })]
  for (const question of questions) {
    await t.rejects(question, { name: 'RuntimeStoppedError', message: /exit code 3/ })
  }
  await t.rejects(worker.call('dispose', { id: 1 }), { name: 'RuntimeStoppedError' })
  await worker.close()
})

t.test('when the thread throws, its error is the cause', async (t) => {
  const { worker } = await RuntimeWorker.start(OPTIONS, fixture('dying-worker'))
  await t.rejects(worker.call('dispose', { id: 1 }), {
    name: 'RuntimeStoppedError',
    message: 'The ONNX Runtime thread failed: out of luck',
    cause: { message: 'out of luck' },
  })
})

t.test('a thread that ends before it is ready is an error', async (t) => {
  await t.rejects(RuntimeWorker.start(OPTIONS, fixture('stillborn-worker')), {
    name: 'RuntimeStoppedError',
    message: /exit code 4/,
  })
})

t.test('a library that cannot be loaded is an error of the library', async (t) => {
  const libraryPath = join(t.testdir({ 'no-library.so': 'text' }), 'no-library.so')
  await t.rejects(RuntimeWorker.start({ ...OPTIONS, libraryPath }), {
    name: 'LibraryError',
    message: /no-library\.so.*npm ci/,
  })
})

t.test('a process exits in the middle of a run, without waiting for its end', async (t) => {
  const { code, signal } = await runChild('exit-while-running')
  t.same({ code, signal }, { code: 7, signal: null })
})

t.test('the thread starts from source under tsx, in both of its spellings', async (t) => {
  const child = fileURLToPath(new URL('./children/open-and-run.ts', import.meta.url))
  t.same(await node('--import', 'tsx', child), { code: 0, output: 'ONNX Runtime 1.30.0\n' })
  const cli = fileURLToPath(new URL('../../node_modules/tsx/dist/cli.mjs', import.meta.url))
  t.same(await node(cli, child), { code: 0, output: 'ONNX Runtime 1.30.0\n' })
})

t.test('the thread starts from compiled JavaScript', async (t) => {
  // Below the package, so that its dependencies are found from there.
  const dist = t.testdir()
  const model = fileURLToPath(new URL('../../model', import.meta.url))
  const compile = (folder: string, names: readonly string[]) => {
    mkdirSync(join(dist, folder), { recursive: true })
    for (const name of names) {
      const source = readFileSync(join(model, folder, name), 'utf8')
      const { outputText } = ts.transpileModule(source, {
        compilerOptions: { target: ts.ScriptTarget.ES2023, module: ts.ModuleKind.ESNext },
      })
      writeFileSync(join(dist, folder, name.replace(/\.ts$/, '.js')), outputText)
    }
  }
  compile('.', ['errors.ts'])
  compile('runtime', readdirSync(join(model, 'runtime')))
  const main = join(dist, 'main.js')
  writeFileSync(
    main,
    `import { openRuntime } from './runtime/runtime.js'
    const runtime = await openRuntime({ device: 'cpu' })
    console.log(runtime.version)
    await runtime[Symbol.asyncDispose]()`,
  )
  writeFileSync(join(dist, 'package.json'), '{ "type": "module" }')
  t.same(await node(main), { code: 0, output: '1.30.0\n' })
})
