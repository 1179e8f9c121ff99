import { readFileSync } from 'node:fs'
import t from 'tap'
import { CONFIGURATION_PAGE, configurationPage } from '../../cli/configuration.js'

t.test('docs/configuration.md is what the settings say (npm run docs writes it anew)', async (t) => {
  t.equal(readFileSync(CONFIGURATION_PAGE, 'utf8'), configurationPage())
})
