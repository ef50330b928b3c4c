// Receive, from the cable to descriptors: filters, sizes, buffers, tags, check sequences, checksums, the causes and what is counted.
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  BROADCAST,
  EOP,
  frame,
  IFCS,
  link,
  list,
  OTHER,
  packet,
  R,
  RCTL_BAM,
  RCTL_EN,
  RCTL_LBM,
  RCTL_LPE,
  RCTL_MPE,
  RCTL_SBP,
  RCTL_SECRC,
  RCTL_UPE,
  RCTL_VFE,
  RING,
  RS,
  RXDMT0,
  RXO,
  RXT0,
  SRPD,
  STATION,
  Station,
  slowCrc,
  sum16,
  TCTL_ON,
  wired,
} from './bench.ts';

const ON = RCTL_EN | RCTL_BAM | RCTL_SECRC;
const CTRL_VME = 0x4000_0000;
const PIF = 0x80;
const IPCS = 0x40;
const TCPCS = 0x20;
const VP = 8;
const IXSM = 4;
const IPE = 0x40;
const TCPE = 0x20;
const CE = 1;

describe('filters, in the order of the manual', () => {
  const group = [1, 0, 0x5e, 1, 2, 3];
  const arrives = (rctl: number, to: readonly number[], set?: (nic: Station) => void): number | undefined => {
    const { nic, inject } = wired();
    nic.start({ rctl: RCTL_EN | RCTL_SECRC | rctl });
    set?.(nic);
    inject(frame(64, to));
    return nic.received()[0]?.status;
  };
  /** Sets the hash bit of an address for RCTL.MO 0: bits 47:36. */
  const hash = (to: readonly number[], mo: 0 | 1 | 2 | 3) => (nic: Station) => {
    const bits = ((((to[5] as number) << 8) | (to[4] as number)) >>> ([4, 3, 2, 0] as const)[mo]) & 0xfff;
    nic.write(R.MTA + 4 * (bits >>> 5), 1 << (bits & 31));
  };

  it('its own address', () => expect(arrives(0, STATION)).toBe(7));
  it('another unicast address only with UPE, and then inexactly', () => expect([arrives(0, OTHER), arrives(RCTL_UPE, OTHER)]).toEqual([undefined, 7 | PIF]));
  it('broadcast with BAM or MPE', () => expect([arrives(0, BROADCAST), arrives(RCTL_BAM, BROADCAST), arrives(RCTL_MPE, BROADCAST)]).toEqual([undefined, 7, 7]));
  it('groups with MPE', () => expect([arrives(0, group), arrives(RCTL_MPE, group)]).toEqual([undefined, 7]));
  it.each([0, 1, 2, 3] as const)('groups by the hash table with MO %i, inexactly', (mo) =>
    expect([arrives(mo << 12, group, hash(group, mo)), arrives(((mo + 1) & 3) << 12, group, hash(group, mo))]).toEqual([7 | PIF, undefined]),
  );
  it('the hash table is for groups: a unicast address whose bit is set does not pass', () => expect(arrives(0, OTHER, hash(OTHER, 0))).toBeUndefined());
  it('exact groups, and by source address', () => {
    const exact = (bytes: readonly number[], select: number) => (nic: Station) => {
      nic.write(R.RAL + 8 * 15, ((bytes[0] as number) | ((bytes[1] as number) << 8) | ((bytes[2] as number) << 16) | ((bytes[3] as number) << 24)) >>> 0);
      nic.write(R.RAH + 8 * 15, 0x8000_0000 | (select << 16) | (bytes[4] as number) | ((bytes[5] as number) << 8));
    };
    expect([arrives(0, group, exact(group, 0)), arrives(0, [2, 2, 2, 2, 2, 2], exact(OTHER, 1)), arrives(0, group, exact(group, 2))]).toEqual([
      7,
      7,
      undefined,
    ]);
  });

  it('VLAN ids by the table, CFI by CFIEN, where VFE is on; untagged frames pass', () => {
    const { nic, inject } = wired();
    nic.start({ rctl: ON | RCTL_VFE });
    nic.write(R.VFTA + 4 * 3, 1 << 4);
    const tagged = (tci: number): number[] => frame(64, STATION, [0x81, 0, tci >>> 8, tci & 0xff, 8, 0]);
    inject(tagged(100), tagged(101), tagged(0x1064), frame(64));
    expect(nic.received().map(({ bytes }) => [bytes[14], bytes[15]])).toEqual([
      [0, 100],
      [0x10, 100],
      [frame(64)[14], frame(64)[15]],
    ]);
    nic.write(R.RCTL, ON | RCTL_VFE | (1 << 19));
    inject(tagged(100), tagged(0x1064));
    expect(nic.received()).toHaveLength(1);
  });
});

describe('buffers', () => {
  it.each([
    [256, 3 << 16],
    [512, 2 << 16],
    [1024, 1 << 16],
    [2048, 0],
    [4096, (3 << 16) | 0x200_0000],
    [8192, (2 << 16) | 0x200_0000],
    [16384, (1 << 16) | 0x200_0000],
  ])('of %i bytes', (size, bits) => {
    const { nic, inject } = wired();
    nic.start({ rctl: ON | RCTL_LPE | bits });
    inject(frame(9000), frame(size === 16384 ? 9000 : size), frame(60));
    const got = nic.received();
    expect(got.map(({ bytes }) => bytes.length)).toEqual([9000, size === 16384 ? 9000 : size, 60]);
    expect(got[0]?.lengths).toEqual(Array.from({ length: Math.ceil(9000 / size) }, (_, i) => Math.min(size, 9000 - i * size)));
    expect(list(got[0]?.bytes)).toEqual(frame(9000));
    expect(nic.read(R.RDH)).toBe(got.flatMap(({ lengths }) => lengths).length);
  });

  it('holds frames that find none at their source, and counts that', () => {
    const { nic, peer, inject } = wired();
    nic.start({ buffers: 2 });
    inject(frame(60), frame(61), frame(62), frame(63));
    expect([nic.received().length, peer.outbox.length, nic.read(R.RNBC), nic.read(R.MPC)]).toEqual([2, 2, 1, 0]);
    nic.refill(1);
    nic.refill(1);
    expect(nic.received().map(({ bytes }) => bytes.length)).toEqual([62, 63]);
  });

  it('loses them where the embedder wants a wire that loses: MPC, RXO', () => {
    const { nic, peer, inject } = wired({ fullRing: 'drop' });
    nic.start({ buffers: 2 });
    inject(frame(60), frame(61), frame(62), frame(63));
    expect([nic.received().length, peer.outbox.length, nic.read(R.RNBC), nic.read(R.MPC), nic.read(R.MPC), nic.read(R.ICR) & RXO]).toEqual([
      2,
      0,
      1,
      2,
      0,
      RXO,
    ]);
    expect(nic.nic.counters.snapshot().receiveDrops).toEqual({ 'ring-full': 2 });
  });

  it('passes over descriptors without an address', () => {
    const { nic, inject } = wired();
    nic.start({ rctl: ON | (3 << 16) });
    nic.buffer(0, 0);
    nic.buffer(2, 0);
    inject(frame(300));
    const [got] = nic.received();
    expect(list(got?.bytes)).toEqual(frame(300));
    expect(got?.lengths).toEqual([0, 256, 0, 44]);
  });

  it('RXDMT0 when the free descriptors fall to the threshold', () => {
    for (const [bits, least] of [
      [0, RING / 2],
      [1, RING / 4],
      [2, RING / 8],
    ] as const) {
      const { nic, inject } = wired();
      nic.start({ rctl: ON | (bits << 8) });
      let before = 0;
      while ((nic.read(R.ICR) & RXDMT0) === 0) {
        inject(frame(60));
        before++;
        expect(before).toBeLessThan(RING);
      }
      expect(RING - 1 - before).toBe(least);
    }
  });
});

describe('sizes and bad frames', () => {
  it('1522 octets with the FCS without LPE, 16384 with it', () => {
    const { nic, inject } = wired();
    nic.start({ rctl: ON });
    inject(frame(1518), frame(1519));
    expect(nic.received().map(({ bytes }) => bytes.length)).toEqual([1518]);
    expect([nic.read(R.ROC), nic.read(R.RLEC)]).toEqual([1, 1]);
    nic.write(R.RCTL, ON | RCTL_LPE);
    inject(frame(1519), frame(16380), frame(16381));
    expect(nic.received().map(({ bytes }) => bytes.length)).toEqual([1519, 16380]);
    expect(nic.read(R.ROC)).toBe(1);
  });

  it('stores them with SBP', () => {
    const { nic, inject } = wired();
    nic.start({ rctl: ON | RCTL_SBP });
    inject(frame(1600));
    expect(nic.received().map(({ bytes }) => bytes.length)).toEqual([1600]);
    expect([nic.read(R.ROC), nic.read(R.GPRC), nic.read(R.TPR)]).toEqual([1, 0, 1]);
  });

  it('pads what a sender would have padded, or takes it as undersized', () => {
    const padded = wired();
    padded.nic.start();
    padded.inject(frame(42));
    expect(list(padded.nic.received()[0]?.bytes)).toEqual([...frame(42), ...new Array(18).fill(0)]);
    const raw = wired({ shortFrames: 'as-is' });
    raw.nic.start();
    raw.inject(frame(42));
    expect([raw.nic.received().length, raw.nic.read(R.RUC), raw.nic.read(R.RLEC)]).toEqual([0, 1, 1]);
    raw.nic.write(R.RCTL, ON | RCTL_SBP);
    raw.inject(frame(42));
    expect(raw.nic.received()[0]?.bytes.length).toBe(42);
  });

  it('a wrong FCS: counted, stored only with SBP, and then with CE', () => {
    const { nic } = wired();
    nic.start({ rctl: ON | RCTL_LBM });
    nic.send([...frame(80), 1, 2, 3, 4], EOP | RS);
    expect([nic.received().length, nic.read(R.CRCERRS)]).toEqual([0, 1]);
    nic.write(R.RCTL, ON | RCTL_LBM | RCTL_SBP);
    nic.send([...frame(80), 1, 2, 3, 4], EOP | RS);
    const [got] = nic.received();
    expect([got?.errors, got?.bytes.length, nic.read(R.CRCERRS), nic.read(R.GPRC)]).toEqual([CE, 80, 1, 0]);
  });
});

describe('what is stored with a frame', () => {
  it('the real FCS when SECRC is clear', () => {
    const { nic, inject } = wired();
    nic.start({ rctl: ON & ~RCTL_SECRC });
    inject(frame(71), frame(42));
    const [plain, short] = nic.received();
    const crc = slowCrc(frame(71));
    expect(list(plain?.bytes)).toEqual([...frame(71), crc & 0xff, (crc >>> 8) & 0xff, (crc >>> 16) & 0xff, crc >>> 24]);
    expect(new DataView(Uint8Array.from(list(short?.bytes)).buffer).getUint32(60, true)).toBe(slowCrc([...frame(42), ...new Array(18).fill(0)]));
  });

  it('strips a tag with CTRL.VME, and tells it', () => {
    const { nic, inject } = wired();
    const tagged = frame(80, STATION, [0x81, 0, 0x61, 0x23, 8, 0]);
    nic.start({ ctrl: CTRL_VME });
    inject(tagged);
    const [got] = nic.received();
    expect(list(got?.bytes)).toEqual([...tagged.slice(0, 12), ...tagged.slice(16)]);
    expect([(got?.status as number) & VP, got?.special]).toEqual([VP, 0x6123]);
    nic.write(R.CTRL, 0x40);
    inject(tagged);
    expect(nic.received().map(({ bytes, status, special }) => [bytes.length, status & VP, special])).toEqual([[80, 0, 0]]);
  });

  it('the sum over the frame from PCSS on', () => {
    const { nic, inject } = wired();
    nic.start();
    inject(frame(75));
    nic.write(R.RXCSUM, 14);
    inject(frame(75), frame(1000));
    const expected = [frame(75), frame(75).slice(14), frame(1000).slice(14)].map((bytes) => ~sum16(bytes) & 0xffff);
    expect(nic.received().map(({ checksum }) => checksum)).toEqual(expected);
  });

  it.each([
    { version: 4, udp: false },
    { version: 4, udp: true },
    { version: 6, udp: false },
    { version: 6, udp: true },
  ] as const)('checksum results for IPv$version, UDP $udp', ({ version, udp }) => {
    const { nic, inject } = wired();
    nic.start();
    nic.write(R.RXCSUM, 0x700);
    const good = packet({ version, udp, filled: true });
    const wrong = [...good];
    wrong[90] = (wrong[90] as number) ^ 1;
    const header = [...good];
    header[version === 4 ? 22 : 21] = (header[version === 4 ? 22 : 21] as number) ^ 1;
    inject(good, wrong, header);
    const ip = version === 4 ? IPCS : 0;
    const results = nic.received().map(({ status, errors }) => [status & (IPCS | TCPCS | IXSM), errors]);
    expect(results).toEqual([
      [ip | TCPCS, 0],
      [ip | TCPCS, TCPE],
      [ip | TCPCS, version === 4 ? IPE : 0],
    ]);
    nic.write(R.RXCSUM, 0);
    inject(good);
    expect(nic.received().map(({ status }) => status & (IPCS | TCPCS | IXSM))).toEqual([IXSM]);
  });

  it('padding behind an IP packet does not count in its checksum', () => {
    const { nic, inject } = wired();
    nic.start();
    nic.write(R.RXCSUM, 0x300);
    inject([...packet({ payload: 2, filled: true }), 0xaa, 0xbb, 0xcc, 0xdd]);
    expect(nic.received().map(({ status, errors }) => [status & TCPCS, errors])).toEqual([[TCPCS, 0]]);
  });
});

describe('counts', () => {
  it('good frames by kind and size, octets, and all that came along', () => {
    const { nic, inject } = wired();
    nic.start({ rctl: ON | RCTL_MPE });
    inject(frame(60), frame(100), frame(1514), frame(60, BROADCAST), frame(60, [1, 0, 0, 0, 0, 1]), frame(60, OTHER));
    const octets = 64 + 104 + 1518 + 64 + 64;
    expect([nic.read(R.GPRC), nic.read(R.PRC64), nic.read(R.PRC127), nic.read(R.PRC1522), nic.read(R.BPRC), nic.read(R.MPRC)]).toEqual([5, 3, 1, 1, 1, 1]);
    expect([nic.read(R.GORCL), nic.read(R.GORCH), nic.read(R.TORL), nic.read(R.TPR)]).toEqual([octets, 0, octets + 64, 6]);
    expect([nic.read(R.GPRC), nic.read(R.GORCL), nic.read(R.TPR)]).toEqual([0, 0, 0]);
  });
});

describe('causes', () => {
  it('RXT0 at once without delays', () => {
    const { nic, inject } = wired();
    nic.start();
    inject(frame());
    expect(nic.read(R.ICR)).toBe(RXT0);
    expect(nic.read(R.ICR)).toBe(0);
  });

  it('RDTR starts anew with each frame; RADV does not', () => {
    const { nic, inject } = wired();
    nic.start();
    nic.write(R.RDTR, 10);
    nic.write(R.RADV, 25);
    for (let i = 0; i < 3; i++) {
      inject(frame());
      expect(nic.read(R.ICR)).toBe(0);
      nic.clock.advance(8 * 1024);
    }
    expect(nic.read(R.ICR)).toBe(0);
    nic.clock.advance(1024);
    expect(nic.read(R.ICR)).toBe(RXT0);
    nic.clock.advance(1e6);
    expect(nic.read(R.ICR)).toBe(0);
    inject(frame());
    nic.clock.advance(10 * 1024);
    expect(nic.read(R.ICR)).toBe(RXT0);
  });

  it('RADV without RDTR delays nothing', () => {
    const { nic, inject } = wired();
    nic.start();
    nic.write(R.RADV, 100);
    inject(frame());
    expect(nic.read(R.ICR)).toBe(RXT0);
  });

  it('RDTR.FPD ends the delay', () => {
    const { nic, inject } = wired();
    nic.start();
    nic.write(R.RDTR, 1000);
    inject(frame());
    expect(nic.read(R.ICR)).toBe(0);
    nic.write(R.RDTR, 0x8000_0000 | 1000);
    expect([nic.read(R.ICR), nic.read(R.RDTR)]).toEqual([RXT0, 1000]);
  });

  it('a small packet does not wait: SRPD and RXT0', () => {
    const { nic, inject } = wired();
    nic.start();
    nic.write(R.RDTR, 1000);
    nic.write(R.RSRPD, 64);
    inject(frame(65));
    expect(nic.read(R.ICR)).toBe(0);
    inject(frame(64));
    expect(nic.read(R.ICR)).toBe(SRPD | RXT0);
  });
});

describe('loopback', () => {
  it('in the MAC (RCTL.LBM) and in the PHY: frames come back and go nowhere else', () => {
    const { nic, peer, inject } = wired();
    nic.start({ rctl: ON | RCTL_LBM });
    nic.send(frame(64));
    inject(frame(65));
    expect(nic.received().map(({ bytes }) => bytes.length)).toEqual([64]);
    expect([peer.inbox.length, nic.read(R.GPTC), nic.read(R.GPRC)]).toEqual([0, 1, 1]);
    nic.write(R.RCTL, ON);
    nic.write(R.MDIC, 0x0420_0000 | 0x4140);
    nic.send(frame(66));
    expect(nic.received().map(({ bytes }) => bytes.length)).toEqual([66]);
    expect(peer.inbox).toHaveLength(0);
  });

  it('with offloads done, and without a cable', () => {
    const nic = new Station();
    nic.start({ rctl: ON | RCTL_LBM });
    nic.write(R.RXCSUM, 0x300);
    nic.context({ command: 3 | 4, paylen: 2000, mss: 1000, hdrlen: 54 });
    nic.data(packet({ payload: 2000, seed: true }), EOP | IFCS | RS | 4, 3);
    nic.go();
    expect(nic.received().map(({ bytes, status, errors }) => [bytes.length, status & (IPCS | TCPCS), errors])).toEqual([
      [1054, IPCS | TCPCS, 0],
      [1054, IPCS | TCPCS, 0],
    ]);
  });

  it('holds what finds no buffer in the transmit ring', () => {
    const { nic } = wired();
    nic.start({ rctl: ON | RCTL_LBM, buffers: 1 });
    for (let i = 0; i < 3; i++) nic.legacy(frame(60 + i));
    nic.go();
    expect([nic.received().length, nic.read(R.TDH)]).toEqual([1, 1]);
    nic.refill(2);
    expect([nic.received().length, nic.read(R.TDH)]).toEqual([2, 3]);
  });
});

describe('flow control', () => {
  const RFCE = 0x800_0000;
  const TFCE = 0x1000_0000;
  const flow = [1, 0x80, 0xc2, 0, 0, 1];
  const pause = (quanta: number, opcode = 1, to: readonly number[] = flow): number[] =>
    frame(60, to, [0x88, 8, opcode >>> 8, opcode & 0xff, quanta >>> 8, quanta & 0xff]);
  const setUp = (nic: Station): void => {
    nic.write(R.FCAL, 0x00c2_8001);
    nic.write(R.FCAH, 0x100);
    nic.write(R.FCT, 0x8808);
  };

  it('a PAUSE frame stops the transmitter for its time; XON ends it', () => {
    const { nic, peer, inject } = wired();
    nic.start({ ctrl: RFCE });
    setUp(nic);
    inject(pause(100));
    nic.send(frame());
    expect([peer.inbox.length, nic.read(R.STATUS) & 0x10, nic.received().length]).toEqual([0, 0x10, 0]);
    nic.clock.advance(100 * 512 - 1);
    expect(peer.inbox).toHaveLength(0);
    nic.clock.advance(1);
    expect([peer.inbox.length, nic.read(R.STATUS) & 0x10]).toEqual([1, 0]);
    inject(pause(0xffff, 1, STATION));
    nic.send(frame());
    inject(pause(0));
    expect([peer.inbox.length, nic.read(R.XOFFRXC), nic.read(R.XONRXC)]).toEqual([2, 2, 1]);
  });

  it('means nothing without RFCE; unsupported control frames are counted, and passed by PMCF', () => {
    const { nic, peer, inject } = wired();
    nic.start();
    setUp(nic);
    inject(pause(100), pause(0, 2));
    nic.send(frame());
    expect([peer.inbox.length, nic.read(R.XOFFRXC), nic.read(R.FCRUC), nic.received().length]).toEqual([1, 0, 1, 0]);
    nic.write(R.RCTL, ON | (1 << 23));
    inject(pause(0, 2));
    expect(nic.received().map(({ status }) => status & PIF)).toEqual([PIF]);
  });

  it('DPF keeps PAUSE frames from the driver', () => {
    const { nic, inject } = wired();
    nic.start({ ctrl: RFCE, rctl: ON | RCTL_MPE });
    setUp(nic);
    inject(pause(1));
    expect(nic.received()).toHaveLength(1);
    nic.write(R.RCTL, ON | RCTL_MPE | (1 << 22));
    inject(pause(1));
    expect(nic.received()).toHaveLength(0);
  });

  it('sends XOFF when buffers run out and XON when they are back', () => {
    const { nic, peer, inject } = wired();
    nic.start({ ctrl: TFCE, buffers: 1 });
    setUp(nic);
    nic.write(R.FCRTH, 0x8000);
    nic.write(R.FCRTL, 0x8000_4000);
    nic.write(R.FCTTV, 0x1234);
    inject(frame(), frame(), frame());
    expect(peer.inbox.map(({ bytes }) => [...bytes.subarray(0, 18)])).toEqual([[...flow, ...STATION, 0x88, 8, 0, 1, 0x12, 0x34]]);
    nic.refill(8);
    inject(frame());
    expect(peer.inbox.slice(1).map(({ bytes }) => [...bytes.subarray(12, 18)])).toEqual([[0x88, 8, 0, 1, 0, 0]]);
    expect([nic.read(R.XOFFTXC), nic.read(R.XONTXC), nic.read(R.GPTC), nic.read(R.TPT)]).toEqual([1, 1, 0, 2]);
  });

  it('SWXOFF sends one XOFF and clears itself', () => {
    const { nic, peer } = wired();
    nic.start({ ctrl: TFCE });
    setUp(nic);
    nic.write(R.TCTL, TCTL_ON | (1 << 22));
    expect([peer.inbox.length, nic.read(R.TCTL), nic.read(R.XOFFTXC)]).toEqual([1, TCTL_ON, 1]);
  });
});

describe('two stations', () => {
  it('a slow receiver gets everything', () => {
    const segment = link();
    const a = new Station({ segment, mac: '52:54:00:00:00:0b' });
    const b = new Station({ segment });
    a.start();
    b.start({ buffers: 3 });
    for (let i = 0; i < 30; i++) a.legacy(frame(60 + i));
    a.go();
    const got: number[] = [];
    for (let i = 0; i < 30 && got.length < 30; i++) {
      const frames = b.received();
      got.push(...frames.map(({ bytes }) => bytes.length));
      b.refill(frames.length);
    }
    expect(got).toEqual(Array.from({ length: 30 }, (_, i) => 60 + i));
  });
});

describe('the frame that most are', () => {
  it('is stored, described and counted as any other: the same frames in one piece and in two', () => {
    const anyPacket = fc.record({ version: fc.constantFrom<4 | 6>(4, 4, 4, 6), udp: fc.boolean(), payload: fc.nat(1460), filled: fc.boolean() });
    const change = fc.record({ at: fc.nat(80), to: fc.nat(255) });
    const any = fc.record({ of: anyPacket, changes: fc.array(change, { maxLength: 2 }), misaligned: fc.nat(7) });
    fc.assert(
      fc.property(
        fc.array(any, { minLength: 1, maxLength: 20 }),
        fc.constantFrom(0, 0x100, 0x300, 0x30e, 0x70e, 0x33f, 0x3ff),
        fc.boolean(),
        (frames, rxcsum, vlans) => {
          const [whole, pieces] = [false, true].map((split) => {
            const { nic, peer, segment } = wired();
            nic.start({ ctrl: vlans ? CTRL_VME : 0 });
            nic.write(R.RXCSUM, rxcsum);
            for (const { of, changes, misaligned } of frames) {
              const bytes = Uint8Array.from(packet(of));
              for (const { at, to } of changes) if (at < bytes.length) bytes[at] = to;
              peer.outbox.push({ bytes, misaligned, ...(split && { pieces: [20] }) });
            }
            segment.wake(peer);
            const counts = [R.TPR, R.TORL, R.GPRC, R.GORCL, R.MPRC, R.BPRC, R.PRC64, R.PRC127, R.PRC1522, R.ROC].map((register) => nic.read(register));
            return { received: nic.received(), counts, head: nic.read(R.RDH), icr: nic.read(R.ICR) };
          });
          expect(whole).toEqual(pieces);
        },
      ),
      { numRuns: 40 },
    );
  });

  it('a run that finds no buffer ends there, and goes on with the next', () => {
    const { nic, peer, inject } = wired();
    nic.start({ buffers: 5 });
    inject(...Array.from({ length: 12 }, (_, i) => frame(60 + i)));
    expect([nic.received().map(({ bytes }) => bytes.length), nic.read(R.RDH), peer.outbox.length]).toEqual([[60, 61, 62, 63, 64], 5, 7]);
    nic.refill(20);
    expect([nic.received().map(({ bytes }) => bytes.length), nic.read(R.RDH)]).toEqual([[65, 66, 67, 68, 69, 70, 71], 12]);
  });
});
