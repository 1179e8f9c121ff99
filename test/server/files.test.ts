import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { createServer, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import { dirname, join } from 'node:path'
import t, { type Test } from 'tap'
import { z } from 'zod'
import { file, type InputFile, OutputFile, outputFile } from '../../server/files.js'
import { definePredictor, iterator, type Predictor } from '../../server/predictor.js'
import type { FileLimits } from '../../server/run-files.js'
import { deferred, TEST_FILES, type TestServer, testServer } from './fixtures.js'

async function listen(t: Test, answer: RequestListener): Promise<string> {
  const server = createServer(answer).listen(0, '127.0.0.1')
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  await new Promise((resolve) => server.once('listening', resolve))
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

async function serve(t: Test, predictor: Predictor, files: Partial<FileLimits> = {}): Promise<TestServer> {
  const server = await testServer({ predictor, files: { ...TEST_FILES, ...files } })
  t.teardown(() => server.app.close())
  t.teardown(() => server.worker.stop())
  return server
}

async function predict({ app }: TestServer, input: object) {
  const response = await app.inject({ method: 'POST', url: '/predictions', payload: { id: 'p', input } })
  return { code: response.statusCode, ...response.json() }
}

/** Tells what it reads, and keeps the paths for the test to look at. */
function reader() {
  const paths: string[] = []
  const read = (one: InputFile) => {
    paths.push(one.path)
    return `${one.mediaType} ${one.sizeBytes} ${readFileSync(one.path, 'utf8')}`
  }
  const predictor = definePredictor({
    input: z.object({
      image: file().optional(),
      pages: z.array(file()).default([]),
      end: z.enum(['return', 'throw', 'hang']).default('return'),
    }),
    output: z.array(z.string()),
    streaming: false,
    async predict(input, _state, { folder, signal }) {
      const texts = [...(input.image ? [input.image] : []), ...input.pages].map(read)
      await writeFile(join(await folder(), 'scratch'), 'left behind')
      if (input.end === 'throw') throw new Error('thrown')
      while (input.end === 'hang' && !signal.aborted) await new Promise((resolve) => setImmediate(resolve))
      return texts
    },
  })
  return { paths, predictor: predictor as unknown as Predictor }
}

t.test('files come by URL and as data URIs, alone and in lists, and keep their extension', async (t) => {
  const url = await listen(t, (request, response) => {
    response.writeHead(200, { 'content-type': 'image/png' }).end(request.url)
  })
  const { predictor, paths } = reader()
  const server = await serve(t, predictor)
  const pages = ['data:text/plain,one', 'data:text/plain;base64,dHdv', `${url}/a%2fb/..%2f..%2fx%20y.tar.gz?size=1`]
  const { output } = await predict(server, { image: `${url}/cat.png`, pages })
  t.strictSame(output, [
    'image/png 8 /cat.png',
    'text/plain 3 one',
    'text/plain 3 two',
    'image/png 36 /a%2fb/..%2f..%2fx%20y.tar.gz?size=1',
  ])
  t.strictSame(
    paths.map((path) => path.slice(dirname(path).length + 1)),
    ['0-cat.png', '1-file.txt', '2-file.txt', '3-.._.._x_y.tar.gz'],
  )
})

t.test('they are removed when the prediction ends, however it ends', async (t) => {
  const { predictor, paths } = reader()
  const server = await serve(t, predictor)
  for (const end of ['return', 'throw'] as const) {
    const { status } = await predict(server, { image: 'data:,x', end })
    t.equal(status, end === 'return' ? 'succeeded' : 'failed')
    t.notOk(existsSync(dirname(paths.at(-1)!)), end)
  }
  const running = predict(server, { image: 'data:,x', end: 'hang' })
  while (paths.length < 3) await new Promise((resolve) => setImmediate(resolve))
  t.ok(existsSync(paths.at(-1)!))
  server.service.cancelById('p')
  t.equal((await running).status, 'canceled')
  t.notOk(existsSync(dirname(paths.at(-1)!)))
  t.notOk(readdirSync(dirname(dirname(paths.at(-1)!))).length, 'nothing else lies beside it')
})

t.test('what is no URL of http or https is refused before anything starts, without its text', async (t) => {
  const { predictor, paths } = reader()
  const server = await serve(t, predictor)
  for (const uri of ['/etc/passwd', 'file:///etc/passwd', 'ftp://example.com/a', 'cat.png', '']) {
    const { code, detail } = await predict(server, { pages: [uri] })
    t.equal(code, 422)
    const msg = 'must be a URL of http or https, or a data URI'
    t.strictSame(detail, [{ loc: ['body', 'input', 'pages/0'], msg, type: 'value_error' }])
  }
  t.equal((await predict(server, { image: 5 })).detail[0].msg, '5 is not of type "string"')
  t.equal(paths.length, 0)
})

t.test('one file, all files and the time for them are limited; the error names the input', async (t) => {
  const url = await listen(t, (request, response) => {
    if (request.url === '/large') response.end('x'.repeat(1001))
    if (request.url === '/secret') response.writeHead(403).end()
  })
  const { predictor, paths } = reader()
  const server = await serve(t, predictor)
  const failed = async (input: object) => (await predict(server, input)).error
  const words = 'Prediction failed: FileInputError: '
  t.equal(await failed({ image: `${url}/large` }), `${words}image: the file has more than 1000 bytes`)
  t.equal(await failed({ pages: [`data:,${'x'.repeat(1001)}`] }), `${words}pages: the file has more than 1000 bytes`)
  const two = [`data:,${'x'.repeat(800)}`, `data:,${'x'.repeat(800)}`]
  t.equal(await failed({ pages: two }), `${words}pages: all files together have more than 1500 bytes`)
  const host = new URL(url).host
  t.equal(await failed({ pages: ['data:,a', `${url}/secret`] }), `${words}pages: ${host} answered with status 403`)
  t.equal(paths.length, 0)

  const hasty = await serve(t, predictor, { timeoutMs: 20 })
  const { error } = await predict(hasty, { pages: ['data:,a', `${url}/never`] })
  t.equal(error, `${words}pages: not fetched within 0.02 s`)
})

t.test('files of this machine and of private networks are fetched only where that is allowed', async (t) => {
  let requests = 0
  const url = await listen(t, (_request, response) => {
    requests++
    response.end('x')
  })
  const { predictor } = reader()
  const closed = await serve(t, predictor, { allowPrivate: false })
  t.match((await predict(closed, { image: url })).error, /image: 127.0.0.1:\d+ has an address that files may not be/)
  t.equal(requests, 0)
  t.equal((await predict(await serve(t, predictor), { image: url })).status, 'succeeded')
})

t.test('a check cannot read a file, and says why', async (t) => {
  const predictor = definePredictor({
    input: z.object({ image: file() }),
    output: z.string(),
    streaming: false,
    check: (input) => input.image.path,
    predict: () => 'never',
  })
  const server = await serve(t, predictor as unknown as Predictor)
  t.match((await predict(server, { image: 'data:,x' })).error, /has not been fetched yet. Read it in predict/)
})

const maker = definePredictor({
  input: z.object({ name: z.string().default('dot.png'), size: z.int().default(3) }),
  output: z.object({ best: outputFile(), all: z.array(outputFile()) }),
  streaming: false,
  async predict({ name, size }, _state, { folder }) {
    const path = join(await folder(), name)
    if (name !== 'none.png') await writeFile(path, 'a'.repeat(size))
    return { best: OutputFile.fromPath(path), all: [OutputFile.fromBytes('b.txt', Buffer.from('b'))] }
  },
}) as unknown as Predictor

t.test('output files are data URIs of the type that their name tells, wherever they stand', async (t) => {
  const server = await serve(t, maker)
  const all = ['data:text/plain;base64,Yg==']
  t.strictSame((await predict(server, {})).output, { all, best: 'data:image/png;base64,YWFh' })
  const { output } = await predict(server, { name: 'what.ever' })
  t.equal(output.best, 'data:application/octet-stream;base64,YWFh')
})

t.test('an output file that is missing or too large fails the prediction', async (t) => {
  const server = await serve(t, maker)
  const words = 'Prediction failed: FileOutputError: '
  t.equal((await predict(server, { name: 'none.png' })).error, `${words}none.png cannot be read: ENOENT`)
  const large = await predict(server, { size: 1001 })
  t.equal(large.error, `${words}dot.png has 1001 bytes, but at most 1000 may go out`)
})

t.test('each file of an iterator goes out when it is yielded', async (t) => {
  const gate = deferred()
  const predictor = definePredictor({
    input: z.object({}),
    output: iterator(outputFile()),
    streaming: true,
    async *predict() {
      yield OutputFile.fromBytes('a.txt', Buffer.from('a'))
      await gate.promise
      yield OutputFile.fromBytes('b.json', Buffer.from('{}'))
    },
  })
  const server = await serve(t, predictor as unknown as Predictor)
  const running = predict(server, {})
  const first = () => server.service.find('p')?.body().output
  while (!first()) await new Promise((resolve) => setImmediate(resolve))
  t.strictSame(first(), ['data:text/plain;base64,YQ=='])
  gate.resolve()
  t.strictSame((await running).output, ['data:text/plain;base64,YQ==', 'data:application/json;base64,e30='])
})

t.test('with an upload URL, files are put there and the answer has their URLs, without the signature', async (t) => {
  const puts: string[] = []
  const url = await listen(t, (request, response) => {
    let body = ''
    request.on('data', (chunk) => {
      body += chunk
    })
    request.on('end', () => {
      puts.push(`${request.method} ${request.url} ${request.headers['content-type']} ${body}`)
      if (request.url === '/up/b.txt') response.setHeader('location', 'https://cdn.test/b.txt?signature=1')
      response.writeHead(request.url?.includes('full') ? 507 : 200).end()
    })
  })
  for (const uploadUrl of [`${url}/up`, `${url}/up/`]) {
    const server = await serve(t, maker, { uploadUrl })
    const { output } = await predict(server, { name: 'a b.png' })
    t.strictSame(output, { all: ['https://cdn.test/b.txt'], best: `${url}/up/a%20b.png` })
    t.strictSame(puts.splice(0).sort(), ['PUT /up/a%20b.png image/png aaa', 'PUT /up/b.txt text/plain b'])
  }
  const full = await serve(t, maker, { uploadUrl: url })
  const { error } = await predict(full, { name: 'full.png' })
  t.equal(error, 'Prediction failed: FileOutputError: the upload of full.png was answered with status 507')
})
