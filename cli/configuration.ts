import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { z } from 'zod'
import { packageRoot } from '../model/package-root.js'
import { modelSettings } from '../model/settings.js'
import { serverSettings } from '../server/config.js'

/** Where the page lies. */
export const CONFIGURATION_PAGE = join(packageRoot, 'docs', 'configuration.md')

/** docs/configuration.md, made from the schemas that check the settings. `npm run docs` writes it; a test holds it to this. */
export function configurationPage(): string {
  return [
    '# Configuration',
    '',
    'Every setting is an environment variable, checked at start: a wrong one ends the process with exit code 2 and a line that',
    "names it, its value and what is legal. One that is set to nothing counts as not set. A wrong one of Cog's own (`COG_…`) ends",
    'nothing, since Cog starts with it, too: it counts as what the table says, or else as not set, and the log tells so. But for',
    '`COG_…_TYPE_STUB`, with which Cog does not start. (This page is made from the schemas in `server/config.ts` and',
    '`model/settings.ts` by `npm run docs`.)',
    '',
    '## The model',
    ...table(modelSettings),
    '',
    '## The server',
    ...table(serverSettings),
    '',
  ].join('\n')
}

function table(settings: z.ZodObject): string[] {
  const defaults = settings.parse({})
  const rows = Object.entries(settings.shape).map(([name, schema]) => {
    const { range, shownDefault } = schema.meta() as { range: string; shownDefault?: string }
    const fallback = defaults[name]
    const shown = shownDefault ?? (fallback === undefined ? 'none' : `\`${fallback}\``)
    return `| \`${name}\` | ${range} | ${shown} | ${schema.description} |`
  })
  return ['| variable | legal | default | meaning |', '| --- | --- | --- | --- |', ...rows]
}

if (process.argv[1] === fileURLToPath(import.meta.url)) writeFileSync(CONFIGURATION_PAGE, configurationPage())
