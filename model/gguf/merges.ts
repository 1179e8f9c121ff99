/** Two pieces that are joined. */
export type Merge = readonly [left: string, right: string]

/**
 * The merges of a BPE tokenizer, from the pieces and scores of a SentencePiece one: SentencePiece joins any two neighbours
 * whose joint is a piece, the best score first, so every way to cut a piece into two others is a merge, and the merge's rank
 * is the piece's score. Of the cuts of one piece, the one whose parts come first in the vocabulary is preferred.
 *
 * @param pieces  all different; index: token id
 * @param scores  the higher the earlier; equal ones by id
 * @returns the merges, best first, one after another: all at once, Gemma's would take 100 MB
 * Source: generate_merges in transformers' convert_slow_tokenizer.py; held against Gemma's tokenizer.json (580,604 merges).
 */
export function* sentencePieceMerges(pieces: readonly string[], scores: ArrayLike<number>): Generator<Merge> {
  const ids = new Map(pieces.map((piece, id) => [piece, id]))
  const order = Uint32Array.from(pieces.keys()).sort((a, b) => scores[b]! - scores[a]! || a - b)
  for (const id of order) {
    const cuts = cutsOf(pieces[id]!, ids)
    if (cuts.length > 1) cuts.sort((a, b) => ids.get(a[0])! - ids.get(b[0])! || ids.get(a[1])! - ids.get(b[1])!)
    yield* cuts
  }
}

function cutsOf(piece: string, ids: ReadonlyMap<string, number>): Merge[] {
  // The limit keeps a hostile piece of a megabyte from taking hours; Gemma's longest is 48 characters.
  if (piece.length > MAX_MERGED_LENGTH) return []
  const cuts: Merge[] = []
  for (let at = 1; at < piece.length; at++) {
    if (isInsideOfPair(piece, at)) continue
    const left = piece.slice(0, at)
    if (!ids.has(left)) continue
    const right = piece.slice(at)
    if (ids.has(right)) cuts.push([left, right])
  }
  return cuts
}

const MAX_MERGED_LENGTH = 256

/** Between the two halves of a character beyond 16 bits. */
function isInsideOfPair(text: string, at: number): boolean {
  const code = text.charCodeAt(at)
  return code >= 0xdc00 && code <= 0xdfff
}
