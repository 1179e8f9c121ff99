import t from 'tap'
import { nearest, parseArguments } from '../../cli/arguments.js'
import type { Command } from '../../cli/command.js'
import { explain } from '../../cli/help.js'

const command: Command = {
  name: 'export',
  summary: 'Exports.',
  positionals: [
    { name: 'checkpoint', meaning: 'what to read' },
    { name: 'folder', meaning: 'where to write' },
  ],
  flags: [
    { name: 'dtype', value: 'dtype', choices: ['f32', 'q4'], meaning: 'the weights' },
    { name: 'limit', value: 'number', meaning: 'a number' },
    { name: 'force', meaning: 'overwrite' },
    { name: 'verify', value: 'answer', choices: ['yes', 'no'], alone: 'yes', meaning: 'read what was written' },
  ],
  example: 'bezel export gemma out --dtype q4',
  run: async () => 0,
}
const parse = (...words: string[]) => parseArguments(command, words, ['PORT', 'MODEL_CACHE'])

t.test('positionals and flags are read in any order, also as --name=value and with a negative number', async (t) => {
  const args = parse('--dtype=q4', 'in', '--limit', '-1', 'out', '--force')
  t.same(args.positionals, ['in', 'out'])
  t.same(
    [...args.flags],
    [
      ['dtype', 'q4'],
      ['limit', '-1'],
      ['force', true],
    ],
  )
})

t.test('a flag that means something alone takes another value only behind an equals sign', async (t) => {
  t.equal(parse('in', 'out', '--verify').flags.get('verify'), 'yes')
  t.equal(parse('--verify', 'in', 'out').flags.get('verify'), 'yes')
  t.equal(parse('in', 'out', '--verify=no').flags.get('verify'), 'no')
})

t.test('a wrong command line says which word and what is meant', async (t) => {
  const wrong: [string[], string][] = [
    [['in', 'out', '--dtyp', 'q4'], '--dtyp is not a flag of bezel export. Do you mean --dtype?'],
    [['in', 'out', '--zebra'], '--zebra is not a flag of bezel export. See bezel export --help.'],
    [['in', 'out', '-x'], '-x is not a flag of bezel export. See bezel export --help.'],
    [
      ['in', 'out', '--port=80'],
      '--port is not a flag of bezel export. Settings come from the environment: PORT=80 bezel export',
    ],
    [
      ['in', 'out', '--model-cache'],
      '--model-cache is not a flag of bezel export. Settings come from the environment: MODEL_CACHE=… bezel export',
    ],
    [['in', 'out', '--dtype', 'q3'], '--dtype is "q3", but must be one of f32, q4.'],
    [['in', 'out', '--dtype'], '--dtype needs a value: one of f32, q4.'],
    [['in', 'out', '--force=yes'], '--force takes no value, but got "yes".'],
    [['in', 'out', '--verify=perhaps'], '--verify is "perhaps", but must be one of yes, no.'],
    [['in', 'out', '--force', '--force'], '--force is given twice.'],
    [['in'], 'bezel export <checkpoint> <folder> [flags]: <folder> is missing (where to write).'],
    [
      ['in', 'out', 'more'],
      'bezel export <checkpoint> <folder> [flags]: "more" is one word too many. Quote a text that has spaces.',
    ],
  ]
  for (const [words, message] of wrong)
    t.throws(() => parse(...words), { name: 'UsageError', message }, words.join(' '))
})

t.test('the nearest name is offered only where it is near', async (t) => {
  t.equal(nearest('sevre', ['serve', 'predict']), 'serve')
  t.equal(nearest('zebra', ['serve', 'predict']), undefined)
  t.equal(nearest('serv', ['serve', 'predict']), 'serve')
  t.equal(nearest('temprature', ['temperature', 'top-p']), 'temperature')
  t.equal(nearest('', ['serve']), undefined)
})

t.test('the help of a command names every flag with its choices, and an example', async (t) => {
  t.equal(
    explain(command),
    [
      'bezel export <checkpoint> <folder> [flags]',
      '',
      'Exports.',
      '',
      '  <checkpoint>              what to read',
      '  <folder>                  where to write',
      '  --dtype f32|q4            the weights',
      '  --limit <number>          a number',
      '  --force                   overwrite',
      '  --verify[=yes|no]         read what was written',
      '  --help                    This text.',
      '',
      'Example:',
      '  bezel export gemma out --dtype q4',
      '',
    ].join('\n'),
  )
})
