import fc from 'fast-check'
import t from 'tap'
import { isPublicAddress } from '../../server/public-address.js'
import { webhookAddress } from '../../server/webhook-address.js'

const never = async () => t.fail('an address needs no look-up') as never

t.test('special addresses of every kind are not public', async (t) => {
  const special = [
    ...['0.0.0.0', '10.1.2.3', '100.64.0.1', '127.0.0.1', '127.255.255.255', '169.254.169.254', '172.16.0.1'],
    ...['172.31.255.255', '192.168.0.1', '192.0.0.8', '192.0.2.1', '198.19.0.1', '203.0.113.9', '224.0.0.1'],
    ...['240.0.0.1', '255.255.255.255', '::', '::1', 'fe80::1', 'fe80::1%eth0', 'fc00::1', 'fd12:3456::1', 'ff02::1'],
    ...['::ffff:127.0.0.1', '::ffff:8.8.8.8', '::127.0.0.1', '64:ff9b::7f00:1', '2001:db8::1', '2001::1'],
    ...['2002:7f00:1::', '3fff::1', '4000::1', '', 'localhost', '1.2.3'],
  ]
  for (const address of special) t.notOk(isPublicAddress(address), address)
  for (const address of [
    '1.1.1.1',
    '8.8.8.8',
    '172.15.0.1',
    '172.32.0.1',
    '100.128.0.1',
    '2606:4700::1111',
    '2a00:1450::1',
  ]) {
    t.ok(isPublicAddress(address), address)
  }
})

t.test('a private address is refused in any spelling', async (t) => {
  const byte = fc.integer({ min: 0, max: 255 })
  const privateAddress = fc.oneof(
    fc.tuple(fc.constantFrom(10, 127, 0), byte, byte, byte),
    fc.tuple(fc.constant(192), fc.constant(168), byte, byte),
    fc.tuple(fc.constant(169), fc.constant(254), byte, byte),
    fc.tuple(fc.constant(172), fc.integer({ min: 16, max: 31 }), byte, byte),
  )
  await fc.assert(
    fc.asyncProperty(privateAddress, async (bytes) => {
      const number = bytes.reduce((sum, part) => sum * 256 + part, 0)
      const hex = number.toString(16).padStart(8, '0')
      const spellings = [
        bytes.join('.'),
        String(number),
        `0x${hex}`,
        bytes.map((part) => `0${part.toString(8)}`).join('.'),
        bytes.map((part) => `0x${part.toString(16)}`).join('.'),
        `${bytes[0]}.${bytes[1]}.${bytes[2]! * 256 + bytes[3]!}`,
        `[::ffff:${bytes.join('.')}]`,
        `[0:0:0:0:0:ffff:${hex.slice(0, 4)}:${hex.slice(4)}]`,
        `[64:ff9b::${bytes.join('.')}]`,
        `[2002:${hex.slice(0, 4)}:${hex.slice(4)}::1]`,
      ]
      for (const host of spellings) {
        await t.rejects(webhookAddress(new URL(`http://${host}/`), 'public', never), { name: 'WebhookRefusedError' })
      }
    }),
    { numRuns: 50 },
  )
})

t.test('a name is judged by all its addresses, and the first of them is the one to call', async (t) => {
  const url = new URL('https://hooks.example/x')
  const named = (...addresses: string[]) =>
    webhookAddress(url, 'public', async (hostname) => {
      t.equal(hostname, 'hooks.example')
      return addresses.map((address) => ({ address, family: address.includes(':') ? 6 : 4 }))
    })
  t.strictSame(await named('8.8.8.8', '2606:4700::1'), { address: '8.8.8.8', family: 4 })
  await t.rejects(named('8.8.8.8', '127.0.0.1'), {
    message: 'hooks.example (127.0.0.1) is not on the public internet. WEBHOOK_REACH=any allows it.',
  })
  await t.rejects(named('::1'), { name: 'WebhookRefusedError' })
  await t.rejects(named(), { name: 'WebhookRefusedError' })
})

t.test('with reach any every address is allowed, but no other protocol', async (t) => {
  t.strictSame(await webhookAddress(new URL('http://127.0.0.1:1/'), 'any', never), { address: '127.0.0.1', family: 4 })
  t.strictSame(await webhookAddress(new URL('http://[::1]/'), 'any', never), { address: '::1', family: 6 })
  for (const url of ['ftp://8.8.8.8/', 'file:///etc/passwd', 'data:,x']) {
    await t.rejects(webhookAddress(new URL(url), 'any', never), { message: /only http: and https:/ })
  }
})
