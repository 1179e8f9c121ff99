import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { HubAccessError, HubError, SettingsError } from '../../model/errors.js'
import { json } from './fake-hub.js'
import { failure, ID, scene, TOKEN } from './scene.js'

t.test('sends the token to the Hub, with every question, and never to the CDN', async (t) => {
  const { hub, pull, lines } = await scene(t)
  hub.set(ID, { gated: true, members: [TOKEN] })
  const { path } = await pull({ token: TOKEN })
  const atHub = hub.requests.filter((request) => request.host === 'hub')
  const atCdn = hub.requests.filter((request) => request.host === 'cdn')
  t.ok(atCdn.length >= 3)
  t.ok(atHub.every((request) => request.headers.authorization === `Bearer ${TOKEN}`))
  t.notOk(atCdn.some((request) => JSON.stringify(request.headers).includes(TOKEN)))
  t.notMatch(lines.join('\n'), TOKEN)
  t.notMatch(await readFile(join(path, '.snapshot.json'), 'utf8'), TOKEN)
})

t.test('does not send the token after a listing that goes on at another host', async (t) => {
  const { hub, pull } = await scene(t)
  hub.intercept = ({ path, host, response }) => {
    if (host === 'cdn' && path === '/more') json(response, [])
    else if (path.includes('/tree/')) {
      response.setHeader('link', `<${hub.cdnUrl}/more>; rel="next"`)
      json(response, [])
    } else return false
    return true
  }
  await failure(pull({ token: TOKEN }))
  const more = hub.requests.find((request) => request.path === '/more')
  t.ok(more)
  t.notMatch(JSON.stringify(more?.headers), TOKEN)
})

t.test('does not follow redirects', async (t) => {
  const redirects: [string, string, RegExp][] = [
    ['in circles', '/google/gemma-2b-it/resolve/main/round', /redirects more than 5 times/],
    ['to a file', 'file:///etc/passwd', /redirects \/\S+ to file:\/\/, which is not followed/],
    ['with a password', 'http://user:secret@127.0.0.1/', /to http:\/\/127\.0\.0\.1, which is not followed/],
    ['to no address', 'http://', /to nowhere, which is not followed/],
  ]
  for (const [name, location, message] of redirects) {
    t.test(name, async (t) => {
      const { hub, pull } = await scene(t)
      hub.intercept = ({ path, response }) =>
        path.includes('/resolve/') && Boolean(response.writeHead(302, { location }).end())
      const error = await failure(pull())
      t.type(error, HubError)
      t.match(error.message, message)
      t.notMatch(error.message, 'secret')
      t.ok(hub.requests.length < 15)
    })
  }
})

t.test('a Hub asked over https may not send us to http', async (t) => {
  const { hub, pull } = await scene(t)
  // The address is https; the answers come from the fake.
  const viaHttps: typeof fetch = (input, init) => fetch(String(input).replace('https://hub.example', hub.url), init)
  const error = await failure(pull({ endpoint: 'https://hub.example', fetch: viaHttps }))
  t.type(error, HubError)
  t.match(
    error.message,
    /^hub\.example redirects \/google\/gemma-2b-it\/resolve\/.+ to http:\/\/127\.0\.0\.1:\d+, which is not followed: only https is\.$/,
  )
})

t.test('refuses settings that fetch would refuse, without repeating a secret', async (t) => {
  const { pull } = await scene(t)
  const secret = 'hf_secret with space'
  for (const options of [
    { token: secret },
    { token: 'hf_secret\n' },
    { endpoint: 'ftp://x' },
    { endpoint: 'https://user:hf_secret@x' },
    { endpoint: 'nowhere' },
  ]) {
    const error = await failure(pull(options))
    t.type(error, SettingsError)
    t.notMatch(error.message, 'hf_secret')
  }
})

t.test('a mirror may lie under a path of its host', async (t) => {
  const { hub, pull, commit } = await scene(t)
  const viaPath: typeof fetch = (input, init) => fetch(String(input).replace('/mirror/hf', ''), init)
  t.equal((await pull({ endpoint: `${hub.url}/mirror/hf/`, fetch: viaPath })).commit, commit)
})

t.test('warns where a token goes over http to another machine', async (t) => {
  const { hub, pull, lines } = await scene(t)
  const elsewhere: typeof fetch = (input, init) => fetch(String(input).replace('http://mirror.example', hub.url), init)
  await pull({ endpoint: 'http://mirror.example', token: TOKEN, fetch: elsewhere })
  t.strictSame(lines, ['HF_ENDPOINT is http://mirror.example: over http, anyone on the way can read HF_TOKEN.'])
})

t.test('a refusal says what to do and where:', async (t) => {
  const cases: { name: string; id?: string; token?: string; access?: object; status: number; says: RegExp[] }[] = [
    {
      name: 'gated, no token',
      access: { gated: true },
      status: 401,
      says: [
        /is a gated model/,
        /accept the licence of google\/gemma-2b-it at https:\/\/huggingface\.co\/google\/gemma-2b-it while signed in/,
        /settings\/tokens, and set HF_TOKEN/,
      ],
    },
    {
      name: 'gated, licence not accepted',
      access: { gated: true },
      token: TOKEN,
      status: 403,
      says: [
        /the account of HF_TOKEN has no access/,
        /accept the licence of .* with that account/,
        /fine-grained token/,
      ],
    },
    {
      name: 'a token that is none',
      token: 'hf_expired',
      status: 401,
      says: [/does not know the token in HF_TOKEN/, /Create a new one/],
    },
    {
      name: 'private, or not there at all, no token',
      access: { private: true },
      status: 401,
      says: [/There is no public model google\/gemma-2b-it/, /Check the spelling/, /set HF_TOKEN/],
    },
  ]
  for (const { name, token, access, status, says } of cases) {
    t.test(name, async (t) => {
      const { hub, pull } = await scene(t)
      hub.set(ID, access ?? {})
      const error = await failure(pull(token === undefined ? {} : { token }))
      t.type(error, HubAccessError)
      t.equal((error as HubAccessError).status, status)
      for (const text of says) t.match(error.message, text)
      if (token !== undefined) t.notMatch(error.message, token)
    })
  }
  t.test('unknown, with a token', async (t) => {
    const { pull } = await scene(t)
    const error = await failure(pull({ id: 'google/gemma-9b', token: TOKEN }))
    t.type(error, HubError)
    t.equal((error as HubError).status, 404)
    t.match(
      error.message,
      /There is no model google\/gemma-9b at revision main: http:\S+ answered 404 \("Repository not found"\)\. Check the spelling/,
    )
  })
  t.test('a Hub that repeats the token and steers the terminal', async (t) => {
    const { hub, pull } = await scene(t)
    hub.intercept = ({ response }) => {
      response.setHeader('x-error-message', `\u009b31m bad ${TOKEN} ${'x'.repeat(500)}`)
      response.writeHead(403).end()
      return true
    }
    const error = await failure(pull({ token: TOKEN }))
    t.match(error.message, 'bad *** xxx')
    t.notMatch(error.message, TOKEN)
    t.notMatch(error.message, /\p{Cc}/u)
    t.ok(error.message.length < 700)
  })
})
