import { lookup as resolveName } from 'node:dns'
import { createWriteStream } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { get as httpGet, type IncomingMessage } from 'node:http'
import { get as httpsGet } from 'node:https'
import { isIP, type LookupFunction } from 'node:net'
import { pipeline } from 'node:stream/promises'
import type { LocalFile } from './files.js'

/** A file that a client named could not be fetched, or is larger than allowed. The message shows no path or query of a URL. */
export class FileInputError extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'FileInputError'
  }
}

export interface FetchFileOptions {
  readonly uri: string
  /** Where the file is written. */
  readonly path: string
  /** Called with each piece's size before it is written; throws when there is too much. */
  readonly take: (bytes: number) => void
  /** Whether a connection to this IP address may be made. */
  readonly isAllowed: (address: string) => boolean
  readonly signal: AbortSignal
}

const MOST_REDIRECTS = 5

/**
 * Writes a file from an http(s) URL or a data URI to disk.
 *
 * Every address that a name resolves to is asked for before it is connected to, at each redirect anew, so that no URL
 * reaches what only this machine can reach.
 *
 * @throws {FileInputError} naming what went wrong; what `take` throws, as it is. A part may lie at `path`.
 */
export async function fetchFile(options: FetchFileOptions): Promise<LocalFile> {
  if (/^data:/i.test(options.uri)) return await writeDataUri(options)
  const response = await request(options)
  const length = Number(response.headers['content-length'] ?? 0)
  let sizeBytes = 0
  try {
    // Before the first byte comes, if the server says that too many will.
    if (length > 0) options.take(length)
    await pipeline(
      response,
      async function* (chunks: AsyncIterable<Buffer>) {
        for await (const chunk of chunks) {
          const before = sizeBytes
          sizeBytes += chunk.length
          // What was announced has been taken already.
          options.take(Math.max(sizeBytes, length) - Math.max(before, length))
          yield chunk
        }
      },
      createWriteStream(options.path, { mode: 0o600 }),
      { signal: options.signal },
    )
  } catch (error) {
    response.destroy()
    if (options.signal.aborted || !(error instanceof Error) || codeOf(error) !== 'ECONNRESET') throw error
    throw new FileInputError('the connection ended before the file did', { cause: error })
  }
  const [mediaType = ''] = (response.headers['content-type'] ?? '').toLowerCase().split(';')
  return { path: options.path, sizeBytes, mediaType: mediaType.trim() || 'application/octet-stream' }
}

async function writeDataUri({ uri, path, take }: FetchFileOptions): Promise<LocalFile> {
  const comma = uri.indexOf(',')
  if (comma < 0) throw new FileInputError('a data URI needs a comma before its data')
  const [type = '', ...parameters] = uri.slice('data:'.length, comma).toLowerCase().split(';')
  const isBase64 = parameters.at(-1)?.trim() === 'base64'
  const data = isBase64 ? uri.slice(comma + 1).replace(/={1,2}$/, '') : uri.slice(comma + 1)
  // Before it is decoded: base64 is 4 characters for 3 bytes, the rest one or more for one.
  if (isBase64) take(Math.floor((data.length * 3) / 4))
  const bytes = isBase64 ? fromBase64(data) : fromPercents(data)
  if (!isBase64) take(bytes.length)
  await writeFile(path, bytes, { mode: 0o600 })
  return { path, sizeBytes: bytes.length, mediaType: type.trim() || 'text/plain' }
}

function fromBase64(data: string): Buffer {
  // Buffer.from skips what is no base64, so that a broken file would pass for a whole one.
  if (!/^[A-Za-z0-9+/]*$/.test(data) || data.length % 4 === 1) {
    throw new FileInputError('the data of a data URI is not base64')
  }
  return Buffer.from(data, 'base64')
}

function fromPercents(data: string): Buffer {
  const text = Buffer.from(data)
  const bytes = Buffer.alloc(text.length)
  let length = 0
  for (let i = 0; i < text.length; i++) {
    const hex = text[i] === PERCENT ? text.toString('latin1', i + 1, i + 3) : ''
    const isEncoded = /^[\da-f]{2}$/i.test(hex)
    bytes[length++] = isEncoded ? Number.parseInt(hex, 16) : text[i]!
    if (isEncoded) i += 2
  }
  return bytes.subarray(0, length)
}
const PERCENT = 0x25

/** Follows redirects to an answer of 2xx. */
async function request(options: FetchFileOptions): Promise<IncomingMessage> {
  let url = parseUrl(options.uri)
  for (let redirects = 0; redirects <= MOST_REDIRECTS; redirects++) {
    const response = await get(url, options)
    const { statusCode = 0, headers } = response
    if (statusCode >= 200 && statusCode < 300) return response
    response.destroy()
    if (statusCode < 300 || statusCode >= 400 || headers.location === undefined) {
      throw new FileInputError(`${url.host} answered with status ${statusCode}`)
    }
    url = parseUrl(headers.location, url)
  }
  throw new FileInputError(`${url.host} redirects more than ${MOST_REDIRECTS} times`)
}

function parseUrl(text: string, base?: URL): URL {
  const url = URL.canParse(text, base?.href) ? new URL(text, base?.href) : undefined
  if (!url) throw new FileInputError(base ? `${base.host} redirects to what is no URL` : 'it is no URL')
  if (url.protocol !== 'http:' && url.protocol !== 'https:') {
    throw new FileInputError(`${base?.host ?? 'it'} leads to ${url.protocol}, which is neither http nor https`)
  }
  return url
}

function get(url: URL, { isAllowed, signal }: FetchFileOptions): Promise<IncomingMessage> {
  const host = url.hostname.replace(/^\[|\]$/g, '')
  const refused = () => new FileInputError(`${url.host} has an address that files may not be fetched from`)
  // A literal address is connected to without a lookup.
  if (isIP(host) && !isAllowed(host)) return Promise.reject(refused())
  const lookup: LookupFunction = (name, lookupOptions, done) => {
    resolveName(name, { ...lookupOptions, all: true }, (error, addresses) => {
      if (error) done(error, '', 0)
      // All of them, so that a name with a public and a private address is not a matter of luck.
      else if (!addresses.every(({ address }) => isAllowed(address))) done(refused(), '', 0)
      else if (lookupOptions.all) done(null, addresses)
      else done(null, addresses[0]!.address, addresses[0]!.family)
    })
  }
  const headers = { 'user-agent': 'bezel', accept: '*/*', 'accept-encoding': 'identity' }
  return new Promise((resolve, reject) => {
    const start = url.protocol === 'https:' ? httpsGet : httpGet
    const sent = start(url, { agent: false, headers, lookup, signal }, resolve)
    sent.on('error', (error) => {
      if (error instanceof FileInputError || signal.aborted) reject(error)
      else reject(new FileInputError(`${url.host} could not be read: ${codeOf(error)}`, { cause: error }))
    })
  })
}

function codeOf(error: Error): string {
  return 'code' in error && typeof error.code === 'string' ? error.code : error.message
}
