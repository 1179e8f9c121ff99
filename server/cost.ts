/**
 * What a second of each kind of hardware costs, in US dollars.
 *
 * Source: Replicate's price page, as of a copy made after May 2025 (T4 and A100 unchanged on 9 March 2026). A machine
 * with 2, 4 or 8 of the same GPUs costs that multiple.
 */
const DOLLARS_PER_SECOND = {
  cpu: 0.0001,
  'gpu-t4': 0.000225,
  'gpu-a40-small': 0.000575,
  'gpu-a40-large': 0.000725,
  'gpu-l40s': 0.000975,
  'gpu-a100-large': 0.0014,
  'gpu-h100': 0.001525,
} as const

const GPU_COUNTS = [2, 4, 8] as const

/** Hardware name → dollars per second, the machines with several GPUs (`gpu-l40s-2x`) included. */
export const PRICES: ReadonlyMap<string, number> = new Map(
  Object.entries(DOLLARS_PER_SECOND).flatMap(([name, price]) => [
    [name, price] as const,
    ...(name === 'cpu' ? [] : GPU_COUNTS.map((count) => [`${name}-${count}x`, price * count] as const)),
  ]),
)

/**
 * What a prediction cost.
 *
 * Queue and setup are free, and predictions that share a machine each pay for it, both as on Replicate.
 *
 * @param seconds  its `predict_time`, ≥ 0.
 * @param dollarsPerSecond  the price of the machine, ≥ 0.
 * @returns dollars, rounded to 12 significant digits, which removes the noise of binary fractions.
 */
export function costOf(seconds: number, dollarsPerSecond: number): number {
  return Number((seconds * dollarsPerSecond).toPrecision(12))
}
