import { HubError, ModelError, SettingsError } from '../errors.js'
import { accessError } from './hub-access.js'
import { isCommit } from './model-id.js'
import { networkReason, readBody } from './response-body.js'
import { type Clock, MAX_FAILURES, Retries, requestedWaitMs, TransientError, withStallGuard } from './retry.js'

export interface HubOptions {
  /** `owner/name`. */
  readonly id: string
  /** The Hub's address, or a mirror's, possibly with a path. */
  readonly endpoint: string
  readonly token: string | undefined
  readonly fetch: typeof globalThis.fetch
  readonly clock: Clock
  readonly signal: AbortSignal
  readonly log: (line: string) => void
}

/** The Hub answers in one hop, or two for a renamed repository, then one to its CDN. */
const MAX_REDIRECTS = 5
/** A page of a listing has 1,000 entries of about 300 bytes. */
const MAX_ANSWER_BYTES = 8e6
const MAX_PAGES = 20
/** How long the Hub or the CDN may send nothing. */
export const IDLE_MS = 30_000
const SHORT_IDLE_MS = 10_000

export type Patience = 'once' | 'full'

/**
 * One model repository on the Hub: the questions go through `@huggingface/hub`, over a `fetch` of ours that decides where
 * the token goes, follows redirects, bounds answers, tries again, and turns refusals into typed errors.
 *
 * The library's own downloads are not used: they neither resume nor check a hash, and where a file has a Xet hash they fetch
 * it in another protocol, chunk by chunk. A plain GET of `/resolve/` gives every file's bytes, with ranges.
 */
export class HubRepository {
  readonly #options: HubOptions
  readonly #endpoint: URL

  /** @throws {SettingsError} endpoint or token cannot be used; the token's value is not in the message. */
  constructor(options: HubOptions) {
    this.#endpoint = parseEndpoint(options.endpoint)
    // Else fetch would refuse the header, with a message that repeats the token.
    if (options.token !== undefined && !/^[\x21-\x7e]+$/.test(options.token)) {
      throw new SettingsError('HF_TOKEN', 'HF_TOKEN has a space or another character that no token has. Copy it again.')
    }
    this.#options = options
    if (options.token !== undefined && this.#endpoint.protocol === 'http:' && !isLoopback(this.#endpoint.hostname)) {
      options.log(`HF_ENDPOINT is ${this.#address()}: over http, anyone on the way can read HF_TOKEN.`)
    }
  }

  /**
   * @param revision  a branch, a tag or a commit.
   * @param patience  `once` where there is something to fall back on: one attempt, and ten seconds of silence at most.
   * @returns the commit that it is now, 40 hex digits.
   * @throws {HubError} there is no such model or revision (status 404), or no usable answer.
   * @throws {HubAccessError} the Hub refuses.
   */
  async resolveCommit(revision: string, patience: Patience = 'full'): Promise<string> {
    if (isCommit(revision)) return revision
    const { modelInfo } = await import('@huggingface/hub')
    const info = await this.#ask(`revision ${revision}`, () =>
      modelInfo({
        name: this.#options.id,
        revision,
        additionalFields: ['sha'],
        hubUrl: this.#address(),
        fetch: this.#apiFetch(revision, patience),
      }),
    )
    const commit: unknown = info.sha
    if (typeof commit !== 'string' || !isCommit(commit)) {
      throw new HubError(`${this.#address()} gave no commit for ${this.#options.id} at revision ${revision}.`)
    }
    return commit
  }

  /**
   * @returns the entries of the files in the top folder, as the Hub sent them: not checked yet.
   * @throws {HubError} {HubAccessError} as resolveCommit.
   */
  async listFiles(commit: string): Promise<{ path: string }[]> {
    const { listFiles } = await import('@huggingface/hub')
    return this.#ask('the list of files', async () => {
      const files: { path: string }[] = []
      for await (const entry of listFiles({
        repo: { type: 'model', name: this.#options.id },
        revision: commit,
        recursive: false,
        hubUrl: this.#address(),
        fetch: this.#apiFetch(commit, 'full'),
      })) {
        if (entry.type === 'file' && typeof entry.path === 'string') files.push(entry)
      }
      return files
    })
  }

  /**
   * Asks once for a file's bytes from `from` to its end.
   *
   * @returns an answer with status 200 (the whole file, the range was ignored), 206 or 416; its body is not read yet.
   * @throws {TransientError} no answer, a busy server, or a refusal by the CDN, whose links expire: ask again.
   * @throws {HubError} {HubAccessError} the Hub refuses, or sends us in circles or to an address that is not allowed.
   */
  async openFile(commit: string, name: string, from: number, signal: AbortSignal): Promise<Response> {
    const url = new URL(`${this.#address()}/${this.#options.id}/resolve/${commit}/${encodeURIComponent(name)}`)
    // Identity: a range of a compressed answer would not be a range of the file.
    const headers: Record<string, string> = { 'accept-encoding': 'identity' }
    if (from > 0) headers.range = `bytes=${from}-`
    return this.#request(url, headers, commit, signal)
  }

  #address(): string {
    return this.#endpoint.href.replace(/\/+$/, '')
  }

  /** Runs a question of the library's; what it throws on an answer that makes no sense becomes a HubError. */
  async #ask<T>(about: string, question: () => Promise<T>): Promise<T> {
    try {
      return await question()
    } catch (error) {
      this.#options.signal.throwIfAborted()
      if (error instanceof ModelError) throw error
      throw new HubError(
        `The answer of ${this.#address()} about ${about} of ${this.#options.id} cannot be read. Check HF_ENDPOINT.`,
        { cause: error },
      )
    }
  }

  /** A `fetch` for the library: only whole, bounded, successful answers come out of it. */
  #apiFetch(revision: string, patience: Patience): typeof globalThis.fetch {
    const { clock, signal, log } = this.#options
    const { limit, idleMs } =
      patience === 'once' ? { limit: 1, idleMs: SHORT_IDLE_MS } : { limit: MAX_FAILURES, idleMs: IDLE_MS }
    const retries = new Retries({ clock, signal, log, limit })
    let pages = 0
    return async (input, init) => {
      const url = new URL(input instanceof Request ? input.url : input)
      if (++pages > MAX_PAGES) throw new HubError(`${url.host} lists more than ${MAX_PAGES} pages of files.`)
      const headers = Object.fromEntries(new Headers(init?.headers))
      for (;;) {
        try {
          return await withStallGuard({ idleMs, clock, signal }, async (guarded, alive) => {
            const response = await this.#request(url, headers, revision, guarded)
            alive()
            return bounded(response, url.host, alive)
          })
        } catch (error) {
          await retries.waitAfter(error, `${this.#options.id} at revision ${revision}`)
        }
      }
    }
  }

  /** One GET with its redirects. The token goes to the endpoint's origin and nowhere else. */
  async #request(
    start: URL,
    headers: Record<string, string>,
    revision: string,
    signal: AbortSignal,
  ): Promise<Response> {
    const { token, fetch } = this.#options
    let url = start
    for (let hop = 0; hop <= MAX_REDIRECTS; hop++) {
      const atHub = url.origin === this.#endpoint.origin
      let response: Response
      try {
        response = await fetch(url, {
          headers: atHub && token !== undefined ? { ...headers, authorization: `Bearer ${token}` } : headers,
          redirect: 'manual',
          signal,
        })
      } catch (error) {
        signal.throwIfAborted()
        throw new TransientError(`${url.host} cannot be reached (${networkReason(error)})`, { cause: error })
      }
      if (response.ok || response.status === 416) return response
      await response.body?.cancel()
      if (response.status < 300 || response.status >= 400) throw this.#refusal(response, url, revision)
      url = this.#nextHop(response, url)
    }
    throw new HubError(`${start.host} redirects more than ${MAX_REDIRECTS} times for ${start.pathname}.`)
  }

  #nextHop(response: Response, from: URL): URL {
    const location = response.headers.get('location')
    const url = location !== null && URL.canParse(location, from.href) ? new URL(location, from) : undefined
    const secure = url?.protocol === 'https:' || (url?.protocol === 'http:' && this.#endpoint.protocol === 'http:')
    if (url === undefined || !secure || url.username !== '' || url.password !== '') {
      // Without the query, which may be a signature.
      const target = url === undefined ? 'nowhere' : `${url.protocol}//${url.host}`
      throw new HubError(`${from.host} redirects ${from.pathname} to ${target}, which is not followed: only https is.`)
    }
    return url
  }

  #refusal(response: Response, url: URL, revision: string): Error {
    const { id, token, clock } = this.#options
    const { status, headers } = response
    const atHub = url.origin === this.#endpoint.origin
    // Away from the Hub a 4xx means a link that has expired, or that a part of the CDN does not know yet.
    if (!atHub || status === 408 || status === 429 || status >= 500) {
      const waitMs = requestedWaitMs(headers, clock.now())
      return new TransientError(`${url.host} answered ${status}`, { waitMs })
    }
    if (status === 401 || status === 403 || status === 404) {
      return accessError({ status, headers, id, revision, endpoint: this.#address(), token })
    }
    return new HubError(`${this.#address()} answered ${status} for ${id} at revision ${revision}. Check HF_ENDPOINT.`, {
      status,
    })
  }
}

function parseEndpoint(text: string): URL {
  const url = URL.canParse(text) ? new URL(text) : undefined
  const plain = url !== undefined && (url.protocol === 'https:' || url.protocol === 'http:') && url.search === ''
  if (!plain || url.hash !== '' || url.username !== '' || url.password !== '') {
    throw new SettingsError(
      'HF_ENDPOINT',
      'HF_ENDPOINT must be an http(s) address without user, password, query or fragment, such as https://huggingface.co.',
    )
  }
  return url
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '[::1]' || /^127\.\d+\.\d+\.\d+$/.test(host)
}

/** A copy of the answer with its body in memory, for the library to parse. */
async function bounded(response: Response, host: string, alive: () => void): Promise<Response> {
  const chunks: Uint8Array[] = []
  let bytes = 0
  for await (const chunk of readBody(response)) {
    alive()
    bytes += chunk.byteLength
    if (bytes > MAX_ANSWER_BYTES) throw new HubError(`${host} answers with more than ${MAX_ANSWER_BYTES / 1e6} MB.`)
    chunks.push(chunk)
  }
  const headers = new Headers()
  for (const name of ['content-type', 'link']) {
    const value = response.headers.get(name)
    if (value !== null) headers.set(name, value)
  }
  return new Response(Buffer.concat(chunks), { status: response.status, headers })
}
