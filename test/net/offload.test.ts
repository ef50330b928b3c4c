import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { viewsOf } from '#core/guest-memory';
import { inspectOffloads, MAXIMUM_GSO_SEGMENTS } from '#net/offload-request';
import {
  ACCEPTS_CSUM,
  ACCEPTS_ECN,
  ACCEPTS_TSO4,
  ACCEPTS_TSO6,
  ACCEPTS_USO4,
  ACCEPTS_USO6,
  FRAME_MALFORMED,
  FRAME_NEEDS_CSUM,
  FrameBatch,
  GSO_ECN,
  GSO_TCPV4,
  GSO_TCPV6,
  GSO_UDP,
  GSO_UDP_L4,
} from '#net/port';
import { SoftwareOffload } from '#net/software-offload';
import { ACK, CWR, dissect, ethernet, FIN, faults, ipv4, ipv6, onesComplementSum, PSH, pseudoHeader, seedChecksum, tcp, udp } from './frames.ts';
import { appendFrame, type Frame, frameBytes } from './memory-port.ts';

const offload = new SoftwareOffload();
const bytesOf = (length: number, start = 0): number[] => Array.from({ length }, (_, i) => (i * 7 + start) & 0xff);

function batchOf(...frames: Frame[]): FrameBatch {
  const batch = new FrameBatch(viewsOf(new ArrayBuffer(8)));
  for (const frame of frames) appendFrame(batch, frame);
  return batch;
}

/** All frames that a frame becomes. */
function convert(frame: Frame, accepts = 0): { bytes: Uint8Array; flags: number; csumStart: number; csumOffset: number }[] {
  const batch = batchOf(frame);
  const made = [];
  for (;;) {
    offload.convert(batch, 0, accepts, made.length);
    const { output, total } = offload;
    for (let i = 0; i < output.count; i++) {
      made.push({
        bytes: frameBytes(output, i),
        flags: output.flags[i] as number,
        csumStart: output.csumStart[i] as number,
        csumOffset: output.csumOffset[i] as number,
      });
    }
    if (made.length >= total) return made;
  }
}

function only<T>(list: readonly T[]): T {
  if (list.length !== 1) throw new Error(`${list.length} frames where one was due`);
  return list[0] as T;
}

/** What a receiver that took a NEEDS_CSUM frame makes of it. */
function finished({ bytes, csumStart, csumOffset }: ReturnType<typeof convert>[number]): Uint8Array {
  const sum = ~onesComplementSum(bytes.slice(csumStart)) & 0xffff;
  bytes.set([sum >> 8, sum & 0xff], csumStart + csumOffset);
  return bytes;
}

/** A GSO frame with the request its headers ask for. */
function gso(gsoType: number, gsoSize: number, bytes: Uint8Array, extra: Partial<Frame> = {}): Frame {
  const { transport, protocol } = dissect(bytes);
  return { bytes: seedChecksum(bytes), flags: FRAME_NEEDS_CSUM, gsoType, gsoSize, csumStart: transport, csumOffset: protocol === 6 ? 16 : 6, ...extra };
}

const needsOf = (frame: Frame): number => {
  const batch = batchOf(frame);
  return inspectOffloads(batch) === 0 ? 0 : (batch.needs[0] as number);
};

describe('checksum fill', () => {
  it('completes the checksum of a frame in odd pieces and leaves every other byte', () => {
    const bytes = seedChecksum(ethernet(0x0800, ipv4(6, tcp(bytesOf(101)))));
    const made = only(convert({ bytes, flags: FRAME_NEEDS_CSUM, csumStart: 34, csumOffset: 16, pieces: [15, 20, 1, 30], misaligned: 3 }));
    expect(faults(made.bytes)).toEqual([]);
    expect(made.flags).toBe(0);
    const same = (b: Uint8Array): number[] => [...b.slice(0, 50), ...b.slice(52)];
    expect(same(made.bytes)).toEqual(same(bytes));
  });

  it('finds a field far into the frame, past what is copied', () => {
    const bytes = Uint8Array.from(bytesOf(901));
    const made = only(convert({ bytes, flags: FRAME_NEEDS_CSUM, csumStart: 601, csumOffset: 100, pieces: [300, 333, 69] }));
    // The seed in the field counts in the sum that is stored: without it, the whole comes to all ones.
    const seed = ((bytes[701] as number) << 8) | (bytes[702] as number);
    expect(onesComplementSum([...made.bytes.slice(601), seed >> 8, seed & 0xff])).toBe(0xffff);
    expect([...made.bytes.slice(0, 701), ...made.bytes.slice(703)]).toEqual([...bytes.slice(0, 701), ...bytes.slice(703)]);
  });

  it('never sends a UDP checksum of 0', () => {
    // A payload word chosen so that the checksum comes out as 0.
    const bytes = ethernet(0x0800, ipv4(17, udp([0, 0])));
    const rest = onesComplementSum([...pseudoHeader(dissect(bytes)), ...bytes.slice(34)]);
    const word = 0xffff - rest;
    bytes.set([word >> 8, word & 0xff], 42);
    const made = only(convert({ bytes: seedChecksum(bytes), flags: FRAME_NEEDS_CSUM, csumStart: 34, csumOffset: 6 }));
    expect([...made.bytes.slice(40, 42)]).toEqual([0xff, 0xff]);
    expect(faults(made.bytes)).toEqual([]);
  });
});

describe('segmentation', () => {
  it('cuts TCP over IPv4: ids and sequence go up, FIN and PSH only on the last, CWR only on the first', () => {
    const bytes = ethernet(0x0800, ipv4(6, tcp(bytesOf(2500), { sequence: 0xfffffc00, flags: ACK | PSH | FIN | CWR }), { id: 0xffff }));
    const made = convert(gso(GSO_TCPV4 | GSO_ECN, 1000, bytes)).map((m) => dissect(m.bytes));
    expect(made.map((p) => p.bytes.length - p.payload)).toEqual([1000, 1000, 500]);
    expect(made.map((p) => new DataView(p.bytes.buffer).getUint16(p.network + 4))).toEqual([0xffff, 0, 1]);
    expect(made.map((p) => new DataView(p.bytes.buffer).getUint32(p.transport + 4))).toEqual([0xfffffc00, 0xffffffe8, 0x3d0]);
    expect(made.map((p) => p.bytes[p.transport + 13])).toEqual([ACK | CWR, ACK, ACK | PSH | FIN]);
    expect(made.flatMap((p) => faults(p.bytes))).toEqual([]);
  });

  it('gives a receiver that finishes checksums frames that still need it, with a seed that makes them right', () => {
    const bytes = ethernet(0x86dd, ipv6(6, tcp(bytesOf(300))));
    const made = convert(gso(GSO_TCPV6, 128, bytes), ACCEPTS_CSUM);
    expect(made.map((m) => [m.flags, m.csumStart, m.csumOffset])).toEqual(new Array(3).fill([FRAME_NEEDS_CSUM, 54, 16]));
    for (const m of made) expect(faults(finished(m))).toEqual([]);
  });

  it('makes more frames than one output holds, in several goes', () => {
    const bytes = ethernet(0x0800, ipv4(17, udp(bytesOf(20000))));
    const made = convert(gso(GSO_UDP_L4, 100, bytes));
    expect(made).toHaveLength(200);
    expect(made.flatMap((m) => [...m.bytes.slice(42)])).toEqual(bytesOf(20000));
    expect(made.flatMap((m) => faults(m.bytes))).toEqual([]);
  });

  it('passes on a GSO frame without payload as one frame', () => {
    const made = convert(gso(GSO_TCPV4, 500, ethernet(0x0800, ipv4(6, tcp([])))));
    expect(faults(only(made).bytes)).toEqual([]);
  });

  it('puts back together to the payload, with right checksums, for any headers, sizes and pieces', () => {
    const headers = fc.record({
      v6: fc.boolean(),
      isUdp: fc.boolean(),
      vlans: fc.array(fc.nat(4095), { maxLength: 2 }),
      tcpOptions: fc.nat(10).map((n) => bytesOf(n * 4, 3)),
      ipOptions: fc.nat(10).map((n) => bytesOf(n * 4, 9)),
      hopByHop: fc.boolean(),
    });
    fc.assert(
      fc.property(
        headers,
        fc.integer({ min: 1, max: 4000 }),
        fc.integer({ min: 20, max: 1500 }),
        fc.array(fc.integer({ min: 1, max: 700 }), { maxLength: 30 }),
        fc.nat(7),
        fc.boolean(),
        (h, size, mss, pieces, misaligned, canFinish) => {
          const payload = bytesOf(size, mss);
          const body = h.isUdp ? udp(payload) : tcp(payload, { options: h.tcpOptions });
          const protocol = h.isUdp ? 17 : 6;
          const packet = h.v6 ? ipv6(protocol, body, h.hopByHop ? [[0, 0, 1, 4, 0, 0, 0, 0]] : []) : ipv4(protocol, body, { options: h.ipOptions });
          const bytes = ethernet(h.v6 ? 0x86dd : 0x0800, packet, { vlans: h.vlans });
          const type = h.isUdp ? GSO_UDP_L4 : h.v6 ? GSO_TCPV6 : GSO_TCPV4;
          const made = convert(gso(type, mss, bytes, { pieces, misaligned }), canFinish ? ACCEPTS_CSUM : 0);
          const again = made.flatMap((m) => [...m.bytes.slice(dissect(m.bytes).payload)]);
          expect(again).toEqual(payload);
          expect(made.length).toBe(Math.ceil(size / mss));
          for (const m of made) expect(faults(canFinish ? finished(m) : m.bytes)).toEqual([]);
        },
      ),
      { numRuns: 150 },
    );
  });
});

describe('offload requests', () => {
  const tcp4 = (): Uint8Array => ethernet(0x0800, ipv4(6, tcp(bytesOf(600))));
  const tcp6 = (): Uint8Array => ethernet(0x86dd, ipv6(6, tcp(bytesOf(600))));

  it.each<[string, Frame, number]>([
    ['nothing asked', { bytes: tcp4() }, 0],
    ['checksum', { bytes: tcp4(), flags: FRAME_NEEDS_CSUM, csumStart: 34, csumOffset: 16 }, ACCEPTS_CSUM],
    ['TSO4', gso(GSO_TCPV4, 100, tcp4()), ACCEPTS_TSO4 | ACCEPTS_CSUM],
    ['TSO4 with ECN', gso(GSO_TCPV4 | GSO_ECN, 100, tcp4()), ACCEPTS_TSO4 | ACCEPTS_ECN | ACCEPTS_CSUM],
    ['TSO6', gso(GSO_TCPV6, 100, tcp6()), ACCEPTS_TSO6 | ACCEPTS_CSUM],
    ['USO4', gso(GSO_UDP_L4, 100, ethernet(0x0800, ipv4(17, udp(bytesOf(600))))), ACCEPTS_USO4 | ACCEPTS_CSUM],
    ['USO6', gso(GSO_UDP_L4, 100, ethernet(0x86dd, ipv6(17, udp(bytesOf(600))))), ACCEPTS_USO6 | ACCEPTS_CSUM],
  ])('%s', (_, frame, needs) => expect(needsOf(frame)).toBe(needs));

  it.each<[string, Frame]>([
    ['csum_start past the end', { bytes: tcp4(), flags: FRAME_NEEDS_CSUM, csumStart: 65535, csumOffset: 0 }],
    ['csum_start + csum_offset past the end', { bytes: tcp4(), flags: FRAME_NEEDS_CSUM, csumStart: 34, csumOffset: 620 - 1 }],
    ['sum of both beyond 16 bits', { bytes: tcp4(), flags: FRAME_NEEDS_CSUM, csumStart: 65535, csumOffset: 65535 }],
    ['GSO without NEEDS_CSUM', gso(GSO_TCPV4, 100, tcp4(), { flags: 0 })],
    ['gso_size 0', gso(GSO_TCPV4, 0, tcp4())],
    ['TCPV6 on an IPv4 frame', gso(GSO_TCPV6, 100, tcp4())],
    ['TCPV4 on a UDP frame', gso(GSO_TCPV4, 100, ethernet(0x0800, ipv4(17, udp(bytesOf(600)))), { csumOffset: 16 })],
    ['UDP_L4 on a TCP frame', gso(GSO_UDP_L4, 100, tcp4(), { csumOffset: 6 })],
    ['ECN on UDP_L4', gso(GSO_UDP_L4 | GSO_ECN, 100, ethernet(0x0800, ipv4(17, udp(bytesOf(600)))))],
    ['ECN alone', gso(GSO_ECN, 100, tcp4())],
    ['UFO with segments of less than 8 bytes', gso(GSO_UDP, 7, ethernet(0x0800, ipv4(17, udp(bytesOf(600)))))],
    ['tunnel bits, which are not offered', gso(GSO_TCPV4 | 0x20, 100, tcp4())],
    ['csum_start beside the TCP header', gso(GSO_TCPV4, 100, tcp4(), { csumStart: 36 })],
    ['csum_offset beside the field', gso(GSO_TCPV4, 100, tcp4(), { csumOffset: 14 })],
    ['an IPv4 fragment', gso(GSO_TCPV4, 100, ethernet(0x0800, ipv4(6, tcp(bytesOf(600)), { fragment: 0x2000 })))],
    ['a TCP data offset below 5', gso(GSO_TCPV4, 100, patched(tcp4(), 46, 0x40), { csumStart: 34 })],
    ['a TCP header longer than the frame', gso(GSO_TCPV4, 100, patched(ethernet(0x0800, ipv4(6, tcp([]))), 46, 0xf0), { csumStart: 34 })],
    ['an IPv4 header length below 5', gso(GSO_TCPV4, 100, patched(tcp4(), 14, 0x44), { csumStart: 34, csumOffset: 16 })],
    ['a frame of 20 bytes', { bytes: tcp4().slice(0, 20), flags: FRAME_NEEDS_CSUM, gsoType: GSO_TCPV4, gsoSize: 10, csumStart: 34, csumOffset: 16 }],
    ['more segments than are made of one frame', gso(GSO_TCPV4, 1, ethernet(0x0800, ipv4(6, tcp(bytesOf(MAXIMUM_GSO_SEGMENTS + 1)))))],
    ['an IPv6 routing header with segments left', gso(GSO_TCPV6, 100, ethernet(0x86dd, ipv6(6, tcp(bytesOf(600)), [[43, 0, 0, 1, 0, 0, 0, 0]])))],
    ['nine IPv6 extension headers', gso(GSO_TCPV6, 100, ethernet(0x86dd, ipv6(6, tcp(bytesOf(600)), new Array(9).fill([60, 0, 1, 4, 0, 0, 0, 0]))))],
  ])('malformed: %s', (_, frame) => expect(needsOf(frame)).toBe(FRAME_MALFORMED));

  function patched(bytes: Uint8Array, at: number, value: number): Uint8Array {
    const copy = bytes.slice();
    copy[at] = value;
    return copy;
  }

  it('random frames and requests never throw, and what is found well-formed converts into bounded frames of all the payload', () => {
    const header = fc.constantFrom(tcp4().slice(0, 60), tcp6().slice(0, 80), new Uint8Array(0));
    fc.assert(
      fc.property(
        header,
        fc.uint8Array({ minLength: 1, maxLength: 400 }),
        fc.array(fc.tuple(fc.nat(80), fc.nat(255)), { maxLength: 4 }),
        fc.record({
          flags: fc.constantFrom(0, 1, 1, 1),
          gsoType: fc.constantFrom(0, 1, 4, 5, 0x81, 3, 255),
          gsoSize: fc.constantFrom(0, 1, 7, 100, 65535),
          csumStart: fc.constantFrom(0, 34, 54, 65535),
          csumOffset: fc.constantFrom(0, 6, 16, 65535),
          pieces: fc.array(fc.integer({ min: 1, max: 90 }), { maxLength: 20 }),
          misaligned: fc.nat(7),
        }),
        (head, tail, pokes, request) => {
          const bytes = Uint8Array.from([...head, ...tail]);
          for (const [at, value] of pokes) if (at < bytes.length) bytes[at] = value;
          const frame = { bytes, ...request };
          const needs = needsOf(frame);
          const made = convert(frame);
          if (needs === FRAME_MALFORMED) expect(made).toEqual([]);
          else if (request.gsoType !== 0) expect(made.length).toBeLessThanOrEqual(MAXIMUM_GSO_SEGMENTS);
        },
      ),
      { numRuns: 2000 },
    );
  });
});
