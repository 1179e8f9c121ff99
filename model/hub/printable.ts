/** What another machine said, fit for a message: one short line, without characters that could steer a terminal. */
export function printable(text: string, maxLength = 200): string {
  return text
    .replaceAll(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]+/gu, ' ')
    .trim()
    .slice(0, maxLength)
}
