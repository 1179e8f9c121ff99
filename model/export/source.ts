import type { GemmaConfig } from '../gemma.js'
import type { ReportProgress } from '../progress.js'
import type { HashedFile } from './hash-files.js'

/** A matrix that lies in the source as blocks of the kind that `quantizeBlocks` makes. */
export interface SourceBlocks {
  readonly bits: 4 | 8
  readonly blockSize: number
  /**
   * Reads whole rows.
   * @param packed  [rows · K · bits / 8], as `quantizeBlocks` fills it
   * @param scales  [rows · K / blockSize]; Uint16Array for f16
   * @param scratch  as for `readRows`
   * @returns the index of the first block whose scale is not finite, or −1
   */
  readRows(
    firstRow: number,
    packed: Uint8Array,
    scales: Float32Array | Uint16Array,
    scratch: Uint8Array,
  ): Promise<number>
}

/** How the weights lie in a source, which decides what they are best exported to. */
export interface SourceWeights {
  /** The type that most of the layers' matrices have, and that of the embedding: "BF16", "Q4_0", "Q6_K" … */
  readonly matrices: string
  readonly embedding: string
}

/**
 * A model that can be exported, whatever files it lies in: opened, and checked as a whole, so that every tensor of the network
 * is known to be there in the right shape and in a readable type. Tensors are named as Hugging Face names them.
 */
export interface ModelSource extends AsyncDisposable {
  /** For errors. */
  readonly path: string
  readonly config: GemmaConfig
  /** What goes into config.json, and generation_config.json where there is one. */
  readonly configJson: Readonly<Record<string, unknown>>
  readonly generationConfigJson: Readonly<Record<string, unknown>> | undefined
  /** Tokens that end an answer. */
  readonly endTokenIds: readonly number[]
  /** Files of the export that the source has, or has all of the contents of: tokenizer, licence. */
  readonly companions: readonly Companion[]
  readonly weights: SourceWeights

  /** Rows and columns of a matrix [N, K]; a vector is one row. */
  shape(name: string): { rows: number; columns: number }

  /** "BF16", "Q4_0" … */
  typeOf(name: string): string

  /** The matrix as blocks that can be taken over as they are, where it lies so. */
  blocksOf(name: string): SourceBlocks | undefined

  /**
   * Reads whole rows of a matrix [N, K] as f32.
   * @param into  [rows · K], filled from its start
   * @param scratch  at least rows · K · 4 bytes, beginning at a multiple of 4; overwritten
   */
  readRows(name: string, firstRow: number, rows: number, into: Float32Array, scratch: Uint8Array): Promise<void>

  /** Reads the factors of an RMS norm, Gemma's 1 + w, in f32. */
  readNorm(name: string, into: Float32Array, scratch: Uint8Array): Promise<void>

  /** SHA-256 of every file that the source is made of. */
  hash(report: ReportProgress, signal?: AbortSignal): Promise<HashedFile[]>
}

export interface Companion {
  readonly name: string
  read(): Promise<Uint8Array>
}
