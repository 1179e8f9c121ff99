const ALLOWED_METHODS: readonly (readonly [path: RegExp, allow: string])[] = [
  [/^\/(?:health-check|openapi\.json|livez|readyz|metrics)?$/, 'GET,HEAD'],
  [/^\/(?:predictions|shutdown)$/, 'POST'],
  [/^\/predictions\/[^/]+$/, 'PUT'],
  [/^\/predictions\/[^/]*\/cancel$/, 'POST'],
]

const TRAINING_METHODS: readonly (readonly [path: RegExp, allow: string])[] = [
  [/^\/trainings$/, 'POST'],
  [/^\/trainings\/[^/]+$/, 'PUT'],
  [/^\/trainings\/[^/]*\/cancel$/, 'POST'],
]

/**
 * The methods of a path, as the header `allow` has them; undefined for a path that is not served.
 *
 * Cog matches an empty id before `/cancel`, and none at the end of a path.
 */
export function allowedMethods(
  url: string,
  { keeps, trains }: { readonly keeps: boolean; readonly trains: boolean | undefined },
): string | undefined {
  const path = url.split('?')[0]!
  if (keeps && /^\/predictions\/[^/]+$/.test(path)) return 'GET,HEAD,PUT'
  const known = trains === false ? ALLOWED_METHODS : [...ALLOWED_METHODS, ...TRAINING_METHODS]
  return known.find(([pattern]) => pattern.test(path))?.[1]
}
