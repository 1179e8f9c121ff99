import { z } from 'zod'
import { definePredictor } from '../../server/predictor.js'

const { GREETING, PLACE } = process.env

/** Says what variables its process had as its module was loaded. */
export const Predictor = definePredictor({
  input: z.object({}),
  output: z.string(),
  streaming: false,
  predict: () => `${GREETING} from ${PLACE}`,
})
