import { EMBEDDING } from './gemma-tensors.js'
import type { ModelSource } from './source.js'
import type { QuantizedWeight, WeightPlan } from './weights.js'
import { takenOver } from './write-weights.js'

/**
 * Says in one line what becomes of weights that were quantized before: which are taken over as they are, and which are
 * quantized a second time, at the price of a second error.
 *
 * @returns undefined where the source holds floats only
 */
export function requantizingNotice(source: ModelSource, plan: WeightPlan): string | undefined {
  const same = new Map<string, number>()
  const anew = new Map<string, number>()
  for (const weight of plan.all) {
    if (weight.kind !== 'quantized' && weight.kind !== 'float') continue
    for (const tensor of weight.sources) {
      const type = source.typeOf(tensor)
      if (!type.startsWith('Q')) continue
      const isSame = weight.kind === 'quantized' && takenOver(source, tensor, weight) !== undefined
      const line = isSame
        ? type
        : `${type} to ${targetOf(weight, plan)}${tensor === EMBEDDING ? ' (the embedding)' : ''}`
      const counts = isSame ? same : anew
      counts.set(line, (counts.get(line) ?? 0) + 1)
    }
  }
  const list = (counts: ReadonlyMap<string, number>) =>
    [...counts].map(([line, count]) => `${count} in ${line}`).join(', ')
  const parts: string[] = []
  if (same.size > 0) parts.push(`matrices taken over bit for bit: ${list(same)}`)
  if (anew.size > 0) parts.push(`quantized anew, which costs a little quality: ${list(anew)}`)
  return parts.length === 0 ? undefined : `${source.path}: ${parts.join('; ')}.`
}

function targetOf(weight: QuantizedWeight | { kind: 'float' }, plan: WeightPlan): string {
  if (weight.kind === 'float') return plan.format.dtype
  return `q${weight.blocks.bits} in blocks of ${weight.blocks.blockSize}`
}
