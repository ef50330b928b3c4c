// Offloads of what travels in tunnels, and of datagrams to be fragmented, done in software: every frame compared byte by byte with one built from nothing here.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { viewsOf } from '#core/guest-memory';
import { inspectOffloads } from '#net/offload-request';
import {
  ACCEPTS_CSUM,
  ACCEPTS_ECN,
  ACCEPTS_TSO4,
  ACCEPTS_UDP_TUNNEL,
  ACCEPTS_UDP_TUNNEL_CSUM,
  ACCEPTS_UFO,
  ACCEPTS_USO4,
  ACCEPTS_USO6,
  FRAME_MALFORMED,
  FRAME_NEEDS_CSUM,
  FRAME_UDP_TUNNEL_CSUM,
  FrameBatch,
  GSO_ECN,
  GSO_TCPV4,
  GSO_TCPV6,
  GSO_UDP,
  GSO_UDP_L4,
  GSO_UDP_TUNNEL_IPV4,
  GSO_UDP_TUNNEL_IPV6,
} from '#net/port';
import { SoftwareOffload } from '#net/software-offload';
import { ACK, CWR, dissect, ethernet, FIN, ipv4, ipv6, onesComplementSum, PSH, pseudoHeader, tcp, udp } from './frames.ts';
import { appendFrame, type Frame, frameBytes } from './memory-port.ts';

const bytesOf = (length: number, start = 0): number[] => Array.from({ length }, (_, i) => (i * 7 + (i >> 8) + start) & 0xff);
const u16 = (value: number): number[] => [(value >>> 8) & 0xff, value & 0xff];

function batchOf(frame: Frame): FrameBatch {
  const batch = new FrameBatch(viewsOf(new ArrayBuffer(8)));
  appendFrame(batch, frame);
  return batch;
}

function needsOf(frame: Frame): number {
  const batch = batchOf(frame);
  inspectOffloads(batch);
  return batch.needs[0] as number;
}

/** All frames that a frame becomes, a few at a time as a full receiver would have it. */
function convert(frame: Frame, accepts = 0): { bytes: number[]; flags: number; csumStart: number; csumOffset: number }[] {
  const offload = new SoftwareOffload();
  const batch = batchOf(frame);
  const made = [];
  let sum = -1;
  for (;;) {
    offload.convert(batch, 0, accepts, made.length);
    const { output, total } = offload;
    if (total === 0) return [];
    if (sum >= 0) expect(offload.headerSum).toBe(sum);
    sum = offload.headerSum;
    for (let i = 0; i < Math.min(3, output.count); i++)
      made.push({
        bytes: [...frameBytes(output, i)],
        flags: output.flags[i] as number,
        csumStart: output.csumStart[i] as number,
        csumOffset: output.csumOffset[i] as number,
      });
    if (made.length >= total) {
      expect(offload.bytes).toBe(made.reduce((all, m) => all + m.bytes.length, 0));
      return made;
    }
  }
}

/** The checksum of the TCP or UDP header of an IP packet, filled in, or just the pseudo header's sum. */
function checked(packet: readonly number[], how: 'full' | 'seed' = 'full'): number[] {
  const frame = ethernet((packet[0] as number) >> 4 === 4 ? 0x0800 : 0x86dd, packet);
  const p = dissect(frame);
  const field = p.transport + (p.protocol === 6 ? 16 : 6);
  frame.set([0, 0], field);
  const pseudo = pseudoHeader(p);
  let sum = onesComplementSum(how === 'seed' ? pseudo : [...pseudo, ...frame.slice(p.transport)]);
  if (how === 'full') {
    sum = ~sum & 0xffff;
    if (sum === 0 && p.protocol === 17) sum = 0xffff;
  }
  frame.set(u16(sum), field);
  return [...frame.slice(14)];
}

interface Tunnel {
  readonly outer: 4 | 6;
  readonly inner: 4 | 6;
  readonly protocol: 'tcp' | 'udp';
  readonly outerChecksum: 'none' | 'offloaded' | 'precomputed';
  /** Between the outer UDP header and the inner IP header: VXLAN or Geneve, and Ethernet. */
  readonly between: number;
  readonly flags?: number;
  readonly vlans?: readonly number[];
}

const IP_ID = 0xfffe;
const OUTER_ID = 77;

/** One packet in the tunnel, whole; as segment `n` of those whose first has the ids. */
function tunnelled(
  t: Tunnel,
  payload: readonly number[],
  n: number,
  sequence: number,
  flags: number,
  inner: 'full' | 'seed',
  outer: 'none' | 'full' | 'seed',
): Uint8Array {
  const transport = t.protocol === 'tcp' ? tcp(payload, { sequence, flags, options: [1, 1, 1, 1] }) : udp(payload);
  const protocol = t.protocol === 'tcp' ? 6 : 17;
  const packet = checked(t.inner === 4 ? ipv4(protocol, transport, { id: (IP_ID + n) & 0xffff }) : ipv6(protocol, transport), inner);
  const datagram = udp([...bytesOf(t.between, 200), ...packet]);
  const around = t.outer === 4 ? ipv4(17, datagram, { id: OUTER_ID + n }) : ipv6(17, datagram);
  return ethernet(t.outer === 4 ? 0x0800 : 0x86dd, outer === 'none' ? around : checked(around, outer), { vlans: t.vlans ?? [] });
}

function tunnelFrame(t: Tunnel, payload: readonly number[], size: number, extra: Partial<Frame> = {}): Frame {
  const bytes = tunnelled(t, payload, 0, 5000, t.flags ?? ACK | PSH, 'seed', t.outerChecksum === 'offloaded' ? 'seed' : 'none');
  const outer = dissect(bytes);
  const innerNetwork = outer.transport + 8 + t.between;
  const csumStart = innerNetwork + (t.inner === 4 ? 20 : 40);
  if (t.outerChecksum === 'precomputed') {
    // What the segments have, all of one size: length and checksum (the note in virtio 1.4 5.1.9.2.1).
    const segment = tunnelled(t, payload.slice(0, size), 0, 5000, ACK, 'full', 'full');
    bytes.set(segment.slice(outer.transport + 4, outer.transport + 8), outer.transport + 4);
  }
  return {
    bytes,
    flags: FRAME_NEEDS_CSUM | (t.outerChecksum === 'offloaded' ? FRAME_UDP_TUNNEL_CSUM : 0),
    gsoType: (t.protocol === 'udp' ? GSO_UDP_L4 : t.inner === 4 ? GSO_TCPV4 : GSO_TCPV6) | (t.inner === 4 ? GSO_UDP_TUNNEL_IPV4 : GSO_UDP_TUNNEL_IPV6),
    gsoSize: size,
    csumStart,
    csumOffset: t.protocol === 'tcp' ? 16 : 6,
    outerTransport: outer.transport,
    innerNetwork,
    ...extra,
  };
}

function expected(t: Tunnel, payload: readonly number[], size: number, inner: 'full' | 'seed' = 'full'): number[][] {
  const total = Math.ceil(payload.length / size);
  const flags = t.flags ?? ACK | PSH;
  return Array.from({ length: total }, (_, n) => {
    const own = (n < total - 1 ? flags & ~(PSH | FIN) : flags) & (n > 0 ? ~CWR : 0xff);
    const part = payload.slice(n * size, (n + 1) * size);
    return [...tunnelled(t, part, n, 5000 + n * size, own, inner, t.outerChecksum === 'none' ? 'none' : 'full')];
  });
}

const tunnels = fc.record<Tunnel>({
  outer: fc.constantFrom(4, 6),
  inner: fc.constantFrom(4, 6),
  protocol: fc.constantFrom('tcp', 'udp'),
  outerChecksum: fc.constantFrom('none', 'offloaded'),
  between: fc.constantFrom(8, 22, 22, 23, 30, 274),
  flags: fc.constantFrom(ACK, ACK | PSH, ACK | FIN, ACK | PSH | CWR),
  vlans: fc.constantFrom([], [5], [7, 9]),
});

describe('tunnel GSO in software', () => {
  it('becomes the segments its sender would have made, in every byte', () => {
    fc.assert(
      fc.property(
        tunnels,
        fc.integer({ min: 1, max: 4000 }),
        fc.integer({ min: 200, max: 1500 }),
        fc.array(fc.integer({ min: 1, max: 700 }), { maxLength: 6 }),
        (t, length, size, pieces) => {
          const payload = bytesOf(length);
          const frame = tunnelFrame(t, payload, size, { pieces, misaligned: 3 });
          const made = convert(frame);
          expect(made.map((m) => m.bytes)).toEqual(expected(t, payload, size));
          for (const m of made) expect(m.flags).toBe(0);
        },
      ),
      { numRuns: 150 },
    );
  });

  it('leaves the inner checksum to a receiver that finishes it, where no outer one covers it', () => {
    const t: Tunnel = { outer: 4, inner: 6, protocol: 'tcp', outerChecksum: 'none', between: 22 };
    const payload = bytesOf(2500);
    const frame = tunnelFrame(t, payload, 1000);
    const made = convert(frame, ACCEPTS_CSUM);
    expect(made.map((m) => m.bytes)).toEqual(expected(t, payload, 1000, 'seed'));
    for (const m of made) expect([m.flags, m.csumStart, m.csumOffset]).toEqual([FRAME_NEEDS_CSUM, frame.csumStart, 16]);
    const covered: Tunnel = { ...t, outerChecksum: 'offloaded' };
    for (const m of convert(tunnelFrame(covered, payload, 1000), ACCEPTS_CSUM)) expect(m.flags).toBe(0);
  });

  it('keeps an outer checksum and length that the sender made for whole segments', () => {
    const t: Tunnel = { outer: 6, inner: 4, protocol: 'tcp', outerChecksum: 'precomputed', between: 22, flags: ACK };
    const payload = bytesOf(3000);
    const frame = tunnelFrame(t, payload, 1000);
    const made = convert(frame).map((m) => m.bytes);
    expect(made).toEqual(expected(t, payload, 1000));
    const own = [...frame.bytes.slice((frame.outerTransport as number) + 4, (frame.outerTransport as number) + 8)];
    for (const bytes of made) expect(bytes.slice(frame.outerTransport, (frame.outerTransport as number) + 8).slice(4)).toEqual(own);
  });

  it('needs a receiver that takes all of what is asked', () => {
    const t: Tunnel = { outer: 4, inner: 4, protocol: 'tcp', outerChecksum: 'offloaded', between: 22 };
    const payload = bytesOf(2000);
    expect(needsOf(tunnelFrame(t, payload, 1000))).toBe(ACCEPTS_UDP_TUNNEL | ACCEPTS_UDP_TUNNEL_CSUM | ACCEPTS_TSO4 | ACCEPTS_CSUM);
    expect(needsOf(tunnelFrame({ ...t, outerChecksum: 'none', protocol: 'udp', inner: 6 }, payload, 1000))).toBe(
      ACCEPTS_UDP_TUNNEL | ACCEPTS_USO6 | ACCEPTS_CSUM,
    );
    const congested = tunnelFrame({ ...t, flags: ACK | CWR }, payload, 1000);
    expect(needsOf(congested) & ACCEPTS_ECN).toBe(ACCEPTS_ECN);
    const batch = batchOf(congested);
    inspectOffloads(batch);
    // Also when the sender could not say so, the receiver is told.
    expect(batch.gsoType[0]).toBe((congested.gsoType as number) | GSO_ECN);
    expect(batch.headerLength[0]).toBe((congested.csumStart as number) + 24);
  });

  const plain: Tunnel = { outer: 4, inner: 4, protocol: 'tcp', outerChecksum: 'none', between: 22 };
  const good = tunnelFrame(plain, bytesOf(2000), 1000);
  it.each<[string, Partial<Frame>]>([
    ['both inner versions', { gsoType: GSO_TCPV4 | GSO_UDP_TUNNEL_IPV4 | GSO_UDP_TUNNEL_IPV6 }],
    ['the wrong inner version', { gsoType: GSO_TCPV4 | GSO_UDP_TUNNEL_IPV6 }],
    ['the wrong TCP', { gsoType: GSO_TCPV6 | GSO_UDP_TUNNEL_IPV4 }],
    ['UFO inside', { gsoType: GSO_UDP | GSO_UDP_TUNNEL_IPV4 }],
    ['nothing to cut', { gsoType: GSO_UDP_TUNNEL_IPV4 }],
    ['no checksum to do', { flags: 0 }],
    ['an outer checksum without a tunnel', { gsoType: GSO_TCPV4, flags: FRAME_NEEDS_CSUM | FRAME_UDP_TUNNEL_CSUM }],
    ['segments of 0 bytes (CVE-2015-6815)', { gsoSize: 0 }],
    ['an outer header elsewhere', { outerTransport: 33 }],
    ['an inner header in the outer one', { innerNetwork: 41 }],
    ['an inner header at 0', { innerNetwork: 0 }],
    ['an inner header past the end (CVE-2026-63321)', { innerNetwork: 0xffff }],
    ['an inner header just past what is looked at', { innerNetwork: 760 }],
    ['csum_start past the end (CVE-2024-11614)', { csumStart: 0xffff }],
    ['csum_start at the outer header', { csumStart: 34 }],
    ['a checksum field elsewhere', { csumOffset: 6 }],
    ['a frame cut off in the inner TCP header', { bytes: good.bytes.slice(0, 95) }],
    ['a frame cut off in the outer header', { bytes: good.bytes.slice(0, 30) }],
  ])('with %s is malformed, and converting it makes nothing', (_what, change) => {
    const frame = { ...good, ...change };
    expect(needsOf(frame)).toBe(FRAME_MALFORMED);
    expect(convert(frame)).toEqual([]);
  });

  it('an outer fragment, or an inner one, is malformed', () => {
    const bytes = Uint8Array.from(good.bytes);
    bytes[20] = 0x20;
    expect(needsOf({ ...good, bytes })).toBe(FRAME_MALFORMED);
    const inner = Uint8Array.from(good.bytes);
    inner[64 + 6] = 0x20;
    expect(needsOf({ ...good, bytes: inner })).toBe(FRAME_MALFORMED);
  });

  it('any header over any bytes: either malformed and nothing comes, or only whole frames of the sizes asked for', () => {
    fc.assert(
      fc.property(
        tunnels,
        fc.record({
          gsoType: fc.integer({ min: 0, max: 255 }),
          gsoSize: fc.integer({ min: 0, max: 2000 }),
          csumStart: fc.integer({ min: 0, max: 200 }),
          innerNetwork: fc.integer({ min: 0, max: 400 }),
        }),
        fc.array(fc.tuple(fc.integer({ min: 0, max: 150 }), fc.integer({ min: 0, max: 255 })), { maxLength: 3 }),
        (t, request, changes) => {
          const frame = tunnelFrame(t, bytesOf(900), 300);
          const bytes = Uint8Array.from(frame.bytes);
          for (const [at, value] of changes) bytes[at] = value;
          const keep = request.csumStart % 2 === 0;
          const changed = { ...frame, bytes, ...(keep ? {} : request) };
          if (changed.gsoType === 0) return;
          const malformed = needsOf(changed) === FRAME_MALFORMED;
          const made = convert(changed);
          expect(made.length === 0).toBe(malformed);
          for (const m of made) expect(m.bytes.length).toBeLessThanOrEqual(Math.max(bytes.length, 0));
        },
      ),
      { numRuns: 500 },
    );
  });
});

describe('UFO in software', () => {
  /** RFC 791 and RFC 8200 by hand: the fragments of a datagram whose first `from` bytes every one of them has. */
  function fragments4(packet: readonly number[], unit: number, blank: (header: number[]) => number[]): number[][] {
    const length = ((packet[0] as number) & 15) * 4;
    const body = packet.slice(length);
    const total = Math.ceil(body.length / unit);
    return Array.from({ length: total }, (_, n) => {
      const part = body.slice(n * unit, (n + 1) * unit);
      let header = packet.slice(0, length);
      if (n > 0) header = blank([...header]);
      header.splice(2, 2, ...u16(length + part.length));
      header.splice(6, 2, ...u16((n * unit) / 8 + (n < total - 1 ? 0x2000 : 0)));
      header.splice(10, 2, 0, 0);
      header.splice(10, 2, ...u16(~onesComplementSum(header) & 0xffff));
      return [...ethernet(0x0800, [...header, ...part])];
    });
  }
  const ufo = (packet: readonly number[], size: number, extra: Partial<Frame> = {}): Frame => {
    const bytes = ethernet((packet[0] as number) >> 4 === 4 ? 0x0800 : 0x86dd, packet);
    return { bytes, flags: FRAME_NEEDS_CSUM, gsoType: GSO_UDP, gsoSize: size, csumStart: dissect(bytes).transport, csumOffset: 6, ...extra };
  };

  it.each([
    [1480, 4000],
    [1479, 4000],
    [8, 300],
    [552, 552 - 8],
    [552, 552 - 7],
  ])('over IPv4 in fragments of %i, %i bytes of payload', (size, length) => {
    const packet = ipv4(17, udp(bytesOf(length)), { id: 0xabcd });
    const made = convert(ufo(checked(packet, 'seed'), size, { pieces: [20, 30, 500], misaligned: 1 }));
    // DF means nothing to who asks for fragments.
    expect(made.map((m) => m.bytes)).toEqual(fragments4(checked(packet), size & ~7, (h) => h));
    for (const m of made) expect(m.flags).toBe(0);
  });

  it('copies the options that every fragment must have, and no others', () => {
    // Record route (not copied), loose source route (copied).
    const options = [7, 7, 4, 0, 0, 0, 0, 0x83, 3, 4, 1, 0];
    const packet = ipv4(17, udp(bytesOf(1000)), { options });
    const made = convert(ufo(checked(packet, 'seed'), 400));
    const blank = (header: number[]): number[] => [...header.slice(0, 20), 1, 1, 1, 1, 1, 1, 1, ...header.slice(27)];
    expect(made.map((m) => m.bytes)).toEqual(fragments4(checked(packet), 400, blank));
  });

  it.each<[string, number[][], number]>([
    ['plain', [], 0],
    ['with hop-by-hop options, which every fragment has', [[0, 0, 1, 4, 0, 0, 0, 0]], 8],
    ['with destination options, which are fragmented', [[60, 0, 1, 4, 0, 0, 0, 0]], 0],
  ])('over IPv6 %s', (_what, extensions, kept) => {
    const packet = checked(ipv6(17, udp(bytesOf(3000)), extensions));
    const made = convert(ufo(checked(packet, 'seed'), 1000)).map((m) => m.bytes);
    const body = packet.slice(40 + kept);
    const next = kept === 0 ? (packet[6] as number) : (packet[40] as number);
    const id = (made[0] as number[]).slice(14 + 40 + kept + 4, 14 + 40 + kept + 8);
    const want = [0, 1, 2, 3].map((n) => {
      const part = body.slice(n * 1000, (n + 1) * 1000);
      const head = packet.slice(0, 40 + kept);
      head.splice(4, 2, ...u16(kept + 8 + part.length));
      head[kept === 0 ? 6 : 40] = 44;
      return [...ethernet(0x86dd, [...head, next, 0, ...u16(n * 1000 + (n < 3 ? 1 : 0)), ...id, ...part])];
    });
    expect(made).toEqual(want.filter((_, n) => n * 1000 < body.length));
    // Another datagram, another identification.
    const other = convert(ufo(checked(ipv6(17, udp(bytesOf(3000, 1)), extensions), 'seed'), 1000))[0]?.bytes as number[];
    expect(other.slice(14 + 40 + kept + 4, 14 + 40 + kept + 8)).not.toEqual(id);
  });

  it('a datagram that fits is sent whole, with its checksum', () => {
    for (const packet of [ipv4(17, udp(bytesOf(500)), { fragment: 0 }), ipv6(17, udp(bytesOf(500)))]) {
      const made = convert(ufo(checked(packet, 'seed'), 1000));
      const frame = ethernet((packet[0] as number) >> 4 === 4 ? 0x0800 : 0x86dd, checked(packet));
      expect(made.map((m) => m.bytes)).toEqual([[...frame]]);
    }
  });

  it('needs a receiver that takes UFO, not one that takes USO', () => {
    const frame = ufo(checked(ipv4(17, udp(bytesOf(2000))), 'seed'), 1000);
    expect(needsOf(frame)).toBe(ACCEPTS_UFO | ACCEPTS_CSUM);
    expect(convert(frame, ACCEPTS_USO4 | ACCEPTS_CSUM).every((m) => m.flags === 0)).toBe(true);
  });

  it.each<[string, Frame]>([
    ['fragments of no 8 bytes (CVE-2016-6834)', ufo(ipv4(17, udp(bytesOf(2000))), 7)],
    ['TCP', { ...ufo(ipv4(6, tcp(bytesOf(2000))), 1000), csumOffset: 16 }],
    ['a first fragment without all headers', ufo(ipv6(17, udp(bytesOf(2000)), [[60, 0, 1, 4, 0, 0, 0, 0]]), 8)],
    ['a fragment', ufo(ipv4(17, udp(bytesOf(2000)), { fragment: 0x2000 }), 1000)],
    ['a fragment header already there', { ...ufo(ipv6(44, [17, 0, 0, 0, 1, 2, 3, 4, ...udp(bytesOf(2000))]), 1000), csumStart: 62 }],
    ['more than any datagram holds', ufo(ipv4(17, udp(bytesOf(65530))), 1000)],
    ['the ECN bit', ufo(ipv4(17, udp(bytesOf(2000))), 1000, { gsoType: GSO_UDP | GSO_ECN })],
    ['IP total length beyond the frame (CVE-2016-2857) and no UDP header', ufo(ipv4(17, udp([])).slice(0, 24), 1000)],
  ])('with %s is malformed', (_what, frame) => {
    expect(needsOf(frame)).toBe(FRAME_MALFORMED);
    expect(convert(frame)).toEqual([]);
  });
});
