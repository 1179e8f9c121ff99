import { lookup } from 'node:dns/promises'
import { isIP } from 'node:net'
import { isPublicAddress } from './public-address.js'

/** Which addresses a webhook may reach: those of the public internet, or any. */
export type WebhookReach = 'public' | 'any'

export interface ResolvedAddress {
  readonly address: string
  readonly family: number
}

/** All addresses of a host name. */
export type Resolve = (hostname: string) => Promise<readonly ResolvedAddress[]>

/** A webhook may not be called. The message names the host and the reason, never the path, which may hold a secret. */
export class WebhookRefusedError extends Error {
  constructor(message: string) {
    super(message)
    this.name = 'WebhookRefusedError'
  }
}

/**
 * Finds the one address that a webhook is to be sent to. The caller connects to just this address: were the name looked
 * up again, its owner could answer with another one.
 *
 * @throws {WebhookRefusedError} neither http nor https; or, unless `reach` is `any`, one of the host's addresses is not
 *   public. One is enough: whoever mixes them is trying something.
 * @throws {Error} the name cannot be resolved.
 */
export async function webhookAddress(url: URL, reach: WebhookReach, resolve: Resolve = all): Promise<ResolvedAddress> {
  if (url.protocol !== 'http:' && url.protocol !== 'https:') {
    throw new WebhookRefusedError(`a webhook of ${url.protocol} cannot be called: only http: and https:`)
  }
  // The URL parser has turned every spelling of an IPv4 address (octal, hex, one number …) into the usual one.
  const host = url.hostname.replace(/^\[(.*)\]$/, '$1')
  const family = isIP(host)
  const addresses = family === 0 ? await resolve(host) : [{ address: host, family }]
  if (addresses.length === 0) throw new WebhookRefusedError(`${host} has no address`)
  const refused = reach === 'any' ? undefined : addresses.find(({ address }) => !isPublicAddress(address))
  if (refused) {
    const named = refused.address === host ? host : `${host} (${refused.address})`
    throw new WebhookRefusedError(`${named} is not on the public internet. WEBHOOK_REACH=any allows it.`)
  }
  return addresses[0]!
}

async function all(hostname: string): Promise<readonly ResolvedAddress[]> {
  return await lookup(hostname, { all: true })
}
