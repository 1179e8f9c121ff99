import { SettingsError } from '../errors.js'
import type { ModelFolder } from '../folder.js'
import { slotBytes } from './kv-cache.js'

export interface SizeOptions {
  readonly folder: ModelFolder
  /** Wanted. */
  readonly slots: number
  /** Wanted; by default what the model was made for. */
  readonly contextLength?: number
  /** Bytes that the caches may take. */
  readonly availableBytes: number
}

export interface Size {
  /** 1 … those wanted */
  readonly slots: number
  /** T */
  readonly slotTokens: number
  /** Why there are fewer slots than wanted. */
  readonly notice?: string
}

/**
 * How many slots of which length.
 * @throws {SettingsError} `CONTEXT_LENGTH`: longer than the model was made for, or memory does not hold a single slot.
 */
export function chooseSize({ folder, slots: wanted, contextLength, availableBytes }: SizeOptions): Size {
  const { maxPositions } = folder.config
  const slotTokens = contextLength ?? maxPositions
  if (slotTokens > maxPositions) {
    throw new SettingsError(
      'CONTEXT_LENGTH',
      `CONTEXT_LENGTH is ${slotTokens}, but the model was made for ${maxPositions} tokens. Lower it, or leave it out.`,
    )
  }
  const bytes = slotBytes({ config: folder.config, slotTokens, type: folder.activationType })
  const slots = Math.min(wanted, Math.floor(availableBytes / bytes))
  if (slots >= wanted) return { slots, slotTokens }
  if (slots < 1) {
    const fitting = Math.max(0, Math.floor((availableBytes / bytes) * slotTokens))
    throw new SettingsError(
      'CONTEXT_LENGTH',
      `A slot of ${slotTokens} tokens takes ${megabytes(bytes)}, but ${megabytes(availableBytes)} are left for it. ` +
        `Set CONTEXT_LENGTH to at most ${fitting}, or free memory.`,
    )
  }
  const notice =
    `${wanted} slots of ${slotTokens} tokens would take ${megabytes(wanted * bytes)}, but ${megabytes(availableBytes)} are ` +
    `left: ${slots === 1 ? 'one is' : `${slots} are`} made. For more, lower CONTEXT_LENGTH or free memory.`
  return { slots, slotTokens, notice }
}

function megabytes(bytes: number): string {
  return `${Math.round(Math.max(bytes, 0) / 1e6)} MB`
}
