/** One flag of a command: `--name value`, or `--name` alone where `value` is absent or `alone` says what that means. */
export interface Flag {
  /** Without the dashes, in kebab case. */
  readonly name: string
  /** How the value is called in the help, e.g. `folder`; absent for a switch. */
  readonly value?: string
  /** The only values that are legal; absent where any text is. */
  readonly choices?: readonly string[]
  /** The value of `--name` without one; then only `--name=value` gives it another. */
  readonly alone?: string
  readonly meaning: string
}

export interface Positional {
  readonly name: string
  readonly meaning: string
}

/** What a command was called with: every positional is there, and a flag only where it was given (a switch as `true`). */
export interface Arguments {
  readonly positionals: readonly string[]
  readonly flags: ReadonlyMap<string, string | true>
}

/** A command of `bezel`. `run` resolves to the exit code of the process. */
export interface Command {
  readonly name: string
  readonly summary: string
  readonly positionals: readonly Positional[]
  readonly flags: readonly Flag[]
  /** A whole line that works when typed. */
  readonly example: string
  readonly run: (args: Arguments) => Promise<number>
}

/** The command line is wrong. The message says which word, and what is meant. */
export class UsageError extends Error {
  override readonly name = 'UsageError'
}
