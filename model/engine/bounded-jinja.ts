import * as jinja from '@huggingface/jinja'

/** What one rendering may cost. Counted, not timed, so that it is refused on every machine or on none. */
export interface RenderLimits {
  /** One for each evaluation, and one more for each 64 characters or elements that it yields. */
  readonly steps: number
  /** Most characters or elements of any value, the output among them. */
  readonly size: number
}

interface Value {
  readonly type: string
  readonly value: unknown
}
interface Node {
  readonly type: string
}
interface Environment {
  set(name: string, value: unknown): void
}
interface Interpreter {
  run(program: Node): Value
  evaluate(node: Node | undefined, environment: Environment): Value
}

/** The package's declarations import one another without file extensions, so that TypeScript finds no types behind them. */
const { Environment, Interpreter, parse, tokenize } = jinja as unknown as {
  Environment: new () => Environment
  Interpreter: new (environment: Environment) => Interpreter
  parse(tokens: unknown): Node
  tokenize(source: string, options: { lstrip_blocks: boolean; trim_blocks: boolean }): unknown
}

/** Jinja's literals, in both spellings. Nothing that tells the time: the same input renders the same. */
const CONSTANTS = { true: true, false: false, none: null, True: true, False: false, None: null }

/** A Jinja template whose rendering ends, whatever it says: a template comes with a model, and a model from anywhere. */
export class BoundedTemplate {
  readonly #program: Node

  /** @throws {Error} the source is no Jinja. White space around blocks goes as in Hugging Face's chat templates. */
  constructor(source: string) {
    this.#program = parse(tokenize(source, { lstrip_blocks: true, trim_blocks: true }))
  }

  /**
   * @param names  variables of the template; beside them it has raise_exception() and range().
   * @throws {Error} the template raised, asked for what it does not have, or went over a limit (RangeError).
   */
  render(names: Readonly<Record<string, unknown>>, limits: RenderLimits): string {
    const budget = new Budget(limits)
    const environment = new Environment()
    for (const [name, value] of Object.entries({ ...CONSTANTS, ...names })) environment.set(name, value)
    environment.set('raise_exception', (message: unknown) => {
      throw new Error(String(message))
    })
    environment.set('range', (start: number, stop?: number, step?: number) => budget.range(start, stop, step))
    return String(new BoundedInterpreter(environment, budget).run(this.#program).value)
  }
}

class Budget {
  #steps: number
  readonly #size: number

  constructor(limits: RenderLimits) {
    this.#steps = limits.steps
    this.#size = limits.size
  }

  spend(size: number): void {
    if (size > this.#size)
      throw new RangeError(`it makes a value of size ${size}, and at most ${this.#size} is let through`)
    this.#steps -= 1 + size / 64
    if (this.#steps < 0) throw new RangeError('it takes more steps than such an input needs')
  }

  /** Jinja's range(), refused before it is built. */
  range(start: number, stop?: number, step = 1): number[] {
    const [first, end] = stop === undefined ? [0, start] : [start, stop]
    const count = Math.max(0, Math.ceil((end - first) / step))
    if (!Number.isFinite(count)) throw new RangeError('range() needs whole numbers, and a step other than 0')
    this.spend(count)
    return Array.from({ length: count }, (_, index) => first + index * step)
  }
}

class BoundedInterpreter extends Interpreter {
  readonly #budget: Budget

  constructor(environment: Environment, budget: Budget) {
    super(environment)
    this.#budget = budget
  }

  override evaluate(node: Node | undefined, environment: Environment): Value {
    this.#budget.spend(0)
    const value = isTrim(node) ? this.#trim(node.operand, environment) : super.evaluate(node, environment)
    this.#budget.spend(sizeOf(value))
    return value
  }

  #trim(node: Node, environment: Environment): Value {
    const operand = this.evaluate(node, environment)
    if (typeof operand.value !== 'string') throw new TypeError(`trim is applied to a ${operand.type}`)
    const StringValue = operand.constructor as new (value: string) => Value
    return new StringValue(strip(operand.value))
  }
}

interface TrimNode extends Node {
  readonly operand: Node
}

function isTrim(node: Node | undefined): node is TrimNode {
  if (node?.type !== 'FilterExpression') return false
  const { filter } = node as unknown as { filter: { type: string; value?: unknown } }
  return filter.type === 'Identifier' && filter.value === 'trim'
}

function sizeOf({ value }: Value): number {
  if (typeof value === 'string' || Array.isArray(value)) return value.length
  return value instanceof Map ? value.size : 0
}

/** Python's str.strip(), with which Hugging Face renders `| trim`. */
function strip(text: string): string {
  let start = 0
  let end = text.length
  while (start < end && isSpace(text[start]!)) start++
  while (end > start && isSpace(text[end - 1]!)) end--
  return text.slice(start, end)
}

/** Python's str.isspace(): five separators more than JavaScript's, and not the byte order mark. */
function isSpace(character: string): boolean {
  return character === '\ufeff' ? false : /\s/.test(character) || '\x1c\x1d\x1e\x1f\x85'.includes(character)
}
