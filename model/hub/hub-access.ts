import { HubAccessError, HubError, type ModelError } from '../errors.js'
import { printable } from './printable.js'

/** What a refusal by the Hub is judged by. */
export interface Refusal {
  readonly status: number
  readonly headers: Headers
  readonly id: string
  readonly revision: string
  readonly endpoint: string
  readonly token: string | undefined
}

const TOKENS_PAGE = 'https://huggingface.co/settings/tokens'

/**
 * Says what a 4xx of the Hub means and what to do about it. The Hub tells by `X-Error-Code` (GatedRepo, RepoNotFound,
 * RevisionNotFound, EntryNotFound) and `X-Error-Message`; a mirror may send neither. Without a token it answers 401 for a
 * repository that does not exist as well as for a private one, so that nobody can probe for private names.
 * Source: huggingface_hub, utils/_http.py, hf_raise_for_status.
 */
export function accessError(refusal: Refusal): ModelError {
  const { status, headers, id, revision, endpoint, token } = refusal
  const code = headers.get('x-error-code')
  const said = hubMessage(refusal)
  const page = `https://huggingface.co/${id}`
  const answer = `${endpoint} answered ${status}${said === '' ? '' : ` ("${said}")`}`

  if (status === 404 || code === 'RevisionNotFound' || code === 'EntryNotFound') {
    const advice =
      code === 'RevisionNotFound'
        ? `The model exists, but has no branch, tag or commit "${revision}". Its revisions: ${page}/tree/main.`
        : 'Check the spelling of both, and HF_ENDPOINT.'
    return new HubError(`There is no model ${id} at revision ${revision}: ${answer}. ${advice}`, { status })
  }
  if (/disabled/i.test(said) && code !== 'GatedRepo') {
    return new HubAccessError(status, `The Hub has disabled access to ${id}: ${answer}. See ${page}.`)
  }
  if (token !== undefined && status === 401 && /invalid (?:credentials|username)|expired|revoked/i.test(said)) {
    return new HubAccessError(
      status,
      `The Hub does not know the token in HF_TOKEN (any more): ${answer}. Create a new one with read permission at ${TOKENS_PAGE}.`,
    )
  }
  if (code === 'GatedRepo' || /gated|restricted|authorized list/i.test(said)) {
    const accept = `accept the licence of ${id} at ${page} while signed in`
    return new HubAccessError(
      status,
      token === undefined
        ? `${id} is a gated model: ${answer}. First ${accept}, then create a token with read permission at ${TOKENS_PAGE}, ` +
            'and set HF_TOKEN to it.'
        : `${id} is a gated model, and the account of HF_TOKEN has no access to it: ${answer}. First ${accept} with that ` +
            'account. A fine-grained token also needs "Read access to contents of all public gated repos you can access" ' +
            `(${TOKENS_PAGE}).`,
    )
  }
  return new HubAccessError(
    status,
    token === undefined
      ? `There is no public model ${id}: ${answer}. Check the spelling. If it is private or gated: ask for access at ` +
          `${page} while signed in, create a token with read permission at ${TOKENS_PAGE}, and set HF_TOKEN to it.`
      : `HF_TOKEN gives no access to ${id}: ${answer}. Check the spelling, and that the token's account can open ${page} and ` +
          `that the token has read permission for it (${TOKENS_PAGE}).`,
  )
}

/** The Hub's own words: one short line, without the token should it have been repeated there. */
function hubMessage({ headers, token }: Refusal): string {
  let said = headers.get('x-error-message') ?? ''
  if (token !== undefined) said = said.replaceAll(token, '***')
  return printable(said)
}
