import type { IncomingMessage } from 'node:http'
import { ServerError } from './errors.js'

export interface BodyReaderOptions {
  /** Most bytes of one body. */
  readonly limit: number
  /** Most bytes of all bodies that are being received. */
  readonly totalLimit: number
}

/** No announced length is believed before that much has come. */
const FIRST_CAPACITY = 64 * 1024

/** Reads the bodies of requests, each within a limit and all within another. */
export class BodyReader {
  readonly #options: BodyReaderOptions
  #receiving = 0

  constructor(options: BodyReaderOptions) {
    this.#options = options
  }

  /**
   * Reads one body.
   *
   * What comes beyond the limit is read and thrown away, as much again, before the refusal: an answer to a client that
   * still sends would be lost with the connection.
   *
   * @throws {ServerError} BODY_TOO_LARGE; RECEIVING_TOO_MUCH; BODY_INCOMPLETE when the connection ended within it, which
   *   nobody is left to read.
   */
  read(request: IncomingMessage): Promise<Buffer> {
    const { limit, totalLimit } = this.#options
    // One growing buffer: a body in chunks of one byte would cost a hundred times its size as a list of them.
    let body = Buffer.allocUnsafe(Math.min(Number(request.headers['content-length'] ?? 0), FIRST_CAPACITY))
    let held = 0
    let size = 0
    return new Promise((resolve, reject) => {
      const stop = () => {
        request.off('data', take).off('end', end).off('error', cut).off('close', cut)
        this.#receiving -= held
      }
      const refuse = (error: ServerError) => {
        stop()
        request.pause()
        reject(error)
      }
      const take = (chunk: Buffer) => {
        const before = size
        size += chunk.length
        if (size > limit) {
          this.#receiving -= held
          held = 0
          body = Buffer.alloc(0)
          if (size > 2 * limit) refuse(ServerError.of('BODY_TOO_LARGE', { limit }))
          return
        }
        if (this.#receiving + chunk.length > totalLimit) {
          refuse(ServerError.of('RECEIVING_TOO_MUCH', {}))
          return
        }
        this.#receiving += chunk.length
        held += chunk.length
        if (size > body.length) body = grown(body, before, Math.min(Math.max(2 * body.length, size), limit))
        chunk.copy(body, before)
      }
      const end = () => {
        stop()
        if (size > limit) reject(ServerError.of('BODY_TOO_LARGE', { limit }))
        else resolve(body.subarray(0, size))
      }
      const cut = () => refuse(ServerError.of('BODY_INCOMPLETE', {}))
      if (request.destroyed) {
        cut()
        return
      }
      // Not as an asynchronous iterator: for a small body, that costs as much as all else that is done with it.
      request.on('data', take).once('end', end).once('error', cut).once('close', cut)
    })
  }
}

/** A buffer of `capacity` that begins with the first `used` bytes of another. */
function grown(buffer: Buffer, used: number, capacity: number): Buffer<ArrayBuffer> {
  const larger = Buffer.allocUnsafe(capacity)
  buffer.copy(larger, 0, 0, used)
  return larger
}
