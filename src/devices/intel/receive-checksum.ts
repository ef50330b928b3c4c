// Receive checksum offload (8254x 3.2.9, 13.5.7): the sum over the whole frame, and whether its IP header and its TCP or UDP checksum hold. Works on a frame where it lies; only headers are copied.

import { type ByteViews, viewsOf } from '#core/guest-memory';
import { fold, pseudoHeaderSum, sumBytes, sumSegments, swap16 } from '#net/checksum';
import { FrameHeaders, gatherHeader, HEADER_LIMIT, PROTOCOL_TCP, PROTOCOL_UDP, parseHeaders } from '#net/headers';
import type { FrameBatch } from '#net/port';

/** Status and error bits, as in the receive descriptor. */
export const STATUS_IXSM = 1 << 2;
const STATUS_TCPCS = 1 << 5;
const STATUS_IPCS = 1 << 6;
const ERROR_TCPE = 1 << 13;
const ERROR_IPE = 1 << 14;

/** What a check of either found. */
export const STATUS_CHECKED_IP = { good: STATUS_IPCS, bad: STATUS_IPCS | ERROR_IPE } as const;
export const STATUS_CHECKED_TRANSPORT = { good: STATUS_TCPCS, bad: STATUS_TCPCS | ERROR_TCPE } as const;

export const RXCSUM_IPOFL = 1 << 8;
export const RXCSUM_TUOFL = 1 << 9;
const RXCSUM_IPV6OFL = 1 << 10;

const ALL_ONES = 0xffff;

export class ReceiveChecksum {
  /** RXCSUM. */
  control = 0;
  readonly #scratch = viewsOf(new ArrayBuffer(HEADER_LIMIT));
  readonly #headers = new FrameHeaders();

  /** Bits for the descriptor's last word: status, and errors above it. IXSM: nothing was checked. */
  status(batch: FrameBatch, frame: number): number {
    const { control } = this;
    if ((control & (RXCSUM_IPOFL | RXCSUM_TUOFL)) === 0) return STATUS_IXSM;
    const headers = this.#headers;
    const { u8 } = this.#scratch;
    const copied = gatherHeader(batch, frame, u8, 0, HEADER_LIMIT);
    const whole = parseHeaders(u8, copied, headers);
    if (headers.version === 0) return STATUS_IXSM;
    let bits = 0;
    if (headers.version === 4 && (control & RXCSUM_IPOFL) !== 0) {
      const length = headers.transport - headers.network;
      bits |= sumBytes(this.#scratch, headers.network, length) === ALL_ONES ? STATUS_CHECKED_IP.good : STATUS_CHECKED_IP.bad;
    }
    const checks = (control & RXCSUM_TUOFL) !== 0 && (headers.version === 4 || (control & RXCSUM_IPV6OFL) !== 0);
    if (checks && whole && !headers.fragment && !headers.routed) {
      const result = checkTransport(this.#scratch, headers, batch, frame);
      if (result !== UNCHECKED) bits |= result === GOOD ? STATUS_CHECKED_TRANSPORT.good : STATUS_CHECKED_TRANSPORT.bad;
    }
    return bits === 0 ? STATUS_IXSM : bits;
  }
}

/** Results of `checkTransport`. */
export const UNCHECKED = 0;
const GOOD = 1;
export const BAD = 2;

/** Whether the TCP or UDP checksum of an unfragmented packet holds, whose headers were copied and read. @param copied the frame's first bytes */
export function checkTransport(copied: ByteViews, headers: FrameHeaders, batch: FrameBatch, frame: number): number {
  const { u8 } = copied;
  const { network, transport, version, protocol } = headers;
  if (protocol !== PROTOCOL_TCP && protocol !== PROTOCOL_UDP) return UNCHECKED;
  const end = ipEnd(u8, headers);
  // A length beyond the frame, or short of its own header, is checked by nobody (CVE-2016-2857).
  if (end > (batch.length[frame] as number) || end < headers.payload) return UNCHECKED;
  if (protocol === PROTOCOL_UDP && read16(u8, transport + 6) === 0) return UNCHECKED;
  const length = end - transport;
  const sum = pseudoHeaderSum(copied, network, version, protocol) + swap16(length & 0xffff);
  const total = fold(sum + sumSegments(batch.segments, batch.firstSegment[frame] as number, transport, length));
  return total === ALL_ONES ? GOOD : BAD;
}

/** Where the IP packet ends by its own word. */
export function ipEnd(bytes: Uint8Array, { network, version }: FrameHeaders): number {
  return version === 4 ? network + read16(bytes, network + 2) : network + 40 + read16(bytes, network + 4);
}

/** The Packet Checksum field: the ones' complement of the ones' complement sum, in network order as a number (docs/e1000.md, declared readings). */
export function packetChecksum(sum: number): number {
  return ~swap16(sum) & 0xffff;
}

function read16(bytes: Uint8Array, at: number): number {
  return ((bytes[at] as number) << 8) | (bytes[at + 1] as number);
}
