/** A path that no route has. */
const NOWHERE = '//'

/**
 * A request's URL for a router that decodes paths: Cog compares them as they were sent, and so that what guards a path in
 * front of this server need not know its other spellings.
 *
 * The names in a path stand for themselves only (`/%73hutdown` is no path), none ends in a slash, and a percent sign in an id that
 * begins no escape is one.
 */
export function exactUrl(url: string): string {
  if (!/%|\/(?:\?|$)/.test(url)) return url
  const end = url.indexOf('?')
  const path = end < 0 ? url : url.slice(0, end)
  if (path === '/') return url
  const [start, name = '', id, ...rest] = path.split('/')
  if (name.includes('%') || rest.some((part) => part.includes('%'))) return NOWHERE
  if (id === '' && rest.length === 0) return NOWHERE
  if (id === undefined) return url
  return [start, name, id.replace(/%(?![\da-f]{2})/gi, '%25'), ...rest].join('/')
}
