const UNITS = ['B', 'kB', 'MB', 'GB', 'TB']

/** `4945242264` → `4.95 GB`: powers of 1000, as disks and the Hub's pages count; at most three digits. */
export function formatBytes(bytes: number): string {
  let value = bytes
  let unit = 0
  // 999.5 and not 1000: what would be rounded to four digits already belongs to the next unit.
  while (Math.abs(value) >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000
    unit++
  }
  const digits = unit === 0 || Math.abs(value) >= 99.95 ? 0 : Math.abs(value) >= 9.995 ? 1 : 2
  return `${value.toFixed(digits)} ${UNITS[unit]}`
}
