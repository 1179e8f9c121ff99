/** The shortest and the longest deadline that may be asked for. */
const SHORTEST_MS = 5000
const LONGEST_MS = 24 * 3_600_000

const DURATION = /^(?:(\d{1,2})h)?(?:(\d{1,4})m)?(?:(\d{1,5})s?)?$/

/**
 * Reads the header `Cancel-After`: `30`, `30s`, `5m`, `1h30m45s`.
 *
 * @returns milliseconds, 5 s … 24 h; undefined for any other text.
 * Source: Replicate's HTTP API, "Create a prediction".
 */
export function parseCancelAfter(text: string): number | undefined {
  const match = DURATION.exec(text.trim())
  if (!match || text.trim() === '') return undefined
  const [hours, minutes, seconds] = match.slice(1).map((part) => Number(part ?? 0))
  const ms = ((hours! * 60 + minutes!) * 60 + seconds!) * 1000
  return ms >= SHORTEST_MS && ms <= LONGEST_MS ? ms : undefined
}
