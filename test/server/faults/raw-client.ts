import { once } from 'node:events'
import { connect, type Socket } from 'node:net'

export type HeaderFields = Readonly<Record<string, string | number>>

/** The head of a request as bytes go over the wire; nothing is checked, so that it may lie. */
export function requestHead(line: string, fields: HeaderFields = {}): string {
  const lines = Object.entries({ host: 'x', ...fields }).map(([name, value]) => `${name}: ${value}\r\n`)
  return `${line} HTTP/1.1\r\n${lines.join('')}\r\n`
}

/** POST /predictions with this body and its true length. */
export function postRequest(body: string, fields: HeaderFields = {}): string {
  const length = Buffer.byteLength(body)
  return (
    requestHead('POST /predictions', { 'content-type': 'application/json', 'content-length': length, ...fields }) + body
  )
}

/** A connection that sends whatever it is told to, and keeps what comes. */
export class RawClient {
  readonly socket: Socket
  text = ''
  /** Resolves when the connection is gone. */
  readonly closed: Promise<void>

  constructor(port: number) {
    this.socket = connect({ port, host: '127.0.0.1', noDelay: true })
    this.socket.setEncoding('utf8')
    this.socket.on('data', (text: string) => {
      this.text += text
    })
    // A reset by the server; `close` follows.
    this.socket.on('error', () => {})
    this.closed = once(this.socket, 'close').then(() => {})
  }

  send(text: string): this {
    this.socket.write(text)
    return this
  }

  /** Sends the text a byte at a time until it or the connection ends. */
  drip(text: string, everyMs: number): this {
    let sent = 0
    const timer = setInterval(() => {
      if (sent < text.length && this.socket.writable) this.socket.write(text[sent++]!)
      else clearInterval(timer)
    }, everyMs)
    return this
  }

  /** Waits until an answer with this status has begun. */
  async status(): Promise<number> {
    while (!this.text.includes('\r\n')) await once(this.socket, 'data')
    return Number(this.text.slice(9, 12))
  }
}

/** One request on a connection of its own; the whole answer. */
export async function exchange(port: number, request: string): Promise<{ status: number; text: string }> {
  const client = new RawClient(port).send(request.replace('\r\n\r\n', '\r\nconnection: close\r\n\r\n'))
  await client.closed
  return { status: Number(client.text.slice(9, 12)), text: client.text }
}
