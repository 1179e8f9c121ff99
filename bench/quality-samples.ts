import { readFile } from 'node:fs/promises'
import type { PromptMaker } from '../model/engine/prompt.js'

/** Text that a model reads, and the positions at which its prediction of the next token counts. */
export interface Sample {
  readonly ids: readonly number[]
  readonly rows: readonly number[]
}

const END_OF_TURN = '<end_of_turn>'
/** Tokens of a piece of plain text. */
const WINDOW = 512
/** The first tokens of a piece have next to no context: what a model says there says little of it. */
const UNCOUNTED = 16

/**
 * The demo model's examination: conversations of up to six turns that its training never saw, with the right answers. Each
 * turn is one sample, and the answer's tokens count.
 */
export async function conversationSamples(prompts: PromptMaker): Promise<Sample[]> {
  const file = new URL('../test/demo/fixtures/held-out.json', import.meta.url)
  const { allowed, conversations } = JSON.parse(await readFile(file, 'utf8')) as {
    allowed: Record<string, string[]>
    conversations: { kind: string; user: string }[][]
  }
  const samples: Sample[] = []
  for (const turns of conversations) {
    const messages: { role: 'user' | 'assistant'; content: string }[] = []
    for (const { kind, user } of turns) {
      messages.push({ role: 'user', content: user })
      const prompt = await prompts.ids({ messages })
      const answer = allowed[kind]![0]!
      const end = prompts.tokenizer.controls.get(END_OF_TURN)!
      const ids = [...prompt, ...(await prompts.tokenizer.tokenize([answer, end]))]
      // The row before a token predicts it.
      const rows = Array.from({ length: ids.length - prompt.length }, (_, index) => prompt.length - 1 + index)
      samples.push({ ids, rows })
      messages.push({ role: 'assistant', content: answer })
    }
  }
  return samples
}

/** Plain text in pieces, each with a `<bos>` of its own. */
export async function textSamples(prompts: PromptMaker, text: string, maxPositions: number): Promise<Sample[]> {
  const [bos, ...all] = await prompts.ids({ prompt: text, raw: true })
  const size = Math.min(WINDOW, maxPositions) - 1
  const samples: Sample[] = []
  for (let start = 0; start < all.length; start += size) {
    const ids = [bos!, ...all.slice(start, start + size)]
    const rows = ids.flatMap((_, row) => (row >= UNCOUNTED && row < ids.length - 1 ? [row] : []))
    if (rows.length > 0) samples.push({ ids, rows })
  }
  return samples
}
