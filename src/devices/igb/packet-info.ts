// What the 82576 finds out about a frame it receives (82576 7.1.6.2, 7.1.11): its packet type, how long its headers are, whether its checksums hold. Headers are copied once and read there; payload is summed where it lies.

import { copyBytes } from '#core/copy';
import { type ByteViews, viewsOf } from '#core/guest-memory';
import { BAD, checkTransport, ipEnd, UNCHECKED } from '#devices/intel/receive-checksum';
import { fold, sumBytes, sumSegments } from '#net/checksum';
import { crc32c, crcSegments } from '#net/frame-check';
import { FrameHeaders, gatherHeader, HEADER_LIMIT, PROTOCOL_TCP, PROTOCOL_UDP, parseHeaders } from '#net/headers';
import type { FrameBatch } from '#net/port';

export const PROTOCOL_SCTP = 132;
const PROTOCOL_ESP = 50;
const PROTOCOL_AH = 51;
/** NFS over TCP or UDP is known by its port (7.1.6.2). */
export const NFS_PORT = 2049;

/** Packet type, bits 15:4 of an advanced descriptor's first word. */
export const TYPE_IPV4 = 1 << 4;
const TYPE_IPV4E = 1 << 5;
const TYPE_IPV6 = 1 << 6;
const TYPE_IPV6E = 1 << 7;
export const TYPE_TCP = 1 << 8;
export const TYPE_UDP = 1 << 9;
const TYPE_SCTP = 1 << 10;
const TYPE_NFS = 1 << 11;
const TYPE_ESP = 1 << 12;
const TYPE_AH = 1 << 13;
export const TYPE_ETQF = 1 << 15;

/** Extended status and errors, bits of an advanced descriptor's third word. A legacy one has the first eight, and the errors from bit 8 on (`legacyErrors`). */
export const STATUS_UDPCS = 1 << 4;
export const STATUS_L4CS = 1 << 5;
export const STATUS_IPCS = 1 << 6;
const STATUS_UDPV = 1 << 10;
export const ERROR_L4E = 1 << 29;
export const ERROR_IPE = 1 << 30;

export const ENABLE_IP = 1 << 8;
export const ENABLE_TRANSPORT = 1 << 9;
const ENABLE_SCTP = 1 << 11;

const SCTP_CHECKSUM = 8;
const SCTP_HEADER = 12;
const ALL_ONES = 0xffff;

export class PacketInfo {
  /** RXCSUM. */
  control = 0;
  readonly headers = new FrameHeaders();
  readonly copied = viewsOf(new ArrayBuffer(HEADER_LIMIT));
  held = 0;
  /** The headers up to TCP or UDP are all there. */
  whole = false;
  type = 0;
  /** TCP flags, -1: no TCP header. */
  tcpFlags = -1;
  sourcePort = -1;
  destinationPort = -1;
  nfs = false;

  /** Reads the frame's headers. */
  read(batch: FrameBatch, frame: number): void {
    const { headers } = this;
    const { u8 } = this.copied;
    this.held = this.#gather(batch, frame);
    this.whole = parseHeaders(u8, this.held, headers);
    this.type = 0;
    this.tcpFlags = -1;
    this.sourcePort = -1;
    this.destinationPort = -1;
    this.nfs = false;
    const { version, network, transport, protocol } = headers;
    if (version === 0) return;
    if (version === 4) this.type = TYPE_IPV4 | (transport - network > 20 ? TYPE_IPV4E : 0);
    else this.type = TYPE_IPV6 | (transport - network > 40 ? TYPE_IPV6E : 0);
    if (headers.fragment) return;
    if (protocol === PROTOCOL_ESP) this.type |= TYPE_ESP;
    else if (protocol === PROTOCOL_AH) this.type |= TYPE_AH;
    else if (protocol === PROTOCOL_SCTP && this.held >= transport + SCTP_HEADER) {
      this.type |= TYPE_SCTP;
      this.#ports(transport);
    }
    if (!this.whole || headers.payload === 0) return;
    this.#ports(transport);
    this.nfs = this.destinationPort === NFS_PORT || this.sourcePort === NFS_PORT;
    this.type |= (protocol === PROTOCOL_TCP ? TYPE_TCP : TYPE_UDP) | (this.nfs ? TYPE_NFS : 0);
    if (protocol === PROTOCOL_TCP) this.tcpFlags = u8[transport + 13] as number;
  }

  /** Copies the frame's first bytes, a word at a time where they lie in one piece. */
  #gather(batch: FrameBatch, frame: number): number {
    const { segments } = batch;
    const first = batch.firstSegment[frame] as number;
    if (batch.segmentCount[frame] !== 1) return gatherHeader(batch, frame, this.copied.u8, 0, HEADER_LIMIT);
    const run = Math.min(segments.length[first] as number, HEADER_LIMIT);
    copyBytes(this.copied, 0, segments.views[first] as ByteViews, segments.offset[first] as number, run);
    return run;
  }

  #ports(transport: number): void {
    const { u8 } = this.copied;
    this.sourcePort = read16(u8, transport);
    this.destinationPort = read16(u8, transport + 2);
  }

  /** What is known of its checksums: status and error bits (7.1.11). */
  checksums(batch: FrameBatch, frame: number): number {
    const { control, headers } = this;
    const { version, network, transport, protocol } = headers;
    if (version === 0) return 0;
    let bits = 0;
    if (version === 4 && (control & ENABLE_IP) !== 0 && this.held >= transport) {
      bits |= STATUS_IPCS;
      if (sumBytes(this.copied, network, transport - network) !== ALL_ONES) bits |= ERROR_IPE;
    }
    if ((control & ENABLE_TRANSPORT) === 0 || !this.whole || headers.fragment || headers.routed) return bits;
    if (protocol === PROTOCOL_SCTP) return bits | ((control & ENABLE_SCTP) !== 0 ? this.#sctp(batch, frame) : 0);
    const result = checkTransport(this.copied, headers, batch, frame);
    if (result === UNCHECKED) return bits;
    return bits | STATUS_L4CS | (protocol === PROTOCOL_UDP ? STATUS_UDPCS : 0) | (result === BAD ? ERROR_L4E : 0);
  }

  #sctp(batch: FrameBatch, frame: number): number {
    const { headers, copied } = this;
    const { transport } = headers;
    const end = ipEnd(copied.u8, headers);
    if (end > (batch.length[frame] as number) || end < transport + SCTP_HEADER || this.held < transport + SCTP_HEADER) return 0;
    const at = transport + SCTP_CHECKSUM;
    const carried =
      ((copied.u8[at] as number) | ((copied.u8[at + 1] as number) << 8) | ((copied.u8[at + 2] as number) << 16) | ((copied.u8[at + 3] as number) << 24)) >>> 0;
    // The field counts as zero.
    copied.u8.fill(0, at, at + 4);
    const near = Math.min(end, this.held);
    const begun = crc32c(copied.u8, transport, near - transport);
    const crc = crcSegments(batch.segments, batch.firstSegment[frame] as number, end - near, { from: near, crc: begun, over: crc32c });
    return STATUS_L4CS | (crc === carried ? 0 : ERROR_L4E);
  }

  /** IP identification and the sum over a fragment's payload: the second word where RXCSUM.PCSD is clear and IPPCSE set (7.1.11.2). UDPV goes to the status. */
  fragmentWord(batch: FrameBatch, frame: number): number {
    const { headers, copied } = this;
    if (headers.version !== 4) return 0;
    const { network, transport } = headers;
    const id = read16(copied.u8, network + 4);
    if (!headers.fragment) return id;
    const end = Math.min(ipEnd(copied.u8, headers), batch.length[frame] as number);
    const sum = end > transport ? fold(sumSegments(batch.segments, batch.firstSegment[frame] as number, transport, end - transport)) : 0;
    return ((sum << 16) | id) >>> 0;
  }

  /** A UDP packet's first fragment whose sender made a checksum. */
  get udpValid(): number {
    const { headers, copied, held } = this;
    if (headers.version !== 4 || !headers.fragment || headers.protocol !== PROTOCOL_UDP || held < headers.transport + 8) return 0;
    const first = (read16(copied.u8, headers.network + 6) & 0x1fff) === 0;
    return first && read16(copied.u8, headers.transport + 6) !== 0 ? STATUS_UDPV : 0;
  }

  /**
   * How much of the frame is headers, by what PSRTYPE wants told apart: to the end of TCP or UDP, of a fragment to the end of IP (before an IPv6 fragment header), or Ethernet alone; 0: it is not split. What is NFS is none of
   * these, and NFS headers are not known here.
   */
  headerLength(types: number): number {
    const { headers, whole, type } = this;
    const { version, transport, protocol, fragment } = headers;
    if (version !== 0) {
      const shift = version === 4 ? 0 : 6;
      if (fragment) {
        if ((types & (2 << shift)) !== 0 && this.held >= transport) return version === 4 ? transport : headers.fragmentable;
      } else if (whole && (type & (TYPE_TCP | TYPE_UDP)) !== 0 && !this.nfs) {
        if ((types & ((protocol === PROTOCOL_TCP ? 4 : 8) << shift)) !== 0) return headers.payload;
      }
    }
    return (types & 1) !== 0 && headers.network > 0 ? headers.network : 0;
  }
}

function read16(bytes: Uint8Array, at: number): number {
  return ((bytes[at] as number) << 8) | (bytes[at + 1] as number);
}
