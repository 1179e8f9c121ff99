import { BlockList, isIP } from 'node:net'

/**
 * Whether an address belongs to a single host of the public internet: not private, loopback, link-local (which holds the
 * clouds' metadata services), unique-local, shared, multicast, reserved, nor an IPv6 address that carries an IPv4 one: with
 * two exceptions, which are as public as what they carry.
 *
 * Those are NAT64's well-known prefix, by which a network with IPv6 alone reaches all hosts with IPv4 alone, and ISATAP,
 * whose addresses may stand in any network. (A network may use a prefix of its own for NAT64: no address tells that.)
 *
 * @param address IPv4 or IPv6 in any spelling that `net.isIP` takes; anything else is not public.
 * Source: IANA's special-purpose address registries for IPv4 and IPv6; RFC 6052 2.1 (NAT64), RFC 5214 6.1 (ISATAP).
 */
export function isPublicAddress(address: string): boolean {
  switch (isIP(address)) {
    case 4:
      return isPublicV4(address)
    case 6:
      // A zone (fe80::1%eth0) is for link-local addresses only.
      return !address.includes('%') && isPublicV6(address)
    default:
      return false
  }
}

function isPublicV4(address: string): boolean {
  return !SPECIAL_V4.check(address, 'ipv4')
}

function isPublicV6(address: string): boolean {
  if (NAT64.check(address, 'ipv6')) return isPublicV4(carriedV4(groupsOf(address)))
  if (!GLOBAL_V6.check(address, 'ipv6') || SPECIAL_V6.check(address, 'ipv6')) return false
  const groups = groupsOf(address)
  const isIsatap = (groups[4] === 0 || groups[4] === 0x200) && groups[5] === 0x5efe
  return !isIsatap || isPublicV4(carriedV4(groups))
}

/** The eight groups of 16 bits of an IPv6 address. */
function groupsOf(address: string): number[] {
  // The URL parser has one spelling for each address: hexadecimal, with one :: at most, and no IPv4 at its end.
  const [head = '', tail] = new URL(`http://[${address}]`).hostname.slice(1, -1).split('::')
  const parse = (part: string) => (part === '' ? [] : part.split(':').map((group) => Number.parseInt(group, 16)))
  const [before, after] = [parse(head), parse(tail ?? '')]
  return [...before, ...Array<number>(8 - before.length - after.length).fill(0), ...after]
}

/** The IPv4 address in the last 32 bits. */
function carriedV4(groups: readonly number[]): string {
  return groups
    .slice(6)
    .flatMap((group) => [group >> 8, group & 0xff])
    .join('.')
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

const NAT64 = blockList('ipv6', ['64:ff9b::/96'])

/** All that IANA has given out for global unicast; mapped (::ffff:0:0/96) and local NAT64 (64:ff9b:1::/48) lie outside. */
const GLOBAL_V6 = blockList('ipv6', ['2000::/3'])

/** Within it: protocol assignments with Teredo, documentation, and 6to4, which carries any IPv4 address. */
const SPECIAL_V6 = blockList('ipv6', ['2001::/23', '2001:db8::/32', '2002::/16', '3fff::/20'])
