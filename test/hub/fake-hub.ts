import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type IncomingHttpHeaders, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

/**
 * As much of the Hub as a pull sees, on 127.0.0.1: model info, paged listing, `/resolve/` with its redirect to another path
 * for small files and to another host (here: port) for large ones, gated and private repositories with the Hub's status,
 * codes and words. Checked with huggingface_hub 2.4.0 (Python), which downloads from it and names its refusals as it does with the real one.
 */
export interface FakeHub {
  readonly url: string
  readonly cdnUrl: string
  /** All that was asked, in order, on both hosts. */
  readonly requests: FakeRequest[]
  /** Called before each answer; answers itself where it returns true. */
  intercept: (exchange: Exchange) => boolean | Promise<boolean>
  /** Makes a commit of these files (with no parent's) and moves `main` to it. */
  push(id: string, files: Readonly<Record<string, Buffer | string>>): string
  set(id: string, access: Partial<Access>): void
  /** Idempotent. */
  close(): Promise<void>
}

export interface FakeRequest {
  readonly host: 'hub' | 'cdn'
  readonly path: string
  readonly headers: IncomingHttpHeaders
}

export interface Exchange extends FakeRequest {
  readonly response: ServerResponse
  /** The file asked for, where the answer would be its bytes. */
  readonly file: { readonly name: string; readonly bytes: Buffer } | undefined
}

interface Access {
  /** Anyone sees that it is there; its files need a token of `members`. */
  gated: boolean
  /** For others than `members` it does not exist. */
  private: boolean
  /** Tokens with access. */
  members: readonly string[]
}

interface Repository {
  access: Access
  main: string
  readonly commits: Map<string, Map<string, Buffer>>
}

/** As git LFS is set up on the Hub: by extension, and tokenizer.json by its size; here anything large enough. */
const LARGE_BYTES = 2000
const PAGE = 4

export async function startFakeHub(tokens: readonly string[] = []): Promise<FakeHub> {
  const repositories = new Map<string, Repository>()
  const requests: FakeRequest[] = []
  const servers: Server[] = []

  const listen = async (host: 'hub' | 'cdn', answer: (exchange: Exchange, url: URL) => void) => {
    const server = createServer(async (request, response) => {
      const url = new URL(request.url ?? '/', `http://${request.headers.host}`)
      const seen = { host, path: url.pathname, headers: request.headers }
      requests.push(seen)
      const exchange = { ...seen, response, file: fileAt(host, url.pathname) }
      if (await hub.intercept(exchange)) return
      answer(exchange, url)
    })
    servers.push(server)
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  }

  function fileAt(host: 'hub' | 'cdn', path: string): Exchange['file'] {
    const match =
      host === 'cdn'
        ? /^\/repos\/([^/]+\/[^/]+)\/([0-9a-f]{40})\/(.+)$/.exec(path)
        : /^\/api\/resolve-cache\/models\/([^/]+\/[^/]+)\/([0-9a-f]{40})\/(.+)$/.exec(path)
    const [, id = '', commit = '', name = ''] = match ?? []
    const bytes = repositories.get(id)?.commits.get(commit)?.get(decodeURIComponent(name))
    return bytes === undefined ? undefined : { name: decodeURIComponent(name), bytes }
  }

  const answerHub = (exchange: Exchange, url: URL) => {
    const { response } = exchange
    const token = exchange.headers.authorization?.replace(/^Bearer /, '')
    if (token !== undefined && !tokens.includes(token)) {
      return refuse(response, 401, undefined, 'Invalid credentials in Authorization header')
    }
    const path = exchange.path
    const [, id = '', rest = ''] =
      /^\/api\/(?:resolve-cache\/)?models\/([^/]+\/[^/]+)(\/.*)$/.exec(path) ??
      /^\/([^/]+\/[^/]+)(\/resolve\/.*)$/.exec(path) ??
      []
    const repository = repositories.get(id)
    const isMember = token !== undefined && repository?.access.members.includes(token)
    if (repository === undefined || (repository.access.private && !isMember)) {
      // Without a token a missing and a private repository look alike.
      return token === undefined
        ? refuse(response, 401, 'RepoNotFound', 'Invalid username or password.')
        : refuse(response, 404, 'RepoNotFound', 'Repository not found')
    }
    const [, kind, revision = '', name = ''] = /^\/(revision|tree|resolve)\/([^/]+)(?:\/(.+))?$/.exec(rest) ?? []
    if (kind === undefined) {
      response.setHeader('x-repo-commit', /[0-9a-f]{40}/.exec(path)?.[0] ?? '')
      return sendFile(exchange)
    }
    const commit = revision === 'main' ? repository.main : decodeURIComponent(revision)
    const files = repository.commits.get(commit)
    if (files === undefined) return refuse(response, 404, 'RevisionNotFound', `Invalid rev id: ${revision}`)
    if (kind === 'revision') {
      return json(response, {
        _id: '65ce2f1c7c8f0d0d9f1c1c1c',
        id,
        sha: commit,
        private: repository.access.private,
        gated: repository.access.gated ? 'manual' : false,
        pipeline_tag: 'text-generation',
        downloads: 1,
        likes: 1,
        lastModified: '2026-01-01T00:00:00.000Z',
        siblings: [...files.keys()].map((rfilename) => ({ rfilename })),
      })
    }
    if (kind === 'tree') return sendTree(response, url, files)
    if (repository.access.gated && !isMember) {
      return token === undefined
        ? refuse(
            response,
            401,
            'GatedRepo',
            `Access to model ${id} is restricted. You must have access to it and be authenticated to access it. Please log in.`,
          )
        : refuse(
            response,
            403,
            'GatedRepo',
            `Access to model ${id} is restricted and you are not in the authorized list. Visit https://huggingface.co/${id} to ask for access.`,
          )
    }
    const bytes = files.get(decodeURIComponent(name))
    if (bytes === undefined) return refuse(response, 404, 'EntryNotFound', 'Entry not found')
    response.setHeader('x-repo-commit', commit)
    if (bytes.length < LARGE_BYTES) {
      response.setHeader('etag', `"${gitBlob(bytes)}"`)
      response.writeHead(307, { location: `/api/resolve-cache/models/${id}/${commit}/${name}` }).end()
    } else {
      response.setHeader('x-linked-size', bytes.length)
      response.setHeader('x-linked-etag', `"${sha256(bytes)}"`)
      const location = `${hub.cdnUrl}/repos/${id}/${commit}/${name}?Expires=1767225600&Signature=0123456789`
      response.writeHead(302, { location }).end()
    }
  }

  const hub: FakeHub = {
    url: await listen('hub', answerHub),
    cdnUrl: await listen('cdn', sendFile),
    requests,
    intercept: () => false,
    push(id, files) {
      const contents = new Map(Object.entries(files).map(([name, bytes]) => [name, Buffer.from(bytes)]))
      const tree = [...contents].map(([name, bytes]) => `${name} ${sha256(bytes)}`).join('\n')
      const commit = createHash('sha1').update(tree).digest('hex')
      const repository = repositories.get(id) ?? {
        access: { gated: false, private: false, members: [] },
        main: commit,
        commits: new Map(),
      }
      repository.main = commit
      repository.commits.set(commit, contents)
      repositories.set(id, repository)
      return commit
    },
    set(id, access) {
      const repository = repositories.get(id)
      if (repository !== undefined) repository.access = { ...repository.access, ...access }
    },
    async close() {
      for (const server of servers.splice(0)) {
        server.closeAllConnections()
        server.close()
        await once(server, 'close')
      }
    },
  }
  return hub
}

/** Sends the file, or the range asked for. */
export function sendFile({ file, headers, response }: Exchange): void {
  if (file === undefined) return void response.writeHead(404).end()
  const { bytes } = file
  response.setHeader('etag', `"${bytes.length < LARGE_BYTES ? gitBlob(bytes) : sha256(bytes)}"`)
  response.setHeader('accept-ranges', 'bytes')
  const range = /^bytes=(\d+)-(\d*)$/.exec(headers.range ?? '')
  if (range === null) return void response.writeHead(200, { 'content-length': bytes.length }).end(bytes)
  const first = Number(range[1])
  const last = Math.min(range[2] ? Number(range[2]) : Number.POSITIVE_INFINITY, bytes.length - 1)
  if (first >= bytes.length) return void response.writeHead(416, { 'content-range': `bytes */${bytes.length}` }).end()
  response.writeHead(206, {
    'content-length': last + 1 - first,
    'content-range': `bytes ${first}-${last}/${bytes.length}`,
  })
  response.end(bytes.subarray(first, last + 1))
}

/** Sends what `sendFile` would, up to a byte of the file, then `end` happens. */
export function sendPart(exchange: Exchange, to: number, end: 'cut' | 'hang'): void {
  const { file, headers, response } = exchange
  if (file === undefined) return void response.writeHead(404).end()
  const first = Number(/^bytes=(\d+)-/.exec(headers.range ?? '')?.[1] ?? 0)
  const total = file.bytes.length
  const range = first > 0 ? { 'content-range': `bytes ${first}-${total - 1}/${total}` } : {}
  response.writeHead(first > 0 ? 206 : 200, { 'content-length': total - first, ...range })
  response.write(file.bytes.subarray(first, to), () => {
    // Not before the other side has it: a reset connection loses what is still under way.
    if (end === 'cut') response.socket?.end()
  })
}

function sendTree(response: ServerResponse, url: URL, files: Map<string, Buffer>): void {
  const start = Number(url.searchParams.get('cursor') ?? 0)
  const entries = [...files].slice(start, start + PAGE).map(([path, bytes]) => {
    if (path.endsWith('/')) return { type: 'directory', oid: gitBlob(bytes), size: 0, path: path.slice(0, -1) }
    const entry = { type: 'file', oid: gitBlob(bytes), size: bytes.length, path }
    return bytes.length < LARGE_BYTES
      ? entry
      : {
          ...entry,
          lfs: { oid: sha256(bytes), size: bytes.length, pointerSize: 134 },
          xetHash: sha256(Buffer.from(path)),
        }
  })
  if (start + PAGE < files.size) {
    const next = new URL(url)
    next.searchParams.set('cursor', String(start + PAGE))
    response.setHeader('link', `<${next.href}>; rel="next"`)
  }
  json(response, entries)
}

export function json(response: ServerResponse, body: unknown): void {
  response.writeHead(200, { 'content-type': 'application/json; charset=utf-8' }).end(JSON.stringify(body))
}

/** As the Hub refuses: the reason stands in headers and in the body. */
export function refuse(response: ServerResponse, status: number, code: string | undefined, message: string): void {
  if (code !== undefined) response.setHeader('x-error-code', code)
  response.setHeader('x-error-message', message)
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify({ error: message }))
}

export function sha256(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex')
}

export function gitBlob(bytes: Buffer): string {
  return createHash('sha1').update(`blob ${bytes.length}\0`).update(bytes).digest('hex')
}
