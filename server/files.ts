import { basename } from 'node:path'
import { z } from 'zod'

/** Where an input file lies and what is known of it. */
export interface LocalFile {
  /** Absolute. */
  readonly path: string
  readonly sizeBytes: number
  /** As the server or the data URI that it came from says, in lower case and without parameters. */
  readonly mediaType: string
}

/**
 * A file that a client sent, by URL or as a data URI.
 *
 * It lies on disk while `predict` runs, and is removed when the prediction ends, however it ends. `check` runs before it
 * is fetched.
 */
export class InputFile {
  /** As it was sent. It may hold a signature: do not log it. */
  readonly uri: string
  #local: LocalFile | undefined

  constructor(uri: string) {
    this.uri = uri
  }

  /** @throws {Error} before it has been fetched, so in `check`. */
  get path(): string {
    return this.#get().path
  }

  get sizeBytes(): number {
    return this.#get().sizeBytes
  }

  get mediaType(): string {
    return this.#get().mediaType
  }

  /** The server's to call, once, when the file has been fetched. */
  arrive(local: LocalFile): void {
    this.#local = local
  }

  #get(): LocalFile {
    if (!this.#local) throw new Error('The file has not been fetched yet. Read it in predict, not in check.')
    return this.#local
  }
}

export interface FileOptions {
  /** What a form should offer, as in HTML's `accept`: `image/*`, `.png,.jpg`. It is told to clients and not enforced. */
  readonly accept?: string
}

/** An input that is a file: Cog's `Path`. Clients send an http(s) URL or a data URI, and `predict` gets an {@link InputFile}. */
export function file({ accept }: FileOptions = {}) {
  return z
    .string()
    .meta({ format: 'uri', ...(accept !== undefined && { 'x-cog-accept': accept }) })
    .transform((uri, context) => {
      // Cog takes anything else for a path on its own disk.
      if (!/^(?:https?:\/\/|data:)/i.test(uri)) context.addIssue('must be a URL of http or https, or a data URI')
      return new InputFile(uri)
    })
}

/** A file that a Predictor returns. It is read when it is returned or yielded. */
export class OutputFile {
  /** Base name, whose extension tells the media type. */
  readonly name: string
  /** A path, or what the file holds. */
  readonly content: string | Uint8Array

  constructor(name: string, content: string | Uint8Array) {
    this.name = basename(name)
    this.content = content
  }

  toJSON(): string {
    return this.name
  }

  static fromPath(path: string): OutputFile {
    return new OutputFile(path, path)
  }

  static fromBytes(name: string, bytes: Uint8Array): OutputFile {
    return new OutputFile(name, bytes)
  }
}

/** An output, or a part of one, that is a file. Clients get a data URI, or a URL where the server uploads files. */
export function outputFile() {
  return z.instanceof(OutputFile).pipe(z.any().meta({ type: 'string', format: 'uri' }))
}
