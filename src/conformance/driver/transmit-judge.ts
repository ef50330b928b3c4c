// Frames to be sent, as they lie in the driver's buffers (virtio 1.4 5.1.9.2.1): struct virtio_net_hdr against what was negotiated, and against the frame behind it.

import { GSO, HDR, type NetHeader, parseHeader } from '../layout.ts';
import type { NetState } from './judge.ts';
import { be16, etherType, networkHolds, type PacketHeaders, parseFrame, parsePacket, pseudo, sum, TCP, transportHolds, UDP } from './packet.ts';
import { type Chain, gather } from './view.ts';

/** More than any frame with its header. */
const MOST = 66_000;
const TUNNEL = GSO.TUNNEL_V4 | GSO.TUNNEL_V6;
const DEFAULT_MTU = 1500;
/** Ethernet header and one tag. */
const LINK_BYTES = 18;
/** What is known to follow a station's addresses: a length, IP, ARP, RARP, tags, LLDP and EAPOL, and the two for experiments. */
const KNOWN_TYPES: readonly number[] = [0x0800, 0x0806, 0x8035, 0x8100, 0x86dd, 0x88a8, 0x888e, 0x88b5, 0x88b6, 0x88cc];

export class TransmitJudge {
  readonly #net: NetState;

  constructor(net: NetState) {
    this.#net = net;
  }

  frame(queue: number, chain: Chain): void {
    const net = this.#net;
    const { findings, headerSize } = net;
    if (net.has('MQ') || net.has('RSS')) {
      // Clause 11 is about the time before the command, 12 about what it left out.
      findings.that(
        net.pairs === 1 ? 'net-mq.11' : 'net-mq.12',
        `frame on transmit queue ${queue}`,
        queue < 2 * net.pairs,
        `among the ${net.pairs} in use`,
        queue,
      );
    }
    const bytes = gather(net.memory, chain, false, MOST);
    const whole = bytes.length >= headerSize + 14;
    findings.that('net-tx.4', `queue ${queue}: bytes of a header and a frame`, whole, `the header's ${headerSize} and a frame`, bytes.length);
    if (!whole) return;
    const header = parseHeader(bytes, headerSize);
    const frame = bytes.subarray(headerSize);
    this.#size(queue, frame);
    this.#fields(header);
    if (header.gsoType === GSO.NONE) this.#plain(header, frame);
    else if ((header.gsoType & TUNNEL) !== 0) this.#tunnel(header, frame);
    else this.#segmented(header, frame, parseFrame(frame));
  }

  /** A header of another size than it should be shows in what then stands where the frame begins. */
  #size(queue: number, frame: Uint8Array): void {
    const { type } = etherType(frame);
    const sound = (type >= 3 && type <= 1500) || KNOWN_TYPES.includes(type);
    // A type nobody knows here says nothing, if the frame comes from the driver's own address.
    const own = this.#net.mac.every((byte, i) => byte === frame[6 + i]);
    if (!sound && type > 1536 && (own || !this.#net.knowsConfig)) return;
    for (const clause of ['net-tx.4', 'net-rx.4'] as const)
      this.#net.findings.that(
        clause,
        `queue ${queue}: Ethernet type of the frame behind a header of ${this.#net.headerSize} bytes`,
        sound,
        'one of those in use',
        type,
      );
  }

  /** What does not depend on the frame. */
  #fields({ flags, gsoType, numBuffers, gsoSize }: NetHeader): void {
    const net = this.#net;
    const { findings } = net;
    const base = gsoType & ~(TUNNEL | GSO.ECN);
    const tunnel = gsoType & TUNNEL;
    const check = (clause: string, what: string, seen: unknown, expected: unknown): void =>
      void findings.check(clause, `transmit header: ${what}`, seen, expected);
    check('net-tx.5', 'num_buffers', numBuffers, 0);
    if (!net.has('CSUM')) check('net-tx.6', 'flags without CSUM', flags, 0);
    if (!net.has('HOST_TSO4')) check('net-tx.10', 'gso_type TCPV4 without HOST_TSO4', base === GSO.TCPV4, false);
    if (!net.has('HOST_TSO6')) check('net-tx.12', 'gso_type TCPV6 without HOST_TSO6', base === GSO.TCPV6, false);
    if (!net.has('HOST_UFO')) check('net-tx.14', 'gso_type UDP without HOST_UFO', base === GSO.UDP, false);
    if (!net.has('HOST_USO')) check('net-tx.16', 'gso_type UDP_L4 without HOST_USO', base === GSO.UDP_L4, false);
    if (!net.has('HOST_TSO4') && !net.has('HOST_TSO6') && !net.has('HOST_USO') && !net.has('HOST_UFO'))
      check('net-tx.34', 'gso_type without any HOST segmentation', gsoType, GSO.NONE);
    if (!net.has('HOST_UDP_TUNNEL_GSO')) for (const clause of ['net-tx.20', 'net-tx.45']) check(clause, 'tunnel bits without HOST_UDP_TUNNEL_GSO', tunnel, 0);
    if (!net.has('HOST_UDP_TUNNEL_GSO_CSUM'))
      for (const clause of ['net-tx.23', 'net-tx.25', 'net-tx.26', 'net-tx.46'])
        check(clause, 'UDP_TUNNEL_CSUM without HOST_UDP_TUNNEL_GSO_CSUM', flags & HDR.UDP_TUNNEL_CSUM, 0);
    else
      for (const clause of ['net-tx.24', 'net-tx.29'])
        if ((flags & HDR.UDP_TUNNEL_CSUM) !== 0) check(clause, 'a tunnel bit beside UDP_TUNNEL_CSUM', tunnel !== 0, true);
    if (net.has('HOST_UDP_TUNNEL_GSO') && tunnel !== 0) {
      check('net-tx.27', 'UFO beside a tunnel bit', base === GSO.UDP, false);
      check('net-tx.28', 'both tunnel bits', tunnel === TUNNEL, false);
    }
    check('net-tx.48', 'DATA_VALID and RSC_INFO', flags & (HDR.DATA_VALID | HDR.RSC_INFO), 0);
    if (tunnel !== 0) check('net-tx.49', 'DATA_VALID beside a tunnel bit', flags & HDR.DATA_VALID, 0);
    if (gsoType !== GSO.NONE && net.has('CSUM')) {
      check('net-tx.35', 'NEEDS_CSUM of a frame to be cut', flags & HDR.NEEDS_CSUM, HDR.NEEDS_CSUM);
      findings.that('net-tx.36', 'transmit header: gso_size of a frame to be cut', gsoSize > 0, 'the size of its pieces', gsoSize);
    }
  }

  #plain(header: NetHeader, frame: Uint8Array): void {
    const net = this.#net;
    const mtu = net.has('MTU') ? net.config('mtu') : 0;
    if (mtu > 0)
      net.findings.that('net.19', 'bytes of a frame that is not to be cut', frame.length <= mtu + LINK_BYTES, `mtu ${mtu} and its header`, frame.length);
    const h = parseFrame(frame);
    if (!net.has('CSUM')) {
      if (h) net.findings.check('net-tx.7', 'checksums of a frame without CSUM hold', transportHolds(frame, h) && networkHolds(frame, h), true);
      return;
    }
    if ((header.flags & HDR.NEEDS_CSUM) !== 0) this.#checksum(header, frame, h);
  }

  /** NEEDS_CSUM: the field holds the pseudo header's sum, and to fill it from csum_start on makes the frame whole. */
  #checksum({ csumStart, csumOffset, gsoType }: NetHeader, frame: Uint8Array, h: PacketHeaders | undefined): void {
    const { findings } = this.#net;
    if (h === undefined) return;
    // Before csum_start stands the IP header; that of a frame to be cut is made anew for each piece.
    if (gsoType === GSO.NONE) findings.check('net-tx.31', 'IP header checksum before csum_start holds', networkHolds(frame, h), true);
    else
      findings.that('net-tx.31', 'csum_start of a frame to be cut', csumStart >= h.transport, 'its transport header, the only checksum that counts', csumStart);
    // The checksum that is left may be an inner packet's, behind the outer headers.
    if (csumStart > h.transport) return;
    const field = h.protocol === TCP ? 16 : 6;
    findings.check('net-tx.33', 'csum_start and csum_offset of a frame', [csumStart, csumOffset], [h.transport, field]);
    this.#seeded('net-tx.32', 'checksum field of a frame with NEEDS_CSUM', frame, h, h.transport + field);
  }

  #seeded(clause: string, what: string, frame: Uint8Array, h: PacketHeaders, field: number): void {
    const expected = pseudo(frame, h, frame.length - h.transport);
    // Padding of a short frame is no part of the packet.
    const shorter = h.end <= frame.length && h.end > h.transport ? pseudo(frame, h, h.end - h.transport) : expected;
    const seen = be16(frame, field);
    this.#net.findings.that(clause, what, seen === expected || seen === shorter, `the pseudo header's sum, ${expected}`, seen);
  }

  #segmented(header: NetHeader, frame: Uint8Array, h: PacketHeaders | undefined): void {
    if (h === undefined) return;
    if ((header.flags & HDR.NEEDS_CSUM) !== 0) this.#checksum(header, frame, h);
    this.#cut(header, frame, h);
  }

  /** `h` are the headers that pieces get, the inner ones in a tunnel. */
  #cut({ headerLength, gsoSize, gsoType }: NetHeader, frame: Uint8Array, h: PacketHeaders): void {
    const net = this.#net;
    const { findings } = net;
    if (net.has('GUEST_HDRLEN')) findings.check('net-tx.37', 'hdr_len with GUEST_HDRLEN', headerLength, h.payload);
    else findings.that('net-tx.38', 'hdr_len', headerLength >= h.payload, `at least ${h.payload}`, headerLength);
    const mtu = (net.has('MTU') ? net.config('mtu') : 0) || DEFAULT_MTU;
    // UFO counts the fragments' payload, which the transport header is part of.
    const piece = ((gsoType & 7) === GSO.UDP ? h.transport : h.payload) + gsoSize;
    if (net.has('MTU'))
      findings.that('net-tx.36', `bytes of a piece with gso_size ${gsoSize}`, gsoSize > 0 && piece <= mtu + LINK_BYTES, `one packet of mtu ${mtu}`, piece);
    if (h.protocol !== TCP || ((frame[h.transport + 13] as number) & 0x80) === 0) return;
    if (net.has('HOST_ECN')) findings.check('net-tx.18', 'GSO_ECN of TCP to be cut with CWR set', gsoType & GSO.ECN, GSO.ECN);
    else findings.check('net-tx.17', 'TCP to be cut with CWR set, without HOST_ECN', true, false);
  }

  #tunnel(header: NetHeader, frame: Uint8Array): void {
    const net = this.#net;
    const { findings } = net;
    const outer = parseFrame(frame);
    if (!outer || !net.has('HOST_UDP_TUNNEL_GSO')) return;
    const { outerTransport, innerNetwork, gsoType, csumStart, csumOffset, flags } = header;
    const version = (frame[innerNetwork] ?? 0) >>> 4;
    findings.that(
      'net-tx.40',
      'outer_th_offset and inner_nh_offset',
      outer.protocol === UDP && outerTransport === outer.transport && innerNetwork >= outer.payload && (version === 4 || version === 6),
      `${outer.transport} and an IP header behind it`,
      [outerTransport, innerNetwork],
    );
    const inner = parsePacket(frame, innerNetwork);
    if (!inner) return;
    if (inner.version === 4) findings.check('net-tx.21', 'tunnel bit over inner IPv4', gsoType & TUNNEL, GSO.TUNNEL_V4);
    else findings.check('net-tx.22', 'tunnel bit over inner IPv6', gsoType & TUNNEL, GSO.TUNNEL_V6);
    const field = inner.protocol === TCP ? 16 : 6;
    if ((flags & HDR.NEEDS_CSUM) !== 0) {
      findings.check('net-tx.33', 'csum_start and csum_offset of a frame in a tunnel', [csumStart, csumOffset], [inner.transport, field]);
      this.#seeded('net-tx.32', 'checksum field of the inner packet', frame, inner, inner.transport + field);
    }
    const checksum = be16(frame, outer.transport + 6);
    if (net.has('HOST_UDP_TUNNEL_GSO_CSUM')) {
      if ((flags & HDR.UDP_TUNNEL_CSUM) !== 0) this.#seeded('net-tx.42', 'outer UDP checksum with UDP_TUNNEL_CSUM', frame, outer, outer.transport + 6);
    } else if (checksum === 0 || outer.transport + be16(frame, outer.transport + 4) === frame.length) {
      // Not 0: then the whole one. Those that fit pieces only, whose length the header then says, are not looked at.
      const right = checksum === 0 || sum(frame, outer.transport, frame.length, pseudo(frame, outer, frame.length - outer.transport)) === 0xffff;
      for (const clause of ['net-tx.43', 'net-tx.44'] as const)
        findings.that(clause, 'outer UDP checksum without UDP_TUNNEL_CSUM', right, '0 or complete', checksum);
    }
    this.#cut(header, frame, inner);
  }
}
