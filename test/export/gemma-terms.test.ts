import t from 'tap'
import { gemmaNotice } from '../../model/export/gemma-terms.js'
import { GEMMA_2B, TINY } from './random-checkpoint.js'

t.test("Gemma's weights carry its notice and say that they are modified; other weights do not", async (t) => {
  const [words, ...rest] = gemmaNotice(GEMMA_2B, 'q4')!.split('\n')
  t.equal(words, 'Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms')
  t.match(rest.join('\n'), /modified: the weights were converted to ONNX as q4/)
  t.equal(gemmaNotice(TINY, 'q4'), undefined)
})
