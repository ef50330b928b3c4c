// Whether a received frame is what its header says (virtio 1.4 5.1.9.4): offsets that meet the headers in the bytes, seeded checksums where one is to be
// filled in, right ones where the device vouches, and, for large frames, pieces that would hold. For workloads that check everything.

import { CHECKSUM_PARTIAL, CHECKSUM_VALID, type ReceivedFrame } from './net-receive.ts';
import { checksumsHold, fold, get16, Headers, PROTOCOL_TCP, PROTOCOL_UDP } from './packets.ts';
import { pseudoSum, Segmenter, type SegmentPlan } from './segment.ts';
import { NET_GSO_NONE, NET_GSO_TCPV4, NET_GSO_TCPV6, NET_GSO_UDP } from './virtio-constants.ts';

export class ReceivedCheck {
  readonly #headers = new Headers();
  readonly #inner = new Headers();
  readonly #segmenter = new Segmenter();

  /** What is wrong with the frame whose bytes lie at `at` in one piece; '' when nothing is. */
  check(u8: Uint8Array, at: number, frame: ReceivedFrame): string {
    const h = this.#headers;
    const { length } = frame;
    if (frame.checksum !== CHECKSUM_PARTIAL && frame.gsoType !== NET_GSO_NONE && frame.coalescedSegments === 0)
      return 'a large frame without a checksum to fill in';
    if (!h.parse(u8, at, length)) return frame.checksum === CHECKSUM_PARTIAL ? 'a checksum to fill in of no IP packet' : '';
    if (frame.tunnel !== 0) return this.#tunnel(u8, at, frame);
    if (frame.checksum === CHECKSUM_PARTIAL && frame.csumStart !== 0) {
      if (frame.gsoType === NET_GSO_NONE && frame.csumStart > h.transport + 8) return this.#innerPacket(u8, at, frame);
      if (frame.csumStart !== h.transport || frame.csumOffset !== h.checksumOffset) return `a checksum to fill in at ${frame.csumStart} + ${frame.csumOffset}`;
      if (!seeded(u8, at, h.network, h.transport, h.checksumOffset, h.protocol, h.end)) return 'a checksum to fill in without the pseudo header in it';
    } else if (frame.checksum === CHECKSUM_VALID && !checksumsHold(u8, at, h)) return 'a wrong checksum the device vouched for';
    if (frame.gsoType === NET_GSO_NONE) return '';
    const tcp = frame.gsoType === NET_GSO_TCPV4 || frame.gsoType === NET_GSO_TCPV6;
    if (h.protocol !== (tcp ? PROTOCOL_TCP : PROTOCOL_UDP)) return `a frame of protocol ${h.protocol} to be cut as type ${frame.gsoType}`;
    if (tcp && h.version !== (frame.gsoType === NET_GSO_TCPV4 ? 4 : 6)) return `an IPv${h.version} frame to be cut as type ${frame.gsoType}`;
    return this.#pieces(u8, at, frame, {
      ...common(frame),
      network: h.network,
      transport: h.transport,
      payload: h.payload,
      outerNetwork: 0,
      outerTransport: 0,
    });
  }

  /** An encapsulated packet that is not to be cut: nothing says where it begins, but the IP header before the checksum's start does (5.1.9.4: any place may be meant). */
  #innerPacket(u8: Uint8Array, at: number, frame: ReceivedFrame): string {
    const { csumStart, csumOffset, length } = frame;
    const protocol = csumOffset === 16 ? PROTOCOL_TCP : PROTOCOL_UDP;
    for (const [version, size] of [
      [4, 20],
      [6, 40],
    ] as const) {
      const ip = csumStart - size;
      if (ip < 14 || (u8[at + ip] as number) >>> 4 !== version || u8[at + ip + (version === 4 ? 9 : 6)] !== protocol) continue;
      return seeded(u8, at, ip, csumStart, csumOffset, protocol, length) ? '' : 'an inner checksum to fill in without the pseudo header in it';
    }
    return `a checksum to fill in at ${csumStart} + ${csumOffset}, behind no IP header`;
  }

  #tunnel(u8: Uint8Array, at: number, frame: ReceivedFrame): string {
    const h = this.#headers;
    const { innerNetwork, outerTransport, csumStart, length } = frame;
    if (h.protocol !== PROTOCOL_UDP || h.transport !== outerTransport)
      return `an outer transport header at ${outerTransport} where ${h.transport} has protocol ${h.protocol}`;
    const version = (u8[at + innerNetwork] as number) >>> 4;
    if (version !== frame.tunnel) return `an inner packet of version ${version} announced as ${frame.tunnel}`;
    // The inner packet under a made-up Ethernet header, so that one parser does for both.
    const inner = this.#inner;
    const shell = new Uint8Array(14 + length - innerNetwork);
    shell[12] = version === 4 ? 0x08 : 0x86;
    shell[13] = version === 4 ? 0x00 : 0xdd;
    shell.set(u8.subarray(at + innerNetwork, at + length), 14);
    const shift = innerNetwork - 14;
    if (!inner.parse(shell, 0, shell.length)) return 'an inner packet that is none';
    if (inner.transport + shift !== csumStart || inner.checksumOffset !== frame.csumOffset)
      return `an inner checksum to fill in at ${csumStart} + ${frame.csumOffset}`;
    if (!seeded(shell, 0, 14, inner.transport, inner.checksumOffset, inner.protocol, inner.end))
      return 'an inner checksum to fill in without the pseudo header in it';
    if (frame.tunnelChecksum && !seeded(u8, at, h.network, outerTransport, 6, PROTOCOL_UDP, h.end))
      return 'an outer checksum to fill in without the pseudo header in it';
    return this.#pieces(u8, at, frame, {
      ...common(frame),
      network: innerNetwork,
      transport: csumStart,
      payload: inner.payload + shift,
      outerNetwork: h.network,
      outerTransport,
    });
  }

  #pieces(u8: Uint8Array, at: number, frame: ReceivedFrame, plan: SegmentPlan): string {
    let wrong = '';
    const h = this.#inner;
    const whole = frame.length - plan.payload;
    const pieces = this.#segmenter.cut(u8, at, frame.length, plan, (out, from, length) => {
      // RFC 6935: a tunnel's outer UDP checksum may be 0 over IPv6 too.
      const bare = plan.outerTransport > 0 && get16(out, from + plan.outerTransport + 6) === 0;
      if (wrong === '' && (!h.parse(out, from, length) || !(bare || checksumsHold(out, from, h)))) wrong = `a piece of ${length} bytes that does not hold`;
    });
    if (wrong !== '' || plan.gsoType === NET_GSO_UDP) return wrong;
    const expected = Math.ceil(whole / plan.gsoSize);
    return pieces === expected ? '' : `${pieces} pieces in place of ${expected}`;
  }
}

function common(frame: ReceivedFrame): { gsoType: number; gsoSize: number } {
  return { gsoType: frame.gsoType, gsoSize: frame.gsoSize };
}

function seeded(u8: Uint8Array, at: number, network: number, transport: number, field: number, protocol: number, end: number): boolean {
  return get16(u8, at + transport + field) === fold(pseudoSum(u8, at + network, protocol, end - transport));
}
