/** What one client, or all of them together, may take of the HTTP side. Times in milliseconds, sizes in bytes. */
export interface HttpLimits {
  /** Open connections; one more is closed as soon as it comes. */
  readonly connections: number
  /** A request's head: request line and header fields. More is answered 431. */
  readonly headerBytes: number
  /** From the connection, or the first byte of a later request, to the end of the head. */
  readonly headersMs: number
  /** The same to the end of the body. */
  readonly requestMs: number
  /** How long a connection may stay open between two requests. */
  readonly idleMs: number
  /** How often the two times above are looked at. */
  readonly checkMs: number
  /** One request's body. */
  readonly bodyBytes: number
  /** All bodies that are being received, together. */
  readonly bodiesBytes: number
  /** A prediction's id, as UTF-8. */
  readonly idBytes: number
  /** What waits for one reader of a stream. */
  readonly streamBufferBytes: number
  /** How many may read one prediction's stream at a time. */
  readonly streamReaders: number
}

export const HTTP_LIMITS: HttpLimits = {
  connections: 1024,
  // Node's own; an id in a path may fill what is left of it.
  headerBytes: 16 * 1024,
  headersMs: 10_000,
  requestMs: 300_000,
  // Longer than the 60 s after which usual proxies drop an idle connection: else a request may meet our close.
  idleMs: 72_000,
  checkMs: 1000,
  // Cog's.
  bodyBytes: 104_857_600,
  bodiesBytes: 5 * 104_857_600,
  idBytes: 16 * 1024,
  // A whole 8,192-token answer as events is about 600 kB.
  streamBufferBytes: 1024 * 1024,
  // Cog's.
  streamReaders: 1024,
}
