import type { GemmaConfig } from '../gemma.js'

export const TERMS_FILE = 'GEMMA_NOTICE.txt'

/** Pieces of Gemma 1's own tokenizer: a checkpoint with as many is Gemma's, or one that was trained further. */
const GEMMA_VOCABULARY = 256_000

/**
 * What goes with Gemma's weights to whoever gets them: the notice in the words that the terms ask for, and that the files are
 * no longer Google's.
 * Source: Gemma Terms of Use, section 3.1 (https://ai.google.dev/gemma/terms).
 *
 * @param dtype  what the weights were made into
 * @returns undefined for a model of Gemma's architecture that is not Gemma
 */
export function gemmaNotice({ vocabSize }: Pick<GemmaConfig, 'vocabSize'>, dtype: string): string | undefined {
  if (vocabSize !== GEMMA_VOCABULARY) return undefined
  return (
    'Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms\n\n' +
    `These files are modified: the weights were converted to ONNX as ${dtype}. Their use is restricted by section 3.2 of ` +
    'these terms, and whoever gets them from you must get the terms as well.\n'
  )
}
