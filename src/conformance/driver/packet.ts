// Headers of a frame, as a judge of drivers reads them: Ethernet with VLAN tags, IPv4, IPv6 with extension headers, TCP and UDP, checksums. Small on purpose, and its own reading.

export const TCP = 6;
export const UDP = 17;

export interface PacketHeaders {
  readonly version: 4 | 6;
  readonly network: number;
  readonly protocol: number;
  readonly transport: number;
  /** Behind the TCP or UDP header. */
  readonly payload: number;
  /** A piece of a datagram: its transport checksum covers more than what is here. */
  readonly fragment: boolean;
  /** End of the packet as its IP header says. */
  readonly end: number;
}

const TAGS: readonly number[] = [0x8100, 0x88a8];

function be16(bytes: Uint8Array, at: number): number {
  return ((bytes[at] ?? 0) << 8) | (bytes[at + 1] ?? 0);
}

export { be16 };

/** Ethernet type behind any VLAN tags, and where what it says begins. */
export function etherType(frame: Uint8Array): { readonly type: number; readonly at: number } {
  let at = 12;
  while (TAGS.includes(be16(frame, at)) && at < 24) at += 4;
  return { type: be16(frame, at), at: at + 2 };
}

/** undefined: no IP packet, or one that is cut short. */
export function parseFrame(frame: Uint8Array): PacketHeaders | undefined {
  const { type, at } = etherType(frame);
  return type === 0x0800 || type === 0x86dd ? parsePacket(frame, at) : undefined;
}

export function parsePacket(bytes: Uint8Array, network: number): PacketHeaders | undefined {
  const version = (bytes[network] ?? 0) >>> 4;
  let protocol = 0;
  let transport = 0;
  let fragment = false;
  let end = 0;
  if (version === 4) {
    transport = network + 4 * ((bytes[network] as number) & 15);
    protocol = bytes[network + 9] ?? 0;
    fragment = (be16(bytes, network + 6) & 0x3fff) !== 0;
    end = network + be16(bytes, network + 2);
  } else if (version === 6) {
    transport = network + 40;
    protocol = bytes[network + 6] ?? 0;
    end = transport + be16(bytes, network + 4);
    for (let n = 0; n < 8 && [0, 43, 44, 60].includes(protocol); n++) {
      if (protocol === 44) fragment = true;
      const length = protocol === 44 ? 8 : 8 * (1 + (bytes[transport + 1] ?? 0));
      protocol = bytes[transport] ?? 59;
      transport += length;
    }
  } else return undefined;
  const payload = transport + (protocol === TCP ? 4 * ((bytes[transport + 12] ?? 0) >>> 4) : protocol === UDP ? 8 : 0);
  if (payload > bytes.length || transport < network + 20) return undefined;
  return { version, network, protocol, transport, payload, fragment, end };
}

/** Ones' complement sum of a stretch of bytes. */
export function sum(bytes: Uint8Array, from: number, to: number, start = 0): number {
  let total = start;
  for (let at = from; at < to; at += 2) total += ((bytes[at] as number) << 8) | (at + 1 < to ? (bytes[at + 1] as number) : 0);
  while (total > 0xffff) total = (total & 0xffff) + Math.floor(total / 0x10000);
  return total;
}

/** Sum of the pseudo header for `length` bytes of transport. */
export function pseudo(bytes: Uint8Array, h: PacketHeaders, length: number): number {
  const [from, to] = h.version === 4 ? [h.network + 12, h.network + 20] : [h.network + 8, h.network + 40];
  return sum(bytes, from, to, h.protocol + (length >>> 16) + (length & 0xffff));
}

/** Whether the transport checksum is right, or none is said to be there. */
export function transportHolds(bytes: Uint8Array, h: PacketHeaders): boolean {
  if (h.fragment || (h.protocol !== TCP && h.protocol !== UDP) || h.end > bytes.length) return true;
  if (h.protocol === UDP && be16(bytes, h.transport + 6) === 0) return true;
  return sum(bytes, h.transport, h.end, pseudo(bytes, h, h.end - h.transport)) === 0xffff;
}

/** Whether an IPv4 header's own checksum is right. */
export function networkHolds(bytes: Uint8Array, h: PacketHeaders): boolean {
  return h.version === 6 || sum(bytes, h.network, h.network + 4 * ((bytes[h.network] as number) & 15)) === 0xffff;
}
