// A station's address, as an option's text.

/** Six bytes; or what is wrong with the text. */
export function parseMac(text: string): Uint8Array | string {
  const bytes = text.split(':').map((part) => (/^[0-9a-f]{2}$/i.test(part) ? Number.parseInt(part, 16) : Number.NaN));
  if (bytes.length !== 6 || bytes.some(Number.isNaN)) return `mac "${text}": six bytes in hexadecimal, as 52:54:00:12:34:56`;
  if (((bytes[0] as number) & 1) !== 0) return `mac "${text}" is a group address`;
  return Uint8Array.from(bytes);
}
