import { mkdir, open, rm } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { FileInputError, fetchFile } from './file-input.js'
import { InputFile, OutputFile } from './files.js'
import { extensionOf, mediaTypeOf } from './media-types.js'

/** What files may cost. Plain JSON, since it crosses to the process that hosts the Predictor. */
export interface FileLimits {
  /** Most bytes of one file, coming in or going out. */
  readonly fileBytes: number
  /** Most bytes of all input files of one prediction. */
  readonly totalBytes: number
  /** How long fetching all input files of one prediction may take. */
  readonly timeoutMs: number
  /** Whether files may be fetched from addresses that are not public. */
  readonly allowPrivate: boolean
  /** Where output files go, by PUT; without it they are data URIs. */
  readonly uploadUrl?: string
}

/** An output file could not be read or uploaded, or is larger than allowed. */
export class FileOutputError extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'FileOutputError'
  }
}

export interface RunFilesOptions {
  /** This run's own folder. It is made when it is needed. */
  readonly folder: string
  readonly limits: FileLimits
  readonly isAllowed: (address: string) => boolean
}

/** How many files of one prediction are fetched at once. */
const FETCHES = 4
/** As Cog. */
const UPLOAD_MS = 25_000
/** Bytes of a name that is taken from a URL: Cog's number. */
const LONGEST_NAME = 200

/** The files of one prediction: those that come in, those that go out, and the folder that ends with it. */
export class RunFiles {
  readonly #options: RunFilesOptions
  #folder: Promise<string> | undefined

  constructor(options: RunFilesOptions) {
    this.#options = options
  }

  /** A folder of this prediction's own, removed with all that lies in it when it ends. */
  folder(): Promise<string> {
    this.#folder ??= mkdir(this.#options.folder, { recursive: true, mode: 0o700 }).then(() => this.#options.folder)
    return this.#folder
  }

  /**
   * Fetches every {@link InputFile} in an input.
   *
   * @throws {FileInputError} naming the input that could not be fetched, or is too large.
   */
  async fetch(input: Readonly<Record<string, unknown>>, signal: AbortSignal): Promise<void> {
    const files = Object.entries(input).flatMap(([name, value]) => filesIn(value).map((file) => ({ name, file })))
    if (files.length === 0) return
    const folder = await this.folder()
    const { totalBytes, timeoutMs } = this.#options.limits
    const timeout = AbortSignal.timeout(timeoutMs)
    const failed = new AbortController()
    const either = AbortSignal.any([signal, timeout, failed.signal])
    let left = totalBytes
    const takeFromAll = (bytes: number) => {
      left -= bytes
      if (left < 0) throw new FileInputError(`all files together have more than ${totalBytes} bytes`)
    }
    const waiting = [...files.entries()]
    const fetchNext = async (): Promise<void> => {
      for (let next = waiting.shift(); next; next = waiting.shift()) {
        const [index, { name, file }] = next
        try {
          const path = join(folder, `${index}-${nameOf(file.uri)}`)
          file.arrive(await this.#fetchOne(file.uri, { path, takeFromAll, signal: either }))
        } catch (error) {
          failed.abort()
          if (timeout.aborted && !signal.aborted) {
            throw new FileInputError(`${name}: not fetched within ${timeoutMs / 1000} s`, { cause: error })
          }
          if (error instanceof FileInputError) throw new FileInputError(`${name}: ${error.message}`, { cause: error })
          throw error
        }
      }
    }
    const done = await Promise.allSettled(Array.from({ length: FETCHES }, fetchNext))
    // The first to fail has aborted the others, whose errors say nothing more.
    const errors = done.flatMap((one) => (one.status === 'rejected' ? [one.reason] : []))
    if (errors.length > 0) throw errors.find((error) => error instanceof FileInputError) ?? errors[0]
  }

  /** Puts a URI in the place of every {@link OutputFile} in a value. @throws {FileOutputError} */
  async publish(value: unknown, signal: AbortSignal): Promise<unknown> {
    if (value instanceof OutputFile) return await this.#publishFile(value, signal)
    if (!holdsFile(value)) return value
    if (Array.isArray(value)) return await Promise.all(value.map((item) => this.publish(item, signal)))
    const entries = Object.entries(value).map(async ([name, item]) => [name, await this.publish(item, signal)] as const)
    return Object.fromEntries(await Promise.all(entries))
  }

  /** Removes the folder. Whatever still writes into it is the caller's to have stopped. */
  async dispose(): Promise<void> {
    if (!this.#folder) return
    await this.#folder.catch(() => {})
    await rm(this.#options.folder, { recursive: true, force: true, maxRetries: 3 })
  }

  async #fetchOne(
    uri: string,
    { path, takeFromAll, signal }: { path: string; takeFromAll: (bytes: number) => void; signal: AbortSignal },
  ) {
    const { fileBytes } = this.#options.limits
    let left = fileBytes
    const take = (bytes: number) => {
      left -= bytes
      if (left < 0) throw new FileInputError(`the file has more than ${fileBytes} bytes`)
      takeFromAll(bytes)
    }
    return await fetchFile({ uri, path, take, isAllowed: this.#options.isAllowed, signal })
  }

  async #publishFile(file: OutputFile, signal: AbortSignal): Promise<string> {
    const bytes = await this.#read(file)
    const mediaType = mediaTypeOf(file.name)
    const { uploadUrl } = this.#options.limits
    if (uploadUrl === undefined) return `data:${mediaType};base64,${Buffer.from(bytes).toString('base64')}`
    return await upload({ endpoint: uploadUrl, name: file.name, bytes, mediaType, signal })
  }

  async #read({ name, content }: OutputFile): Promise<Uint8Array> {
    const { fileBytes } = this.#options.limits
    const assertFits = (size: number) => {
      if (size > fileBytes) throw new FileOutputError(`${name} has ${size} bytes, but at most ${fileBytes} may go out`)
    }
    if (typeof content !== 'string') {
      assertFits(content.length)
      return content
    }
    try {
      await using handle = await open(content)
      assertFits((await handle.stat()).size)
      return await handle.readFile()
    } catch (error) {
      if (error instanceof FileOutputError) throw error
      const code = error instanceof Error && 'code' in error ? error.code : error
      throw new FileOutputError(`${name} cannot be read: ${code}`, { cause: error })
    }
  }
}

/**
 * Puts a file under the endpoint, as Cog does.
 *
 * @returns where it is: what `Location` says, else the URL it was put to after redirects; without its query, which is
 *   the signature.
 */
async function upload(options: {
  readonly endpoint: string
  readonly name: string
  readonly bytes: Uint8Array
  readonly mediaType: string
  readonly signal: AbortSignal
}): Promise<string> {
  const { endpoint, name, bytes, mediaType, signal } = options
  const url = `${endpoint.replace(/\/?$/, '/')}${encodeURIComponent(name)}`
  let response: Response
  try {
    response = await fetch(url, {
      method: 'PUT',
      headers: { 'content-type': mediaType },
      body: new Uint8Array(bytes),
      signal: AbortSignal.any([signal, AbortSignal.timeout(UPLOAD_MS)]),
    })
  } catch (cause) {
    throw new FileOutputError(`${name} could not be uploaded`, { cause })
  }
  await response.body?.cancel()
  if (!response.ok) throw new FileOutputError(`the upload of ${name} was answered with status ${response.status}`)
  const place = new URL(response.headers.get('location') ?? response.url, response.url)
  place.search = ''
  return place.href
}

function holdsFile(value: unknown): value is object {
  if (typeof value !== 'object' || value === null) return false
  return value instanceof OutputFile || Object.values(value).some(holdsFile)
}

/** The files in an input's value, which is a file or a list or an object that holds some. */
function filesIn(value: unknown): InputFile[] {
  if (value instanceof InputFile) return [value]
  if (typeof value !== 'object' || value === null) return []
  return Object.values(value).flatMap(filesIn)
}

/** A name for the local copy that keeps the extension, by which many libraries know what a file is. */
function nameOf(uri: string): string {
  if (/^data:/i.test(uri)) return `file${extensionOf(uri.slice(5).split(/[;,]/, 1)[0]!.toLowerCase())}`
  const path = URL.canParse(uri) ? new URL(uri).pathname : ''
  // Without what file systems or shells take for something else.
  const name = basename(path)
    .replace(/%[\da-f]{2}/gi, '_')
    .replace(/[^\w.-]/g, '_')
  return name === '' ? 'file' : name.slice(-LONGEST_NAME)
}
