import { inspect } from 'node:util'
import { z } from 'zod'

/** What stands in the place of a secret. */
export const MASK = '**********'

/** A text that must not be shown: printed, logged, inspected or written as JSON, it is ten asterisks. */
export class Secret {
  readonly #value: string

  constructor(value: string) {
    this.#value = value
  }

  /** The text itself. */
  reveal(): string {
    return this.#value
  }

  toString(): string {
    return MASK
  }

  toJSON(): string {
    return MASK
  }

  [inspect.custom](): string {
    return `Secret(${MASK})`
  }
}

/**
 * An input that holds a credential: Cog's `Secret`. `predict` gets a {@link Secret}.
 *
 * Errors and the state of a running prediction show asterisks in its place, and so do the logs and the error of its
 * prediction, wherever its text stands in them.
 */
export function secret() {
  return z
    .string()
    .meta({ format: 'password', writeOnly: true, 'x-cog-secret': true })
    .transform((value) => new Secret(value))
}

/** Whether a schema of openapi.json describes a {@link secret}. */
export function isSecret(schema: { readonly [key: string]: unknown }): boolean {
  return schema['x-cog-secret'] === true
}

/** Puts asterisks in the place of each secret's text, where it is not empty. */
export function hideSecrets(text: string, secrets: readonly Secret[]): string {
  return secrets
    .map((one) => one.reveal())
    .filter((value) => value !== '')
    .reduce((hidden, value) => hidden.replaceAll(value, MASK), text)
}
