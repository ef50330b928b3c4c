// Just enough of Ethernet, IP, TCP and UDP for a guest's stack: where the headers are, and the Internet checksum (RFC 1071). Written for the guest
// alone, so that what the devices' side computes is checked by other code.

export const ETHERTYPE_IPV4 = 0x0800;
const ETHERTYPE_IPV6 = 0x86dd;
const PROTOCOL_ICMP = 1;
export const PROTOCOL_TCP = 6;
export const PROTOCOL_UDP = 17;
const PROTOCOL_ICMPV6 = 58;

/** A parsed frame; offsets count from the frame's start. Reused by callers. */
export class Headers {
  etherType = 0;
  network = 0;
  /** 4, 6, or 0 for neither. */
  version = 0;
  protocol = 0;
  /** Start of the transport header; 0 when there is none here (a later fragment, another protocol). */
  transport = 0;
  /** Start of the transport payload. */
  payload = 0;
  /** End of the IP packet: padding lies behind it. */
  end = 0;
  fragment = false;

  /** Parses `length` bytes at `at`. False: not an IP packet this understands, or one cut short. */
  parse(u8: Uint8Array, at: number, length: number): boolean {
    this.version = 0;
    this.transport = 0;
    this.payload = 0;
    this.protocol = 0;
    this.fragment = false;
    this.end = length;
    let network = 14;
    if (length < 14) return false;
    let type = ((u8[at + 12] as number) << 8) | (u8[at + 13] as number);
    for (let tags = 0; (type === 0x8100 || type === 0x88a8) && tags < 2 && length >= network + 4; tags++) {
      type = ((u8[at + network + 2] as number) << 8) | (u8[at + network + 3] as number);
      network += 4;
    }
    this.etherType = type;
    this.network = network;
    if (type === ETHERTYPE_IPV4) return this.#parse4(u8, at, length);
    if (type === ETHERTYPE_IPV6) return this.#parse6(u8, at, length);
    return false;
  }

  #parse4(u8: Uint8Array, at: number, length: number): boolean {
    const ip = at + this.network;
    if (length < this.network + 20 || (u8[ip] as number) >> 4 !== 4) return false;
    const headerLength = ((u8[ip] as number) & 15) * 4;
    const total = ((u8[ip + 2] as number) << 8) | (u8[ip + 3] as number);
    if (headerLength < 20 || total < headerLength || this.network + total > length) return false;
    this.version = 4;
    this.protocol = u8[ip + 9] as number;
    this.end = this.network + total;
    const fragment = (((u8[ip + 6] as number) << 8) | (u8[ip + 7] as number)) & 0x3fff;
    this.fragment = fragment !== 0;
    return this.fragment || this.#transport(u8, at, this.network + headerLength);
  }

  #parse6(u8: Uint8Array, at: number, length: number): boolean {
    const ip = at + this.network;
    if (length < this.network + 40 || (u8[ip] as number) >> 4 !== 6) return false;
    const total = 40 + (((u8[ip + 4] as number) << 8) | (u8[ip + 5] as number));
    if (this.network + total > length) return false;
    this.version = 6;
    this.end = this.network + total;
    let next = u8[ip + 6] as number;
    let header = this.network + 40;
    // Hop-by-hop, routing, destination options: 8 bytes and more each, so this ends.
    while ((next === 0 || next === 43 || next === 60) && header + 8 <= this.end) {
      next = u8[at + header] as number;
      header += 8 + (u8[at + header + 1] as number) * 8;
    }
    this.protocol = next;
    this.fragment = next === 44;
    return this.fragment || this.#transport(u8, at, header);
  }

  #transport(u8: Uint8Array, at: number, start: number): boolean {
    let size = 0;
    if (this.protocol === PROTOCOL_TCP) size = start + 20 <= this.end ? ((u8[at + start + 12] as number) >> 4) * 4 : -1;
    else if (this.protocol === PROTOCOL_UDP || this.protocol === PROTOCOL_ICMP || this.protocol === PROTOCOL_ICMPV6) size = 8;
    else return true;
    if (size < 8 || (this.protocol === PROTOCOL_TCP && size < 20) || start + size > this.end) return false;
    this.transport = start;
    this.payload = start + size;
    return true;
  }

  /** Where the transport checksum lies within the transport header, or -1. */
  get checksumOffset(): number {
    if (this.transport === 0) return -1;
    return this.protocol === PROTOCOL_TCP ? 16 : this.protocol === PROTOCOL_UDP ? 6 : 2;
  }
}

/** Ones'-complement sum of 16-bit big-endian words, not yet folded to 16 bits. */
export function sumBytes(u8: Uint8Array, start: number, length: number, sum = 0): number {
  const end = start + (length & ~1);
  for (let i = start; i < end; i += 2) sum += ((u8[i] as number) << 8) | (u8[i + 1] as number);
  if ((length & 1) !== 0) sum += (u8[end] as number) << 8;
  return sum;
}

export function fold(sum: number): number {
  // A 64 KiB packet's sum stays below 2^31.
  let folded = (sum & 0xffff) + (sum >>> 16);
  folded = (folded & 0xffff) + (folded >>> 16);
  return folded;
}

/** Sum over the pseudo header of the frame at `at`, for a transport header and payload of `length` bytes. Unfolded. */
export function pseudoHeaderSum(u8: Uint8Array, at: number, h: Headers, length: number): number {
  const ip = at + h.network;
  const addresses = h.version === 4 ? sumBytes(u8, ip + 12, 8) : sumBytes(u8, ip + 8, 32);
  return addresses + h.protocol + (length >>> 16) + (length & 0xffff);
}

export function get16(u8: Uint8Array, at: number): number {
  return ((u8[at] as number) << 8) | (u8[at + 1] as number);
}

export function set16(u8: Uint8Array, at: number, value: number): void {
  u8[at] = value >>> 8;
  u8[at + 1] = value;
}

export function get32(u8: Uint8Array, at: number): number {
  return (get16(u8, at) * 65536 + get16(u8, at + 2)) >>> 0;
}

export function set32(u8: Uint8Array, at: number, value: number): void {
  set16(u8, at, (value >>> 16) & 0xffff);
  set16(u8, at + 2, value & 0xffff);
}

/** IP header and transport checksums of the frame at `at` hold. True for what carries none (fragments, other protocols, UDP with 0). */
export function checksumsHold(u8: Uint8Array, at: number, h: Headers): boolean {
  if (h.version === 4) {
    const headerLength = ((u8[at + h.network] as number) & 15) * 4;
    if (fold(sumBytes(u8, at + h.network, headerLength)) !== 0xffff) return false;
  }
  if (h.version === 0 || h.fragment || h.transport === 0) return true;
  const length = h.end - h.transport;
  const field = at + h.transport + h.checksumOffset;
  if (h.protocol === PROTOCOL_UDP && get16(u8, field) === 0) return h.version === 4;
  const pseudo = h.protocol === PROTOCOL_ICMP ? 0 : pseudoHeaderSum(u8, at, h, length);
  return fold(sumBytes(u8, at + h.transport, length, pseudo)) === 0xffff;
}

/** The transport checksum the frame at `at` should carry, computed over the bytes with the field taken as zero. */
export function transportChecksum(u8: Uint8Array, at: number, h: Headers): number {
  const field = at + h.transport + h.checksumOffset;
  const length = h.end - h.transport;
  const pseudo = h.protocol === PROTOCOL_ICMP ? 0 : pseudoHeaderSum(u8, at, h, length);
  const sum = fold(sumBytes(u8, at + h.transport, length, pseudo) - get16(u8, field));
  const value = ~sum & 0xffff;
  return value === 0 && h.protocol === PROTOCOL_UDP ? 0xffff : value;
}

/** The transport checksum field holds the pseudo header's sum only: a frame recorded on its way to a device that was to fill it in. */
export function checksumUnfilled(u8: Uint8Array, at: number, h: Headers): boolean {
  if (h.version === 0 || h.fragment || h.transport === 0 || (h.protocol !== PROTOCOL_TCP && h.protocol !== PROTOCOL_UDP)) return false;
  const length = h.end - h.transport;
  return get16(u8, at + h.transport + h.checksumOffset) === fold(pseudoHeaderSum(u8, at, h, length)) && !checksumsHold(u8, at, h);
}
