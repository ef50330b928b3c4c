// The short way that usual frames take is nowhere to be seen: what a driver finds, and what is counted, is what the long way leaves. Two stations get the same; one of them waits for a time stamp that never comes, or gets its
// packets in two pieces, so that it takes the long way.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { PlainReceive } from '#devices/igb/receive-plain';
import { TransmitQueue } from '#devices/igb/transmit-queue';
import { EOP, IFCS, of, R, RCTL_BAM, RCTL_EN, RCTL_LPE, RCTL_SECRC, RCTL_UPE, RS, SRRCTL, type Station, wired } from './bench.ts';

const MAC = [0x52, 0x54, 0, 0, 0, 0x0a];
/** TSYNCRXCTL: stamps messages of the time protocol over Ethernet; none comes. */
const STAMPS_PTP = 0x10;

/** Ones' complement sum of 16-bit words, folded; an odd byte counts as a high one. */
function sum(bytes: readonly number[], start = 0): number {
  let total = start;
  for (let i = 0; i < bytes.length; i += 2) total += ((bytes[i] as number) << 8) | (bytes[i + 1] ?? 0);
  while (total > 0xffff) total = (total & 0xffff) + (total >>> 16);
  return total;
}

interface Shape {
  readonly to: 'station' | 'everybody' | 'group' | 'other';
  readonly kind: 'tcp' | 'udp' | 'icmp' | 'other' | 'ipv6' | 'vlan' | 'control';
  readonly payload: number;
  readonly options: number;
  readonly fragment: number;
  readonly ports: readonly [number, number];
  readonly checksum: 'right' | 'wrong' | 'none';
  readonly ipRight: boolean;
  readonly lies: number;
  readonly seed: number;
}

const TARGETS = { station: MAC, everybody: [0xff, 0xff, 0xff, 0xff, 0xff, 0xff], group: [1, 0, 0x5e, 0, 0, 1], other: [2, 0, 0, 0, 0, 9] };
const TYPES = { tcp: 0x0800, udp: 0x0800, icmp: 0x0800, other: 0x88b5, ipv6: 0x86dd, vlan: 0x8100, control: 0x8808 };

function made(shape: Shape): number[] {
  const { kind, payload, seed } = shape;
  const type = TYPES[kind];
  const head = [...TARGETS[shape.to], 2, 0, 0, 0, 0, 1, type >> 8, type & 0xff];
  const data = Array.from({ length: payload }, (_, i) => (seed * 31 + i * 7) & 0xff);
  if (type !== 0x0800) return pad([...head, ...data]);
  const protocol = { tcp: 6, udp: 17, icmp: 1 }[kind as 'tcp' | 'udp' | 'icmp'];
  const ports = shape.ports.flatMap((port) => [port >> 8, port & 0xff]);
  const header =
    kind === 'tcp'
      ? [...ports, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x10, 1, 0, 0, 0, 0, 0]
      : kind === 'udp'
        ? [...ports, (8 + payload) >> 8, (8 + payload) & 0xff, 0, 0]
        : [8, 0, 0, 0];
  const transport = [...header, ...data];
  const place = kind === 'tcp' ? 16 : 6;
  const addresses = [10, 0, 0, 1, 10, 0, 0, seed & 0xff];
  if (kind !== 'icmp' && shape.checksum !== 'none') {
    const right = ~sum([...addresses, 0, protocol, transport.length >> 8, transport.length & 0xff, ...transport]) & 0xffff;
    const value = shape.checksum === 'right' ? right || 0xffff : right ^ 0x101;
    transport[place] = value >> 8;
    transport[place + 1] = value & 0xff;
  }
  const words = 5 + shape.options;
  const total = 4 * words + transport.length + shape.lies;
  const ip = [0x40 | words, 0, (total >> 8) & 0xff, total & 0xff, 0, seed & 0xff, shape.fragment >> 8, shape.fragment & 0xff, 64, protocol, 0, 0, ...addresses];
  ip.push(...new Array<number>(4 * shape.options).fill(1));
  const check = ~sum(ip) & 0xffff;
  ip[10] = check >> 8;
  ip[11] = (check & 0xff) ^ (shape.ipRight ? 0 : 1);
  return pad([...head, ...ip, ...transport]);
}

function pad(bytes: number[]): number[] {
  return bytes.length < 60 ? [...bytes, ...new Array<number>(60 - bytes.length).fill(0)] : bytes;
}

const often = <T>(usual: T, ...rare: T[]): fc.Arbitrary<T> =>
  fc.oneof({ arbitrary: fc.constant(usual), weight: 20 }, ...rare.map((value) => ({ arbitrary: fc.constant(value), weight: 1 })));

const shapes = fc.record<Shape>({
  to: often('station', 'everybody', 'group', 'other') as fc.Arbitrary<Shape['to']>,
  kind: fc.constantFrom('tcp', 'udp', 'tcp', 'udp', 'icmp', 'other', 'ipv6', 'vlan', 'control'),
  payload: fc.oneof(fc.integer({ min: 0, max: 80 }), fc.integer({ min: 0, max: 1500 })),
  options: often(0, 1, 3),
  fragment: often(0, 0x4000, 0x2000, 0x0010),
  ports: fc.tuple(often(1234, 2049), often(80, 2049)),
  checksum: often('right', 'wrong', 'none') as fc.Arbitrary<Shape['checksum']>,
  ipRight: often(true, false),
  lies: often(0, 1, -1, -9, 900),
  seed: fc.nat(255),
});

/** Registers in which frames leave something: what is left of a station when both are to be the same. */
function registers(nic: Station): number[] {
  const seen: number[] = [];
  for (let at = 0x4000; at < 0x4140; at += 4) seen.push(nic.read(at));
  for (let at = 0x1_0000; at < 0x1_0800; at += 0x100) for (const of8 of [0x10, 0x14, 0x18, 0x34, 0x38, 0x40, 0x44, 0x48, 0x50]) seen.push(nic.read(at + of8));
  for (let q = 0; q < 16; q++) seen.push(nic.read(of(R.RDH, q)), nic.read(of(R.TDH, q)), nic.read(of(R.RQDPC, q)));
  seen.push(nic.read(R.ICR));
  return seen;
}

/** Runs `work` and says how often the short way was taken. */
function counting(take: (note: () => void) => () => void, work: () => void): number {
  let count = 0;
  const undo = take(() => count++);
  try {
    work();
  } finally {
    undo();
  }
  return count;
}

function stores(note: () => void): () => void {
  const { prototype } = PlainReceive;
  const { store } = prototype;
  prototype.store = function (...args) {
    note();
    return store.apply(this, args);
  };
  return () => {
    prototype.store = store;
  };
}

const modes = fc.record({
  rctl: often(RCTL_EN | RCTL_BAM | RCTL_SECRC, RCTL_EN | RCTL_BAM | RCTL_SECRC | RCTL_UPE | RCTL_LPE, RCTL_EN | RCTL_BAM),
  rxcsum: often(0x2300, 0x2100, 0x2200, 0x2000, 0x0300),
  // One queue; RSS by TCP and UDP over four; pools with copies for those who take broadcasts, and RSS in them.
  mrqc: fc.constantFrom(0, 2 | (3 << 16) | (1 << 22), 3, 5 | (3 << 16) | (1 << 22)),
  srrctl: often<number>(SRRCTL.one, SRRCTL.one | (1 << 20), SRRCTL.split),
  buffers: fc.constantFrom(31, 9),
});

function station(mode: { rctl: number; rxcsum: number; mrqc: number; srrctl: number; buffers: number }, slow: boolean): ReturnType<typeof wired> {
  const wire = wired({ fullRing: 'drop' });
  const { nic } = wire;
  for (let i = 0; i < 10; i++) nic.write(R.RSSRK + 4 * i, 0x9e37_79b9 * (i + 1));
  for (let i = 0; i < 32; i++) nic.write(R.RETA + 4 * i, 0x0803_0100);
  nic.write(R.MRQC, mode.mrqc);
  // REPL_EN; the station's address is pool 0's and 1's.
  nic.write(0x581c, 1 << 30);
  nic.write(R.RAH, 0x8000_0a00 | (3 << 18));
  for (let pool = 0; pool < 8; pool++) nic.write(0x5ad0 + 4 * pool, (1 << 27) | (1 << 24) | (1 << 17) | (pool === 2 ? 0 : 0x8000_0000) | 0x2600);
  nic.write(0x5af0, 0x8000_0000);
  if (slow) nic.write(R.TSYNCRXCTL, STAMPS_PTP);
  nic.start({ queues: 9, ...mode });
  return wire;
}

describe('usual frames on receive', () => {
  test('leave what the long way leaves: descriptors, buffers, registers', () => {
    let short = 0;
    fc.assert(
      fc.property(modes, fc.array(shapes, { minLength: 16, maxLength: 30 }), (mode, wanted) => {
        const frames = wanted.map(made);
        const [fast, slow] = [false, true].map((way) => station(mode, way)) as [ReturnType<typeof wired>, ReturnType<typeof wired>];
        short += counting(stores, () => fast.inject(...frames));
        expect(counting(stores, () => slow.inject(...frames))).toBe(0);
        for (let q = 0; q < 9; q++) expect(fast.nic.received(q)).toEqual(slow.nic.received(q));
        expect(registers(fast.nic)).toEqual(registers(slow.nic));
        expect(Buffer.compare(fast.nic.bytes, slow.nic.bytes)).toBe(0);
      }),
      { numRuns: 16 },
    );
    // And it is taken.
    expect(short).toBeGreaterThan(30);
  });

  test('take it: TCP and UDP in one queue, and a batch of them shows as one', () => {
    const { nic, inject } = wired();
    nic.start();
    const one: Shape = {
      to: 'station',
      kind: 'tcp',
      payload: 6,
      options: 0,
      fragment: 0x4000,
      ports: [1, 2],
      checksum: 'right',
      ipRight: true,
      lies: 0,
      seed: 7,
    };
    const frames = Array.from({ length: 20 }, (_, i) => made({ ...one, kind: i % 2 === 0 ? 'tcp' : 'udp', payload: i }));
    expect(counting(stores, () => inject(...frames))).toBe(20);
    expect(nic.received().map(({ bytes }) => [...bytes])).toEqual(frames);
    expect(nic.read(of(R.RDH, 0))).toBe(20);
  });
});

describe('usual packets on transmit', () => {
  function plains(note: () => void): () => void {
    const { prototype } = TransmitQueue;
    const { plain } = prototype;
    prototype.plain = function (...args) {
      const length = plain.apply(this, args);
      if (length > 0) note();
      return length;
    };
    return () => {
      prototype.plain = plain;
    };
  }

  test('are what packets in two pieces are: frames, registers', () => {
    let short = 0;
    const packets = fc.array(
      fc.record({ length: fc.oneof(fc.integer({ min: 10, max: 120 }), fc.integer({ min: 14, max: 1514 })), group: fc.boolean(), seed: fc.nat(255) }),
      {
        minLength: 1,
        maxLength: 14,
      },
    );
    fc.assert(
      fc.property(packets, fc.constantFrom(0xfa, 0xf2), fc.boolean(), (wanted, tctl, pooled) => {
        const results = [false, true].map((pieces) => {
          const { nic, outbox } = wired();
          if (pooled) {
            nic.write(R.MRQC, 3);
            // Judged: the source has to be the pool's.
            nic.write(0x3500, 0x0000_0001);
            nic.write(R.RAH, 0x8000_0a00 | (1 << 18));
          }
          nic.start({ tctl, queues: 1 });
          for (const { length, group, seed } of wanted) {
            const source = seed % 5 === 0 ? [2, 0, 0, 0, 0, 3] : MAC;
            const bytes = [
              ...(group ? TARGETS.group : TARGETS.other),
              ...source,
              0x88,
              0xb5,
              ...Array.from({ length: Math.max(0, length - 14) }, (_, i) => (i + seed) & 0xff),
            ].slice(0, length);
            if (!pieces) nic.data(bytes, EOP | IFCS | RS);
            else {
              const at = nic.place(bytes);
              nic.describe(0, at, 0, 6 | (3 << 20) | ((IFCS | 0x20) << 24), length << 14);
              nic.describe(0, at + 6, 0, (length - 6) | (3 << 20) | ((EOP | IFCS | RS | 0x20) << 24), 0);
            }
          }
          const taken = counting(plains, () => nic.go());
          if (!pieces) short += taken;
          const seen = registers(nic);
          return { frames: outbox().map((bytes) => [...bytes]), statistics: seen.slice(0, 80), spoofed: nic.read(0x3554) };
        });
        expect(results[0]).toEqual(results[1]);
      }),
      { numRuns: 20 },
    );
    expect(short).toBeGreaterThan(50);
  });

  test('with anything asked of them are not', () => {
    const { nic, outbox } = wired();
    nic.start({ ctrl: 1 << 30 });
    const bytes = pad([...TARGETS.other, ...MAC, 0x88, 0xb5]);
    const VLE = 0x40;
    nic.context({ tag: 5 });
    nic.data(bytes, EOP | IFCS | RS | VLE);
    nic.legacy(bytes, EOP | IFCS | RS | VLE, { tag: 6 });
    nic.data([...bytes, 1, 2, 3, 4], EOP | RS);
    expect(counting(plains, () => nic.go())).toBe(0);
    expect(outbox().map((frame) => [frame[12], frame[15]])).toEqual([
      [0x81, 5],
      [0x81, 6],
    ]);
  });
});
