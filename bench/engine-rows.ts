import type { Question } from './contestants/contestant.js'

/** Who takes part. Those with a mark of their own run another file of the same weights. */
export const CONTESTANTS = [
  'bezel',
  'bezel-q4_0',
  'llama.cpp',
  'llama.cpp-usual',
  'transformers.js',
  'transformers.js-usual',
  'onnxruntime-genai',
  'InferenceSession',
] as const
export type Contestant = (typeof CONTESTANTS)[number]

export interface Row {
  readonly name: string
  readonly question: Question
  /** Of those that take part, in this order; all others sit out, for the time's sake. */
  readonly who: readonly Contestant[]
  /** Measured in the first round only: it takes long, and averages over itself. */
  readonly once?: boolean
}

const MAIN = ['bezel', 'llama.cpp'] as const
const BESIDE = ['transformers.js', 'transformers.js-usual', 'onnxruntime-genai', 'InferenceSession'] as const
const PROMPT = 16

const prefill = (tokens: number): Question => ({ kind: 'prefill', tokens })
const decode = (sequences: number, depth = PROMPT): Question => ({
  kind: 'decode',
  sequences,
  depth,
  newTokens: sequences < 4 ? 49 : 33,
})

export const ROWS: readonly Row[] = [
  { name: 'decode 1', question: decode(1), who: CONTESTANTS },
  { name: 'decode 2', question: decode(2), who: MAIN },
  { name: 'decode 4', question: decode(4), who: [...MAIN, 'bezel-q4_0', 'transformers.js'] },
  { name: 'decode 8', question: decode(8), who: [...MAIN, 'bezel-q4_0'] },
  { name: 'decode 16', question: decode(16), who: MAIN },
  { name: 'prefill 128', question: prefill(128), who: [...MAIN, ...BESIDE] },
  { name: 'prefill 512', question: prefill(512), who: [...MAIN, 'bezel-q4_0', ...BESIDE] },
  { name: 'depth 1024', question: decode(1, 1024), who: MAIN },
  { name: 'depth 4096', question: decode(1, 4096), who: MAIN },
  { name: 'prefill 2048', question: prefill(2048), who: MAIN, once: true },
  { name: 'pause 512', question: { kind: 'pause', tokens: 512 }, who: ['bezel', 'InferenceSession'], once: true },
]

/** A speed that ours must have as a multiple of a peer's, in the same round. */
export interface Bar {
  readonly row: string
  readonly ours: Contestant
  readonly peer: Contestant
  readonly least: number
  readonly why: string
}

export const BARS: readonly Bar[] = [
  { row: 'decode 1', ours: 'bezel-q4_0', peer: 'llama.cpp', least: 0.9, why: 'the very same Q4_0 weights' },
  { row: 'decode 1', ours: 'bezel', peer: 'llama.cpp-usual', least: 1.1, why: 'best layout, usual Q4_0 file' },
  { row: 'decode 4', ours: 'bezel', peer: 'llama.cpp', least: 1.7, why: 'four sequences together' },
  { row: 'decode 8', ours: 'bezel', peer: 'llama.cpp', least: 2, why: 'eight sequences together' },
  { row: 'prefill 512', ours: 'bezel', peer: 'llama.cpp', least: 1.4, why: 'a prompt of 512' },
  { row: 'prefill 512', ours: 'bezel', peer: 'transformers.js', least: 3, why: 'our own file in both' },
  { row: 'prefill 512', ours: 'bezel', peer: 'transformers.js-usual', least: 3, why: 'the file that it usually gets' },
  { row: 'depth 4096', ours: 'bezel', peer: 'llama.cpp', least: 1, why: '4,096 tokens before it' },
]

/** Of the memory's measured speed, that decoding one sequence must reach. */
export const LEAST_SHARE = 0.9
/** Milliseconds to a session from the second start on, and private bytes beside the cache. */
export const MOST_LOAD_MS = 1000
export const MOST_PRIVATE_BYTES = 250e6
