// Receive of the 82576: who takes a frame, which queue gets it, how it lies in memory, what its descriptor says.
import { describe, expect, it } from 'vitest';
import { BROADCAST, frame, list, OTHER, packet, slowCrc, sum16 } from '../../e1000/bench.ts';
import { toeplitz } from '../../net/toeplitz.ts';
import {
  DROP_EN,
  ENABLE,
  R,
  RCTL_BAM,
  RCTL_EN,
  RCTL_LBM,
  RCTL_LPE,
  RCTL_MPE,
  RCTL_SECRC,
  RCTL_UPE,
  RCTL_VFE,
  RING,
  RXDMT0,
  RXDW,
  SRRCTL,
  wired,
} from './bench.ts';

const CTRL_VME = 0x4000_0000;
const ON = RCTL_EN | RCTL_BAM | RCTL_SECRC;
const KEY = Array.from({ length: 40 }, (_, i) => (i * 37 + 11) & 0xff);

describe('whom a frame is for', () => {
  it('takes its own address, broadcast and what its tables say', () => {
    const { nic, inject } = wired();
    nic.start();
    const multicast = [1, 0, 0x5e, 0, 0, 0xfb];
    const second = [2, 1, 2, 3, 4, 5];
    const deep = [2, 9, 9, 9, 9, 9];
    nic.write(R.RAL + 8, 0x0302_0102);
    nic.write(R.RAH + 8, 0x8000_0504);
    nic.write(R.RAL2 + 56, 0x0909_0902);
    nic.write(R.RAH2 + 56, 0x8000_0909);
    // MO 0: bits 47:36.
    const hash = ((0xfb << 8) | 0) >>> 4;
    nic.write(R.MTA + 4 * (hash >>> 5), 1 << (hash & 31));
    inject(frame(64), frame(65, BROADCAST), frame(66, multicast), frame(67, second), frame(68, deep), frame(69, OTHER), frame(70, [1, 0, 0x5e, 0, 0, 1]));
    expect(nic.received().map(({ bytes }) => bytes.length)).toEqual([64, 65, 66, 67, 68]);
    expect(nic.read(R.GPRC)).toBe(5);
    expect([nic.read(R.TPR), nic.read(R.BPRC), nic.read(R.MPRC)]).toEqual([7, 1, 1]);
    expect(nic.read(R.ICR) & RXDW).toBe(RXDW);
  });

  it('promiscuous modes and the VLAN filter', () => {
    const { nic, inject } = wired();
    nic.start({ rctl: ON | RCTL_UPE | RCTL_MPE | RCTL_VFE });
    nic.write(R.VFTA + 4 * (100 >>> 5), 1 << (100 & 31));
    const tagged = (id: number): number[] => packet({ tag: id, payload: 30 + id });
    inject(frame(64, OTHER), frame(65, [1, 2, 3, 4, 5, 6]), tagged(100), tagged(101));
    expect(nic.received().map(({ bytes }) => bytes.length)).toEqual([64, 65, 58 + 130]);
  });

  it('sizes: 1518 without LPE, RLPML with it', () => {
    const { nic, inject } = wired();
    nic.start();
    inject(frame(1514), frame(1515), packet({ tag: 1, payload: 1460 }));
    expect(nic.received().map(({ bytes }) => bytes.length)).toEqual([1514, 1518]);
    expect(nic.read(R.ROC)).toBe(1);
    nic.write(R.RCTL, ON | RCTL_LPE);
    nic.write(R.RLPML, 3000);
    inject(frame(2996), frame(2997));
    expect(nic.received().map(({ lengths }) => lengths)).toEqual([[2048, 948]]);
  });
});

describe('descriptors', () => {
  it('legacy: length, checksum, status, tag', () => {
    const { nic, inject } = wired();
    nic.start({ srrctl: SRRCTL.legacy, ctrl: CTRL_VME, rxcsum: 0x300 });
    inject(packet({ tag: 0x2005, filled: true }));
    const [, , w2, w3] = nic.descriptor(0) as [number, number, number, number];
    expect(w2 & 0xffff).toBe(154);
    // DD, EOP, VP, L4CS, IPCS.
    expect(w3 & 0xff).toBe(0x6b);
    expect([(w3 >>> 8) & 0xff, w3 >>> 16]).toEqual([0, 0x2005]);
    expect(list(nic.bytes.subarray(nic.bufferAddress(0, 0), nic.bufferAddress(0, 0) + 154))).toEqual(packet({ filled: true }));
    expect(w2 >>> 16).toBe(~sum16(packet({ filled: true })) & 0xffff);
  });

  it('advanced: packet type, tag, checksums good and bad', () => {
    const { nic, inject } = wired();
    nic.start({ ctrl: CTRL_VME });
    const bad = packet({ filled: true });
    bad[60] = (bad[60] as number) ^ 1;
    const badIp = packet({ filled: true });
    badIp[22] = 1;
    inject(packet({ tag: 0x2005, filled: true }), packet({ version: 6, udp: true, filled: true }), bad, badIp, frame(64));
    const [tcp, udp6, l4e, ipe, other] = nic.received();
    expect([tcp?.status, tcp?.tag, tcp?.packetType]).toEqual([0x6b, 0x2005, 0x11]);
    expect([udp6?.status, udp6?.packetType]).toEqual([0x33, 0x24]);
    expect([(l4e?.status ?? 0) >>> 0, (ipe?.status ?? 0) >>> 0]).toEqual([0x2000_0063, 0x4000_0063]);
    expect([other?.status, other?.packetType]).toEqual([3, 0]);
  });

  it('the check sequence is there without SECRC', () => {
    const { nic, inject } = wired();
    nic.start({ rctl: RCTL_EN });
    inject(frame(64));
    const crc = slowCrc(frame(64));
    expect(list(nic.received()[0]?.bytes)).toEqual([...frame(64), crc & 0xff, (crc >>> 8) & 0xff, (crc >>> 16) & 0xff, crc >>> 24]);
  });

  it('without PCSD: the packet checksum, or of a fragment its identification and sum', () => {
    const { nic, inject } = wired();
    nic.start({ rxcsum: 0x300 | 14 });
    const bytes = packet({ filled: true });
    inject(bytes);
    nic.write(R.RXCSUM, 0x1300);
    const fragment = packet({ udp: true });
    fragment[20] = 0x20;
    inject(fragment);
    const [plain, piece] = nic.received();
    expect((plain?.hash ?? 0) >>> 16).toBe(~sum16(bytes.slice(14)) & 0xffff);
    expect((piece?.hash ?? 0) & 0xffff).toBe(0x1234);
  });

  it('splits headers from payload by PSRTYPE', () => {
    const { nic, inject } = wired();
    nic.start({ srrctl: SRRCTL.split });
    nic.write(R.PSRTYPE, (1 << 2) | (1 << 3));
    const tcp = packet({ filled: true });
    const udp6 = packet({ version: 6, udp: true, filled: true });
    inject(tcp, udp6);
    const [first, second] = nic.received();
    expect([first?.split, first?.headerLength, list(first?.header), list(first?.bytes)]).toEqual([true, 54, tcp.slice(0, 54), tcp.slice(54)]);
    expect([second?.split, second?.headerLength, list(second?.bytes)]).toEqual([false, 0, udp6]);
  });

  it('a header longer than its buffer: HBO, and the whole packet in packet buffers', () => {
    const { nic, inject } = wired();
    nic.start({ srrctl: 2 | (1 << 8) | (2 << 25) });
    nic.write(R.PSRTYPE, 1 << 8);
    const tcp6 = packet({ version: 6, filled: true });
    inject(tcp6);
    const [got] = nic.received();
    expect([got?.headerLength, got?.split, ((got?.status ?? 0) >>> 23) & 1, list(got?.bytes)]).toEqual([74, true, 1, tcp6]);
  });

  it('split always uses the header buffer, replication leaves the packet whole', () => {
    const { nic, inject } = wired();
    nic.start({ queues: 3, srrctl: SRRCTL.always });
    inject(frame(300), frame(200));
    const [always, small] = nic.received();
    expect([small?.split, small?.headerLength, list(small?.header), list(small?.bytes)]).toEqual([false, 200, frame(200), []]);
    expect([always?.split, always?.headerLength, list(always?.header), list(always?.bytes)]).toEqual([
      false,
      256,
      frame(300).slice(0, 256),
      frame(300).slice(256),
    ]);
    nic.write(R.SRRCTL, SRRCTL.replicate);
    nic.write(R.PSRTYPE, 1 << 2);
    const tcp = packet({ filled: true });
    inject(tcp);
    const [both] = nic.received();
    expect([both?.split, both?.headerLength, list(both?.header), list(both?.bytes)]).toEqual([true, 54, tcp.slice(0, 54), tcp]);
    nic.write(R.SRRCTL, SRRCTL.replicateLarge);
    inject(tcp, packet({ filled: true, payload: 400 }));
    expect(nic.received().map(({ headerLength, bytes }) => [headerLength, bytes.length])).toEqual([
      [54, 154],
      [54, 454],
    ]);
  });
});

describe('queues', () => {
  const rss = (nic: ReturnType<typeof wired>['nic'], fields: number): void => {
    for (let i = 0; i < 10; i++)
      nic.write(
        R.RSSRK + 4 * i,
        KEY.slice(4 * i, 4 * i + 4).reduce((word, byte, n) => (word | (byte << (8 * n))) >>> 0, 0),
      );
    for (let i = 0; i < 32; i++)
      nic.write(
        R.RETA + 4 * i,
        [0, 1, 2, 3].reduce((word, n) => (word | (((4 * i + n) & 15) << (8 * n))) >>> 0, 0),
      );
    nic.write(R.MRQC, 2 | fields);
  };

  it('RSS over sixteen queues, whether or not the hash is reported', () => {
    for (const rxcsum of [0x2300, 0x300]) {
      const { nic, inject } = wired();
      nic.start({ queues: 16, rxcsum });
      rss(nic, 3 << 16);
      const tcp = packet({ filled: true });
      const hash = toeplitz(Uint8Array.from(KEY), [...tcp.slice(26, 38)]) >>> 0;
      inject(tcp);
      const [got] = nic.received(hash & 0x7f & 15);
      expect(got?.bytes.length).toBe(154);
      if (rxcsum === 0x2300) expect([got?.hash, got?.rssType]).toEqual([hash, 1]);
    }
  });

  it('Ethertype, 5-tuple and SYN filters, in that order', () => {
    const { nic, inject } = wired();
    nic.start({ queues: 8 });
    nic.write(R.ETQF, 0x88b5 | (3 << 16) | 0x8400_0000);
    // TCP to port 80.
    nic.write(R.IMIR, 0x5000);
    nic.write(R.IMIREXT, (1 << 12) | (1 << 19));
    nic.write(R.FTQF, 6 | (1 << 8) | (1 << 15) | (5 << 16) | 0xe000_0000);
    nic.write(R.SYNQF, 1 | (6 << 1));
    const syn = packet({ filled: true });
    syn[47] = 2;
    const elsewhere = packet({ filled: true });
    elsewhere[37] = 81;
    elsewhere[47] = 2;
    inject(frame(64), packet({ filled: true }), syn, elsewhere);
    expect([3, 5, 6].map((queue) => nic.received(queue).length)).toEqual([1, 2, 1]);
    // SYN first.
    nic.write(R.RFCTL, 1 << 19);
    inject(syn);
    expect(nic.received(6)).toHaveLength(1);
    nic.write(R.ETQF, 0);
    inject(frame(64));
    expect(nic.received(0)).toHaveLength(1);
  });

  it('compares addresses, ports, sizes and flags of a 5-tuple', () => {
    const { nic, inject } = wired();
    nic.start({ queues: 3 });
    nic.write(R.SAQF, 0x0100_000a);
    nic.write(R.DAQF, 0x0200_000a);
    nic.write(R.SPQF, 0x3930);
    nic.write(R.IMIR, 0x5000);
    nic.write(R.IMIREXT, 200 | (1 << 15));
    nic.write(R.FTQF, 6 | (1 << 8) | (1 << 15) | (2 << 16));
    const other = packet({ filled: true });
    other[29] = 9;
    inject(packet({ filled: true }), packet({ filled: true, payload: 300 }), other);
    expect([nic.received(2).length, nic.received(0).length]).toEqual([1, 2]);
  });

  it('a full queue holds its source, or drops and counts it where it is told to', () => {
    const { nic, inject, peer } = wired();
    nic.start({ buffers: 2 });
    inject(frame(64), frame(65), frame(66));
    expect([nic.received().length, peer.outbox.length, nic.read(R.RNBC), nic.read(R.RQDPC)]).toEqual([2, 1, 1, 0]);
    nic.write(R.RDT, 3);
    expect(nic.received().map(({ bytes }) => bytes.length)).toEqual([66]);
    nic.write(R.SRRCTL, SRRCTL.one | DROP_EN);
    inject(frame(67), frame(68));
    expect([nic.received().length, peer.outbox.length]).toEqual([0, 0]);
    expect([nic.read(R.RQDPC), nic.read(R.RQDPC), nic.read(R.MPC)]).toEqual([2, 0, 0]);
  });

  it('says when few buffers are left', () => {
    const { nic, inject } = wired();
    nic.start({ srrctl: SRRCTL.one | (1 << 20), buffers: 18 });
    inject(frame(64));
    expect(nic.read(R.ICR) & RXDMT0).toBe(0);
    inject(frame(64));
    expect(nic.read(R.ICR) & RXDMT0).toBe(RXDMT0);
    expect(nic.read(R.RXDMTC)).toBe(1);
  });

  it('a queue that is not enabled gets nothing; one that is enabled again starts at its beginning', () => {
    const { nic, inject } = wired();
    nic.start();
    inject(frame(64));
    expect(nic.read(R.RDH)).toBe(1);
    nic.write(R.RXDCTL, 0);
    inject(frame(64));
    nic.write(R.RXDCTL, ENABLE);
    expect([nic.read(R.RDH), nic.received().length]).toEqual([0, 1]);
  });
});

describe('loopback', () => {
  it('of the MAC, and of the PHY as Linux tests it', () => {
    for (const phy of [false, true]) {
      const { nic, outbox } = wired();
      nic.start(phy ? {} : { rctl: ON | RCTL_LBM });
      if (phy) {
        nic.write(R.MDIC, 0x4140 | (0 << 16) | (1 << 21) | (1 << 26));
        nic.write(R.CTRL, 0x41 | (2 << 8) | (1 << 11) | (1 << 12));
      }
      for (let i = 0; i < 64; i++) {
        nic.send(frame(256, BROADCAST));
        expect(nic.received().map(({ bytes }) => list(bytes))).toEqual([frame(256, BROADCAST)]);
        nic.write(R.RDT, (nic.read(R.RDH) + RING - 1) % RING);
      }
      expect(outbox()).toEqual([]);
    }
  });
});
