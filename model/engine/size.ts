import { NotEnoughMemoryError, SettingsError } from '../errors.js'
import type { ModelFolder } from '../folder.js'
import type { AvailableMemory } from '../memory.js'
import { slotBytes } from './kv-cache.js'

export interface SizeOptions {
  readonly folder: ModelFolder
  /** Wanted. */
  readonly slots: number
  /** Wanted; by default what the model was made for. */
  readonly contextLength?: number
  /** Most tokens of one step's prompt. */
  readonly chunkTokens: number
  /** What weights, caches and steps may take together, before any of them is there. */
  readonly memory: AvailableMemory
}

export interface Size {
  /** 1 … those wanted */
  readonly slots: number
  /** T */
  readonly slotTokens: number
  /** What steps take beside weights and caches, at most, and what the process itself does. */
  readonly runBytes: number
  /** Why there are fewer slots than wanted. */
  readonly notice?: string
}

/**
 * How many slots of which length: as many as are wanted and memory holds when all of them are full.
 *
 * @throws {SettingsError} `CONTEXT_LENGTH` is longer than the model was made for.
 * @throws {NotEnoughMemoryError} memory does not hold a single slot.
 */
export function chooseSize(options: SizeOptions): Size {
  const { folder, slots: wanted, contextLength, chunkTokens, memory } = options
  const { maxPositions } = folder.config
  const slotTokens = contextLength ?? maxPositions
  if (slotTokens > maxPositions) {
    throw new SettingsError(
      'CONTEXT_LENGTH',
      `CONTEXT_LENGTH is ${slotTokens}, but the model was made for ${maxPositions} tokens. Lower it, or leave it out.`,
    )
  }
  const cache = (slots: number, T: number) =>
    slots * slotBytes({ config: folder.config, slotTokens: T, type: folder.activationType })
  const run = (slots: number, T: number) => runBytes(folder, { slots, slotTokens: T, chunkTokens })
  const need = (slots: number, T: number) => folder.weightBytes + cache(slots, T) + run(slots, T)

  let slots = wanted
  while (slots > 0 && need(slots, slotTokens) > memory.bytes) slots--
  const left = `${megabytes(memory.bytes)} are left of ${memory.boundBy}`
  if (slots === 0) {
    const perToken = need(1, 1) - need(1, 0)
    const fitting = Math.max(0, Math.floor((memory.bytes - need(1, 0)) / perToken))
    throw new NotEnoughMemoryError(
      `One slot of ${slotTokens} tokens takes ${megabytes(cache(1, slotTokens))}, beside ${megabytes(folder.weightBytes)} of ` +
        `weights and ${megabytes(run(1, slotTokens))} to run them, but ${left}. ` +
        (fitting < 16
          ? 'Free memory, raise the limit, or serve a smaller MODEL.'
          : `Set CONTEXT_LENGTH to at most ${fitting}, free memory, or raise the limit.`),
      { neededBytes: need(1, slotTokens), availableBytes: memory.bytes },
    )
  }
  const size = { slots, slotTokens, runBytes: run(slots, slotTokens) }
  if (slots === wanted) return size
  const notice =
    `${wanted} slots of ${slotTokens} tokens would take ${megabytes(cache(wanted, slotTokens))}, beside ${megabytes(folder.weightBytes)} of ` +
    `weights and ${megabytes(run(wanted, slotTokens))} to run them, but ${left}: ` +
    `${slots === 1 ? 'one is' : `${slots} are`} made. For more, lower CONTEXT_LENGTH, free memory, or raise the limit.`
  return { ...size, notice }
}

/** Tokenizer, library and heap. Measured with the 2B shape: 230 MB more than when memory is looked at (docs/engine.md). */
const PROCESS_BYTES = 256 * 2 ** 20
/** ONNX Runtime's arena grows by doubling. */
const ARENA_FACTOR = 2
/** Rows of the vocabulary's size that the sampling graph holds for each row of logits, those among them. */
const VOCABULARY_ROWS = 5
const FLOAT_BYTES = 4

/**
 * An upper bound of what steps take. One token of a step has at most its MLP's two halves and their product (3 I), its attention
 * scores over the whole slot (H T), and a few rows of its state.
 */
function runBytes(folder: ModelFolder, size: { slots: number; slotTokens: number; chunkTokens: number }): number {
  const { hiddenSize, intermediateSize, heads, kvHeads, headSize, vocabSize } = folder.config
  const { slots, slotTokens, chunkTokens } = size
  const state = 4 * hiddenSize + 2 * (heads + kvHeads) * headSize
  const tokenElements = 3 * intermediateSize + state + heads * slotTokens
  const steps = ARENA_FACTOR * Math.max(chunkTokens, slots) * tokenElements * FLOAT_BYTES
  const sampling = slots * VOCABULARY_ROWS * vocabSize * FLOAT_BYTES
  return PROCESS_BYTES + steps + sampling
}

function megabytes(bytes: number): string {
  return `${Math.round(bytes / 1e6)} MB`
}
