// The receive hash a second time, for tests: Toeplitz as its definition has it, bit by bit over a bigint, and the fields of a frame gathered by a straight walk over a plain array.
// Shares nothing with src/net.

/** The key of the published RSS verification suite. */
export const MICROSOFT_KEY = new Uint8Array(Buffer.from('6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa', 'hex'));

/** For each set bit of the input, from its first on, XORs in the 32 bits of the key that start at that bit. Past its end the key is zeros. */
export function toeplitz(key: Uint8Array, input: readonly number[]): number {
  let bits = 0n;
  for (const byte of key) bits = (bits << 8n) | BigInt(byte);
  const inputBits = input.length * 8;
  const total = Math.max(key.length * 8, inputBits + 32);
  bits <<= BigInt(total - key.length * 8);
  let hash = 0n;
  for (let i = 0; i < inputBits; i++) if ((((input[i >> 3] as number) >> (7 - (i & 7))) & 1) === 1) hash ^= (bits >> BigInt(total - 32 - i)) & 0xffffffffn;
  return Number(hash);
}

interface Fields {
  readonly version: 4 | 6;
  readonly extended: boolean;
  readonly plain: number[];
  readonly ex: number[];
  readonly protocol: number;
  /** Undefined for a fragment. */
  readonly rest: number[] | undefined;
}

function ip(bytes: number[]): Fields | undefined {
  const first = bytes[0] ?? 0;
  if (first >> 4 === 4) {
    const header = (first & 15) * 4;
    if (header < 20 || bytes.length < header) return undefined;
    const fragment = ((bytes[6] as number) & 0x3f) !== 0 || bytes[7] !== 0;
    const addresses = bytes.slice(12, 20);
    return { version: 4, extended: false, plain: addresses, ex: addresses, protocol: bytes[9] as number, rest: fragment ? undefined : bytes.slice(header) };
  }
  if (first >> 4 !== 6 || bytes.length < 40) return undefined;
  let source = bytes.slice(8, 24);
  let destination = bytes.slice(24, 40);
  const plain = [...source, ...destination];
  let next = bytes[6] as number;
  let rest: number[] | undefined = bytes.slice(40);
  let extended = false;
  while (rest !== undefined && [0, 43, 44, 51, 60, 135, 139, 140].includes(next)) {
    extended = true;
    if (rest.length < 8) return { version: 6, extended, plain, ex: [...source, ...destination], protocol: next, rest: undefined };
    const size: number = next === 44 ? 8 : next === 51 ? ((rest[1] as number) + 2) * 4 : ((rest[1] as number) + 1) * 8;
    const header: number[] = rest.slice(0, size);
    if (header.length < size) {
      rest = undefined;
      break;
    }
    const fragment: boolean = next === 44 && ((header[2] as number) !== 0 || ((header[3] as number) & 0xf9) !== 0);
    if (next === 43 && header[2] === 2 && size >= 24) destination = header.slice(8, 24);
    if (next === 60)
      for (let o = 2; o + 2 <= size; ) {
        if (header[o] === 0) o += 1;
        else {
          if (header[o] === 0xc9 && header[o + 1] === 16 && o + 18 <= size) {
            source = header.slice(o + 2, o + 18);
            break;
          }
          o += 2 + (header[o + 1] as number);
        }
      }
    next = header[0] as number;
    rest = fragment ? undefined : rest.slice(size);
  }
  return { version: 6, extended, plain, ex: [...source, ...destination], protocol: next, rest };
}

/** An Ethernet frame's type and what it carries, behind up to two VLAN tags. */
function ethernet(bytes: number[]): { type: number; rest: number[] } {
  let at = 12;
  for (let tags = 0; tags < 2 && at + 2 <= bytes.length; tags++) {
    const type = (bytes[at] as number) * 256 + (bytes[at + 1] as number);
    if (type !== 0x8100 && type !== 0x88a8) break;
    at += 4;
  }
  if (at + 2 > bytes.length) return { type: 0, rest: [] };
  return { type: (bytes[at] as number) * 256 + (bytes[at + 1] as number), rest: bytes.slice(at + 2) };
}

const typed = (type: number, bytes: number[]): Fields | undefined => {
  const fields = ip(bytes);
  return (type === 0x0800 && fields?.version === 4) || (type === 0x86dd && fields?.version === 6) ? fields : undefined;
};

/** Tunnel kinds of a packet and what it carries: bits 0 to 8 as virtio 1.4 numbers them. */
function tunnel(outer: Fields): { kinds: number; inner: Fields | undefined } | undefined {
  const { rest, protocol } = outer;
  if (rest === undefined) return undefined;
  const word = (at: number): number => (rest[at] as number) * 256 + (rest[at + 1] as number);
  const frame = (type: number, bytes: number[]): Fields | undefined => {
    if (type !== 0x6558) return typed(type, bytes);
    const inner = ethernet(bytes);
    return typed(inner.type, inner.rest);
  };
  const gre = (at: number): { kinds: number; inner: Fields | undefined } | undefined => {
    if (rest.length < at + 4) return undefined;
    const flags = word(at);
    if ((flags & 0x4000) !== 0 || (flags & 0x0c00) !== 0 || (flags & 7) !== 0) return undefined;
    const [c, k, s] = [flags & 0x8000, flags & 0x2000, flags & 0x1000];
    const type = word(at + 2);
    const size = 4 + (c ? 4 : 0) + (k ? 4 : 0) + (s ? 4 : 0);
    const kinds = (k || s ? 2 : 1) | (outer.version === 6 || type === 0x86dd ? 4 : 0) | (type === 0x6558 && k && !c && !s ? 256 : 0);
    return { kinds, inner: frame(type, rest.slice(at + size)) };
  };
  if (protocol === 47) return gre(0);
  if (protocol === 4 && outer.version === 4) return { kinds: 128, inner: typed(0x0800, rest) };
  if (protocol !== 17 || rest.length < 8) return undefined;
  const port = word(2);
  if (port === 4754) {
    const found = gre(8);
    return found && { ...found, kinds: 8 };
  }
  if (![4789, 4790, 6081].includes(port) || rest.length < 16) return undefined;
  const flags = rest[8] as number;
  if (port === 4789) return flags & 8 ? { kinds: 16, inner: frame(0x6558, rest.slice(16)) } : undefined;
  if (port === 4790) {
    if (flags & 0x30) return undefined;
    const type = flags & 4 ? ([0, 0x0800, 0x86dd, 0x6558][rest[11] as number] ?? 0) : 0x6558;
    return { kinds: 32, inner: frame(type, rest.slice(16)) };
  }
  return flags >> 6 === 0 ? { kinds: 64, inner: frame(word(10), rest.slice(16 + (flags & 63) * 4)) } : undefined;
}

/** What a device should say of a frame: [hash, report], [0, 0] when it has no hash. `types` and `tunnels` are the specification's masks. */
export function expectedHash(frame: Uint8Array, key: Uint8Array, types: number, tunnels = 0): [hash: number, report: number] {
  const { type, rest } = ethernet([...frame]);
  let fields = typed(type, rest);
  if (fields === undefined) return [0, 0];
  const found = tunnels === 0 ? undefined : tunnel(fields);
  if (found !== undefined && (found.kinds & tunnels) !== 0) fields = found.inner;
  if (fields === undefined) return [0, 0];
  const { version, extended, plain, ex, protocol, rest: upper } = fields;
  const ports = upper !== undefined && ((protocol === 6 && upper.length >= 20) || (protocol === 17 && upper.length >= 8)) ? upper.slice(0, 4) : undefined;
  const tries: [bit: number, applies: boolean, input: number[]][] = [];
  const kinds = (first: number, addresses: number[], all: boolean): void => {
    tries.push([first + 1, all && protocol === 6 && ports !== undefined, [...addresses, ...(ports ?? [])]]);
    tries.push([first + 2, all && protocol === 17 && ports !== undefined, [...addresses, ...(ports ?? [])]]);
    tries.push([first, all, addresses]);
  };
  if (version === 4) kinds(0, plain, true);
  else {
    kinds(6, ex, extended);
    kinds(3, plain, true);
  }
  for (const [bit, applies, input] of tries) if (applies && (types >> bit) & 1) return [toeplitz(key, input), bit + 1];
  return [0, 0];
}
