import { once } from 'node:events'
import { createServer, type IncomingHttpHeaders } from 'node:http'
import type { AddressInfo } from 'node:net'

export interface WebhookCall {
  readonly headers: IncomingHttpHeaders
  readonly body: string
}

/** Receives the webhooks of both servers, kept apart by path. */
export class WebhookReceiver {
  readonly #calls = new Map<string, WebhookCall[]>()
  readonly #server = createServer(async (request, response) => {
    let body = ''
    for await (const part of request) body += part
    this.calls(request.url!).push({ headers: request.headers, body })
    response.end()
  })

  /** @returns its address. */
  async listen(): Promise<string> {
    this.#server.listen(0, '127.0.0.1')
    await once(this.#server, 'listening')
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`
  }

  /** The calls to a path so far; the list grows as more come. */
  calls(path: string): WebhookCall[] {
    const calls = this.#calls.get(path) ?? []
    this.#calls.set(path, calls)
    return calls
  }

  close(): void {
    this.#server.close()
    this.#server.closeAllConnections()
  }
}
