// Frames with IP headers for tests, built field by field.

const MACS = [0x52, 0x54, 0, 0, 0, 2, 0x52, 0x54, 0, 0, 0, 1];

export const u16 = (value: number): number[] => [value >> 8, value & 0xff];
export const dotted = (text: string): number[] => text.split('.').map(Number);

/** An IPv6 address as text, in full or with one `::`. */
export function colons(text: string): number[] {
  const [head = '', tail = ''] = text.split('::');
  const words = (part: string): number[] => (part === '' ? [] : part.split(':').flatMap((word) => u16(Number.parseInt(word, 16))));
  const [before, after] = [words(head), words(tail)];
  return [...before, ...new Array(16 - before.length - after.length).fill(0), ...after];
}

/** A TCP (6) or UDP (17) header before the payload; for other protocols the payload alone. */
export const transport = (protocol: number, ports: readonly [number, number], payload: readonly number[] = []): number[] =>
  protocol === 6
    ? [...u16(ports[0]), ...u16(ports[1]), 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x10, 1, 0, 0, 0, 0, 0, ...payload]
    : protocol === 17
      ? [...u16(ports[0]), ...u16(ports[1]), ...u16(8 + payload.length), 0, 0, ...payload]
      : [...payload];

export function ipv4(
  from: readonly number[],
  to: readonly number[],
  protocol: number,
  payload: readonly number[],
  options: { words?: number; fragment?: number } = {},
): number[] {
  const words = options.words ?? 5;
  const fixed = [0x40 | words, 0, ...u16(4 * words + payload.length), 0, 0, ...u16(options.fragment ?? 0), 64, protocol, 0, 0, ...from, ...to];
  return [...fixed, ...new Array(4 * Math.max(0, words - 5)).fill(1), ...payload];
}

export const ipv6 = (from: readonly number[], to: readonly number[], next: number, payload: readonly number[]): number[] => [
  0x60,
  0,
  0,
  0,
  ...u16(payload.length),
  next,
  64,
  ...from,
  ...to,
  ...payload,
];

export const ethernet = (type: number, payload: readonly number[], tags: readonly number[][] = []): Uint8Array =>
  Uint8Array.from([...MACS, ...tags.flat(), ...u16(type), ...payload]);

/** An IP packet in an Ethernet frame. */
export const ip = (payload: readonly number[]): Uint8Array => ethernet((payload[0] as number) >> 4 === 6 ? 0x86dd : 0x0800, payload);
