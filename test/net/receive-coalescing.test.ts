// Receive segment coalescing: what becomes one frame, and that cutting it again gives back the very segments it was made of.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { viewsOf } from '#core/guest-memory';
import { ACCEPTS_CSUM, ACCEPTS_RSC, ACCEPTS_TSO4, ACCEPTS_TSO6, FRAME_DATA_VALID, FRAME_NEEDS_CSUM, FRAME_RSC_INFO, FrameBatch } from '#net/port';
import { ReceiveCoalescer } from '#net/receive-coalescing';
import { SoftwareOffload } from '#net/software-offload';
import { ACK, CWR, dissect, ethernet, FIN, faults, ipv4, ipv6, onesComplementSum, PSH, pseudoHeader, seedChecksum, tcp, udp } from './frames.ts';
import { appendFrame, type Frame, frameBytes } from './memory-port.ts';

const ACCEPTS = ACCEPTS_RSC | ACCEPTS_CSUM | ACCEPTS_TSO4 | ACCEPTS_TSO6;
const coalescer = new ReceiveCoalescer();
const bytesOf = (length: number, start = 0): number[] => Array.from({ length }, (_, i) => (i * 7 + start) & 0xff);

interface Segment {
  readonly size: number;
  readonly flags?: number;
  readonly id?: number;
  readonly options?: readonly number[];
  readonly skip?: number;
  readonly change?: (bytes: Uint8Array) => void;
}

function finish(bytes: Uint8Array): Uint8Array {
  const p = dissect(bytes);
  bytes.set([0, 0], p.transport + 16);
  const sum = ~onesComplementSum([...pseudoHeader(p), ...bytes.slice(p.transport)]) & 0xffff;
  bytes.set([sum >> 8, sum & 0xff], p.transport + 16);
  return bytes;
}

/** Segments of a flow, one after the other. */
function flow(version: 4 | 6, segments: readonly Segment[], fragment = 0x4000): Frame[] {
  let sequence = 0xffff_fc00;
  return segments.map((s, i) => {
    const body = tcp(bytesOf(s.size, i), { sequence: (sequence + (s.skip ?? 0)) >>> 0, flags: s.flags ?? ACK, options: s.options ?? [] });
    sequence = (sequence + s.size) >>> 0;
    const packet = version === 4 ? ipv4(6, body, { id: s.id ?? (0xffff + i) & 0xffff, fragment }) : ipv6(6, body);
    const bytes = ethernet(version === 4 ? 0x0800 : 0x86dd, packet);
    s.change?.(bytes);
    return { bytes: s.change === undefined ? finish(bytes) : bytes };
  });
}

function batchOf(frames: readonly Frame[]): FrameBatch {
  const batch = new FrameBatch(viewsOf(new ArrayBuffer(8)));
  for (const frame of frames) appendFrame(batch, frame);
  return batch;
}

const gather = (frames: readonly Frame[], accepts = ACCEPTS): number => coalescer.gather(batchOf(frames), 0, frames.length, accepts);

/** What the frame made last is for a driver without such offloads. */
function cutAgain(): Uint8Array[] {
  const { output } = coalescer;
  const bytes = frameBytes(output, 0);
  const { transport } = dissect(bytes);
  const batch = batchOf([
    { bytes, flags: FRAME_NEEDS_CSUM, gsoType: output.gsoType[0] as number, gsoSize: output.gsoSize[0] as number, csumStart: transport, csumOffset: 16 },
  ]);
  const offload = new SoftwareOffload();
  offload.convert(batch, 0, 0, 0);
  return Array.from({ length: offload.output.count }, (_, i) => frameBytes(offload.output, i));
}

describe.each([4, 6] as const)('IPv%i', (version) => {
  it('makes one frame of segments that join, and cutting it gives the same back', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 2, max: 20 }),
        fc.integer({ min: 1, max: 1448 }),
        fc.integer({ min: 1, max: 1448 }),
        fc.constantFrom(ACK, ACK | PSH, ACK | FIN),
        fc.constantFrom([], [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]),
        fc.array(fc.integer({ min: 1, max: 90 }), { maxLength: 3 }),
        (count, size, rest, lastFlags, options, pieces) => {
          const last = Math.min(rest, size);
          const frames = flow(
            version,
            Array.from({ length: count }, (_, i) => ({ size: i < count - 1 ? size : last, flags: i < count - 1 ? ACK : lastFlags, options })),
          ).map((f, i) => ({ ...f, pieces, misaligned: i % 8 }));
          expect(gather(frames)).toBe(count);
          const { output } = coalescer;
          expect([output.count, output.flags[0], output.gsoSize[0], output.csumStart[0], output.csumOffset[0]]).toEqual([
            1,
            FRAME_NEEDS_CSUM | FRAME_RSC_INFO,
            size,
            count,
            0,
          ]);
          const again = cutAgain();
          expect(again.map((b) => [...b])).toEqual(frames.map((f) => [...f.bytes]));
        },
      ),
      { numRuns: 60 },
    );
  });

  const two = (second: Partial<Segment>, first: Partial<Segment> = {}): Frame[] =>
    flow(version, [
      { size: 100, ...first },
      { size: 100, ...second },
    ]);
  it.each<[string, Frame[]]>([
    ['a gap', two({ skip: 1 })],
    ['a repeated segment', two({ skip: -100 })],
    ['a longer segment', two({ size: 101 })],
    ['PSH on the first', two({}, { flags: ACK | PSH })],
    ['FIN on the first', two({}, { flags: ACK | FIN })],
    ['CWR', two({ flags: ACK | CWR })],
    ['CWR on the first', two({}, { flags: ACK | CWR })],
    ['ECE on one only', two({ flags: ACK | 64 })],
    ['SYN', two({ flags: ACK | 2 })],
    ['RST', two({ flags: ACK | 4 })],
    ['URG', two({ flags: ACK | 32 })],
    ['no ACK', two({ flags: 0 })],
    ['another set of options', two({ options: [1, 1, 1, 1] })],
    ['other options', two({ options: [1, 1, 1, 1] }, { options: [2, 4, 5, 180] })],
    ['a bad checksum on the second', two({ change: (b) => finish(b).set([0xff], 60) })],
    ['a bad checksum on the first', two({}, { change: (b) => finish(b).set([0xff], 60) })],
    ['another acknowledgement', two({ change: (b) => finish(withByte(b, dissect(b).transport + 11)) })],
    ['another window', two({ change: (b) => finish(withByte(b, dissect(b).transport + 15)) })],
    ['another port', two({ change: (b) => finish(withByte(b, dissect(b).transport + 1)) })],
    ['another Ethernet source', two({ change: (b) => finish(withByte(b, 9)) })],
    ['another hop limit or TTL', two({ change: (b) => finish(withHop(b)) })],
    ['another DSCP or ECN', two({ change: (b) => finish(withClass(b)) })],
  ])('leaves apart: %s', (_what, frames) => {
    expect(gather(frames)).toBeLessThan(2);
  });

  it('ends with a short segment, with PSH and with FIN', () => {
    for (const middle of [{ size: 99 }, { size: 100, flags: ACK | PSH }, { size: 100, flags: ACK | FIN }])
      expect(gather(flow(version, [{ size: 100 }, middle, { size: 99 }]))).toBe(2);
  });

  it('counts duplicate acknowledgements behind the data, and nothing behind them', () => {
    const frames = flow(version, [{ size: 100 }, { size: 100 }, { size: 0 }, { size: 0 }, { size: 100 }]);
    expect(gather(frames)).toBe(4);
    expect([coalescer.output.csumStart[0], coalescer.output.csumOffset[0]]).toEqual([2, 2]);
    expect(cutAgain().length).toBe(2);
    // Not behind a segment that closed the flow's push, whose flags they do not have.
    expect(gather(flow(version, [{ size: 100 }, { size: 100, flags: ACK | PSH }, { size: 0 }]))).toBe(2);
    expect(gather(flow(version, [{ size: 0 }, { size: 0 }]))).toBe(0);
  });

  it('takes the padding of a short frame for what it is', () => {
    const frames = flow(version, [{ size: 2 }, { size: 2 }, { size: 0 }]).map((f) => ({ bytes: Uint8Array.from([...f.bytes, 0xaa, 0xbb, 0xcc]) }));
    expect(gather(frames)).toBe(3);
    expect(frameBytes(coalescer.output, 0).length).toBe((frames[0] as Frame).bytes.length - 3 + 2);
  });

  it('believes checksums that others vouch for, and asks for no more than the driver takes', () => {
    const frames = flow(version, [{ size: 100 }, { size: 100 }]);
    const seeded = frames.map((f) => ({
      bytes: seedChecksum(f.bytes.slice()),
      flags: FRAME_NEEDS_CSUM,
      csumStart: dissect(f.bytes).transport,
      csumOffset: 16,
    }));
    expect(gather(seeded)).toBe(2);
    expect(cutAgain().map((b) => [...b])).toEqual(frames.map((f) => [...f.bytes]));
    expect(gather(seeded.map((f) => ({ ...f, csumStart: 33 })))).toBeLessThan(2);
    expect(gather(seeded.map((f) => ({ ...f, flags: FRAME_DATA_VALID })))).toBe(2);
    expect(gather(frames, ACCEPTS & ~ACCEPTS_RSC)).toBe(0);
    expect(gather(frames, ACCEPTS & ~ACCEPTS_CSUM)).toBe(0);
    expect(gather(frames, ACCEPTS & ~(version === 4 ? ACCEPTS_TSO4 : ACCEPTS_TSO6))).toBe(0);
  });

  it('makes no packet of more than 65535 bytes', () => {
    const frames = flow(
      version,
      Array.from({ length: 60 }, () => ({ size: 1448 })),
    );
    const taken = gather(frames);
    expect(taken).toBe(version === 4 ? 45 : 45);
    for (const bytes of cutAgain()) expect(faults(bytes)).toEqual([]);
  });
});

function withByte(bytes: Uint8Array, at: number): Uint8Array {
  bytes[at] = (bytes[at] as number) ^ 1;
  return bytes;
}

function fixIp(bytes: Uint8Array): Uint8Array {
  if ((bytes[14] as number) >> 4 !== 4) return bytes;
  bytes.set([0, 0], 24);
  const sum = ~onesComplementSum(bytes.slice(14, 34)) & 0xffff;
  bytes.set([sum >> 8, sum & 0xff], 24);
  return bytes;
}

const withHop = (bytes: Uint8Array): Uint8Array => fixIp(withByte(bytes, (bytes[14] as number) >> 4 === 4 ? 22 : 21));
const withClass = (bytes: Uint8Array): Uint8Array => fixIp(withByte(bytes, 15));

describe('IPv4 alone', () => {
  it('without DF the identifications have to go up by one', () => {
    expect(
      gather(
        flow(
          4,
          [
            { size: 50, id: 9 },
            { size: 50, id: 10 },
          ],
          0,
        ),
      ),
    ).toBe(2);
    expect(
      gather(
        flow(
          4,
          [
            { size: 50, id: 9 },
            { size: 50, id: 9 },
          ],
          0,
        ),
      ),
    ).toBeLessThan(2);
    expect(
      gather(
        flow(4, [
          { size: 50, id: 9 },
          { size: 50, id: 9 },
        ]),
      ),
    ).toBe(2);
  });

  it('leaves apart fragments, options, a bad header checksum, and lengths that are not true', () => {
    const frames = flow(4, [{ size: 50 }, { size: 50 }]);
    const changed = (change: (b: Uint8Array) => void): Frame[] =>
      frames.map((f) => {
        const bytes = f.bytes.slice();
        change(bytes);
        return { bytes };
      });
    expect(gather(changed((b) => b.set([0x20, 0], 20)))).toBe(0);
    expect(gather(changed((b) => b.set([0x12, 0x34], 24)))).toBe(0);
    expect(gather(changed((b) => b.set([0xff, 0xff], 16)))).toBe(0);
    expect(gather(changed((b) => b.set([0, 30], 16)))).toBe(0);
    expect(gather(changed((b) => b.set([0x46], 14)))).toBe(0);
    expect(gather(frames.map((f) => ({ bytes: f.bytes.slice(0, 53) })))).toBe(0);
    expect(gather([0, 1].map(() => ({ bytes: ethernet(0x0800, ipv4(17, udp(bytesOf(50)))) })))).toBe(0);
    expect(gather(frames.map((f) => ({ bytes: f.bytes.slice(0, 13) })))).toBe(0);
  });
});
