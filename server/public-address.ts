import { BlockList, isIP } from 'node:net'

/**
 * Whether an address belongs to a single host of the public internet: not private, loopback, link-local (which holds the
 * clouds' metadata services), unique-local, shared, multicast, reserved, nor an IPv6 address that carries an IPv4 one.
 *
 * @param address IPv4 or IPv6 in any spelling that `net.isIP` takes; anything else is not public.
 * Source: IANA's special-purpose address registries for IPv4 and IPv6.
 */
export function isPublicAddress(address: string): boolean {
  switch (isIP(address)) {
    case 4:
      return !SPECIAL_V4.check(address, 'ipv4')
    case 6:
      // A zone (fe80::1%eth0) is for link-local addresses only.
      return !address.includes('%') && GLOBAL_V6.check(address, 'ipv6') && !SPECIAL_V6.check(address, 'ipv6')
    default:
      return false
  }
}

function blockList(family: 'ipv4' | 'ipv6', ranges: readonly string[]): BlockList {
  const list = new BlockList()
  for (const range of ranges) {
    const [network, bits] = range.split('/')
    list.addSubnet(network!, Number(bits), family)
  }
  return list
}

const SPECIAL_V4 = blockList('ipv4', [
  '0.0.0.0/8',
  '10.0.0.0/8',
  '100.64.0.0/10',
  '127.0.0.0/8',
  '169.254.0.0/16',
  '172.16.0.0/12',
  '192.0.0.0/24',
  '192.0.2.0/24',
  '192.88.99.0/24',
  '192.168.0.0/16',
  '198.18.0.0/15',
  '198.51.100.0/24',
  '203.0.113.0/24',
  '224.0.0.0/3',
])

/** All that IANA has given out for global unicast; mapped (::ffff:0:0/96) and NAT64 (64:ff9b::/96) lie outside. */
const GLOBAL_V6 = blockList('ipv6', ['2000::/3'])

/** Within it: protocol assignments with Teredo, documentation, and 6to4, which carries any IPv4 address. */
const SPECIAL_V6 = blockList('ipv6', ['2001::/23', '2001:db8::/32', '2002::/16', '3fff::/20'])
