import fc from 'fast-check'
import t from 'tap'
import { isPublicAddress } from '../../server/public-address.js'

const octet = fc.integer({ min: 0, max: 255 })
/** Any IPv4 address, as often a private one as a public one. */
const addresses = fc.oneof(
  fc.tuple(octet, octet, octet, octet),
  fc.tuple(fc.constantFrom(10, 127, 0, 224), octet, octet, octet),
  fc.tuple(fc.constant(192), fc.constant(168), octet, octet),
  fc.tuple(fc.constant(169), fc.constant(254), octet, octet),
)

t.test('an address of NAT64 or ISATAP is as public as the IPv4 address that it carries, in any spelling', async () => {
  fc.assert(
    fc.property(addresses, (bytes) => {
      const [dotted, hex] = [bytes.join('.'), groups(bytes)]
      const carriers = [
        ...[`64:ff9b::${dotted}`, `64:ff9b::${hex}`, `0064:FF9B:0:0:0:0:${hex}`, `64:ff9b:0:0::${dotted}`],
        ...[`2606:4700::5efe:${hex}`, `2606:4700:1:2:0:5efe:${dotted}`, `2606:4700:1:2:200:5EFE:${hex}`],
      ]
      return carriers.every((address) => isPublicAddress(address) === isPublicAddress(dotted))
    }),
  )
})

t.test('any other address that carries an IPv4 one is not public, whatever it carries', async () => {
  fc.assert(
    fc.property(addresses, (bytes) => {
      const [dotted, hex] = [bytes.join('.'), groups(bytes)]
      const carriers = [
        ...[`::${dotted}`, `::ffff:${dotted}`, `::ffff:${hex}`, `::ffff:0:${dotted}`, `64:ff9b:1::${dotted}`],
        ...[`64:ff9b:0:0:0:1:${hex}`, `2002:${hex}::`, `2002:${hex}::1`, `2001:0:${hex}:8000:63bf:${hex}`],
        ...[`fe80::5efe:${dotted}`, `fe80::5efe:${dotted}%eth0`, `64:ff9b::${dotted}%eth0`],
      ]
      return !carriers.some(isPublicAddress)
    }),
  )
})

t.test('the metadata service of clouds is out of reach by every way', async (t) => {
  const ways = [
    ...['169.254.169.254', '::ffff:169.254.169.254', '64:ff9b::a9fe:a9fe', '64:ff9b::169.254.169.254'],
    ...['2002:a9fe:a9fe::1', '2606:4700::5efe:a9fe:a9fe', 'fd00:ec2::254', 'fe80::a9fe:a9fe'],
  ]
  for (const address of ways) t.notOk(isPublicAddress(address), address)
  t.ok(isPublicAddress('64:ff9b::8.8.8.8'))
  t.ok(isPublicAddress('2606:4700::5eff:a9fe:a9fe'), 'only ISATAP has 5efe there')
})

/** 1.2.3.4 → 102:304 */
function groups([a, b, c, d]: readonly [number, number, number, number]): string {
  return [a * 256 + b, c * 256 + d].map((group) => group.toString(16)).join(':')
}
