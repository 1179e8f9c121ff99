import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

/**
 * The folder that holds package.json, from source (`model/…ts`) as well as from the compiled form (`dist/model/…js`):
 * what is not code, such as the embedded model, is not compiled and stays there.
 */
export const packageRoot = find(dirname(fileURLToPath(import.meta.url)))

function find(folder: string): string {
  if (existsSync(join(folder, 'package.json'))) return folder
  const parent = dirname(folder)
  if (parent === folder) throw new Error('No package.json above this file: Bezel was not installed as a package.')
  return find(parent)
}
