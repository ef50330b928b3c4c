// docs/hostile-inputs.md, rows of igb: what a guest may do to it, and that nothing comes of it but what the guest asked for. No throw, no endless loop, no byte written outside the guest's buffers.
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BROADCAST, frame, packet } from '../../e1000/bench.ts';
import { ENABLE, EOP, IC, IFCS, IXSM, of, R, RCTL_BAM, RCTL_EN, RCTL_LBM, RCTL_SECRC, RING, RS, SRRCTL, Station, TSE, TXSM, wired } from './bench.ts';

const ON = RCTL_EN | RCTL_BAM | RCTL_SECRC;
const BAR = 0xc000_0000;

describe('transmit', () => {
  it('CVE-2015-6815: segmentation by steps of nothing is dropped, and the ring goes on', () => {
    const { nic, outbox } = wired();
    nic.start();
    for (const [mss, mac, ip, l4] of [
      [0, 0, 0, 0],
      [0, 14, 20, 20],
      [1, 0, 0, 0],
      [1000, 127, 511, 255],
    ] as const) {
      nic.context({ mss, mac, ip, l4 });
      nic.data(packet({ payload: 100 }), EOP | IFCS | RS | TSE, { popts: IXSM | TXSM });
    }
    nic.go();
    const last = nic.send(frame());
    expect([nic.sent(last), outbox().length]).toEqual([1, 1]);
    expect(nic.nic.counters.snapshot().transmitDrops.malformed).toBe(4);
  });

  it('CVE-2016-1981: indices outside the ring serve nothing', () => {
    const { nic, outbox, inject } = wired();
    nic.start();
    for (let i = 0; i < 20; i++) nic.send(frame());
    outbox();
    // The head stands at 20 of what is now 8.
    nic.write(R.TDLEN, 128);
    nic.write(R.TDT, 3);
    nic.write(R.TDT, 200);
    for (let i = 0; i < 20; i++) inject(frame());
    nic.write(R.RDLEN, 128);
    nic.write(R.RDT, 5);
    inject(frame());
    expect([outbox().length, nic.read(R.TDH), nic.read(R.RDH)]).toEqual([0, 20, 20]);
  });

  it('CVE-2021-20257 (a): a legacy descriptor inside a segmented packet', () => {
    const { nic, outbox } = wired();
    nic.start();
    nic.context({ mss: 10 });
    nic.data(packet({ payload: 200 }).slice(0, 60), IFCS | TSE, { popts: IXSM | TXSM });
    nic.legacy(packet({ payload: 200 }).slice(60), EOP | IFCS | RS);
    nic.go();
    const last = nic.send(frame());
    expect(nic.sent(last)).toBe(1);
    expect(outbox().length).toBeGreaterThan(1);
  });

  it('CVE-2020-16092, CVE-2016-6834: more fragments than anybody needs, and fragments of nothing', () => {
    const { nic, outbox } = wired();
    nic.write(R.CTRL, 0x40);
    nic.clock.advance(1e9);
    const size = 4096;
    const ring = 0x20_0000;
    for (let i = 0; i < size; i++) {
      const at = ring + 16 * i;
      nic.view.setUint32(at, 0x40_0000, true);
      nic.view.setUint32(at + 8, (i % 2) | (3 << 20) | ((0x20 | IFCS | (i === size - 2 ? EOP | RS : 0)) << 24), true);
    }
    nic.write(R.TDBAL, ring);
    nic.write(R.TDLEN, size * 16);
    nic.write(R.TCTL, 0xfa);
    nic.write(R.TDT, size - 1);
    expect([outbox().length, nic.read(R.TDH)]).toEqual([0, size - 1]);
    expect(nic.nic.counters.snapshot().transmitDrops.malformed).toBe(1);
  });

  it('a packet without an end fills the ring, and is dropped', () => {
    const { nic, outbox } = wired();
    nic.start();
    for (let i = 0; i < RING - 1; i++) nic.data(frame(), IFCS);
    nic.go();
    nic.send(frame(99));
    expect(outbox().map(({ length }) => length)).toEqual([99]);
  });

  it('CVE-2020-27617, CVE-2016-2857, dd32b5ea7e: offloads over what is no IP, lengths beyond the frame, places outside of it', () => {
    const { nic, outbox } = wired();
    nic.start();
    nic.context({ mss: 100 });
    nic.data(frame(500), EOP | IFCS | RS | TSE, { popts: IXSM | TXSM });
    const lying = packet({});
    lying[16] = 0xff;
    lying[17] = 0xff;
    nic.context({});
    nic.data(lying, EOP | IFCS | RS, { popts: IXSM | TXSM });
    nic.context({ mac: 127, ip: 511 });
    nic.data(frame(), EOP | IFCS | RS, { popts: IXSM | TXSM });
    nic.legacy(frame(), EOP | IFCS | RS | IC, { css: 255, cso: 255 });
    nic.go();
    const last = nic.send(frame());
    expect(nic.sent(last)).toBe(1);
    expect(outbox().length).toBeGreaterThan(3);
  });

  it('CVE-2024-3567: SCTP over a packet that has no room for its checksum, TDLEN of all ones, the tail byte by byte', () => {
    const { nic, outbox } = wired();
    nic.start();
    nic.context({ kind: 'sctp', ip: 20, l4: 12 });
    nic.data(packet({}).slice(0, 40), EOP | IFCS | RS, { popts: TXSM });
    nic.write(R.TDT, 2, 1);
    nic.write(R.TDT + 1, 0, 1);
    expect(outbox()).toEqual([Uint8Array.from([...packet({}).slice(0, 40), ...new Array(20).fill(0)])]);
    nic.write(R.TDLEN, 0xffff_ffff);
    nic.write(R.TDT, 7);
    expect(nic.read(R.TDLEN)).toBe(0x000f_fff0);
  });

  it('reads outside of memory drop the packet, a ring outside stands still; head write-back outside writes nothing', () => {
    const { nic, outbox } = wired();
    nic.start();
    nic.describe(0, 0xf000_0000, 0, 64 | (3 << 20) | ((0x20 | EOP | IFCS | RS) << 24), 64 << 14);
    nic.describe(0, 0xfff_ff00, 0, 0xffff | (3 << 20) | ((0x20 | EOP | IFCS | RS) << 24), 0);
    nic.go();
    nic.write(R.TDWBAH, 0xffff);
    nic.write(R.TDWBAL, 1);
    nic.send(frame(99));
    expect(outbox().map(({ length }) => length)).toEqual([99]);
    nic.write(R.TDBAH, 0xffff_ffff);
    nic.write(R.TDT, 9);
    expect(nic.read(R.TDH)).toBe(3);
  });
});

describe('receive', () => {
  it('CVE-2020-28916: descriptors without a buffer are passed over, and end', () => {
    const { nic, inject } = wired();
    nic.start({ buffers: 0 });
    for (let i = 0; i < RING; i++) nic.buffer(0, i, 0, 0);
    nic.write(R.RDT, RING - 1);
    inject(frame());
    expect(nic.read(R.RDH)).toBe(0);
    nic.buffer(0, RING - 2);
    nic.write(R.RDT, RING - 2);
    nic.write(R.RDT, RING - 1);
    expect(nic.read(R.RDH)).toBe(RING - 1);
  });

  it('9d946d56a2: split, with every size around what buffers hold', () => {
    const { nic, inject } = wired();
    nic.start({ srrctl: SRRCTL.always, rctl: ON | 0x20 });
    for (const size of [60, 255, 256, 257, 2303, 2304, 2305, 4351, 4352, 4353]) {
      inject(frame(size));
      const [got] = nic.received();
      expect((got?.header.length ?? 0) + (got?.bytes.length ?? 0)).toBe(size);
      nic.write(R.RDT, (nic.read(R.RDH) + RING - 1) % RING);
    }
  });

  it('7d6a4f123e: an extension header at the very end', () => {
    const { nic, inject } = wired();
    nic.start();
    for (let cut = 14; cut < 70; cut++) {
      const bytes = packet({ version: 6 });
      bytes[20] = 43;
      inject(bytes.slice(0, cut));
    }
    expect(nic.received().length).toBeGreaterThan(20);
  });

  it('buffers in the device itself, and outside of memory, take nothing', () => {
    const { nic, inject } = wired();
    nic.start({ buffers: 0 });
    nic.buffer(0, 0, BAR + R.TDT);
    nic.buffer(0, 1, 0xffff_fff0);
    nic.write(R.RDT, 2);
    inject(frame(), frame());
    expect([nic.read(R.RDH), nic.read(R.TDT), nic.read(R.TDH)]).toEqual([2, 0, 0]);
  });

  it('a ring outside of memory', () => {
    const { nic, inject } = wired();
    nic.start();
    nic.write(R.RDBAH, 0xffff_ffff);
    inject(frame());
    expect(nic.nic.counters.snapshot().receiveDrops.broken).toBe(1);
  });
});

describe('loopback', () => {
  it('CVE-2021-20257 (b), CVE-2021-3416, CVE-2020-15859: into its own registers', () => {
    const { nic } = wired();
    nic.start({ rctl: ON | RCTL_LBM });
    nic.buffer(0, 0, BAR + R.TDT);
    nic.send(frame(64, BROADCAST));
    nic.describe(0, BAR + R.TDT, 0, 64 | (3 << 20) | ((0x20 | EOP | IFCS | RS) << 24), 0);
    nic.go();
    expect(nic.read(R.TDH)).toBe(2);
  });

  it('CVE-2025-12464: frames of every short length', () => {
    const { nic } = wired();
    nic.start({ rctl: ON | RCTL_LBM | 0x4, tctl: 0xf2 });
    for (let length = 1; length < 64; length++) {
      nic.send(frame(Math.max(length, 14), BROADCAST).slice(0, length));
      nic.received();
      nic.write(R.RDT, (nic.read(R.RDH) + RING - 1) % RING);
    }
    expect(nic.read(R.TDH)).toBe(63 % RING);
  });

  it('without buffers holds what it sends; with them, goes on', () => {
    const { nic } = wired();
    nic.start({ rctl: ON | RCTL_LBM, buffers: 1 });
    for (let i = 0; i < 4; i++) nic.send(frame(64, BROADCAST));
    expect(nic.read(R.TDH)).toBe(1);
    nic.write(R.RDT, 8);
    expect([nic.read(R.TDH), nic.received().length]).toEqual([4, 4]);
  });
});

describe('interrupts', () => {
  it('8e4649cac9: moderation runs on while modes change under it', () => {
    const { nic } = wired();
    nic.start();
    nic.msix();
    nic.write(R.EITR, 100 << 2);
    nic.write(R.EIMS, 0x1ff_ffff);
    nic.write(R.EICS, 3);
    nic.write(R.EICS, 3);
    nic.config(0x72, 2, 0);
    nic.clock.advance(50e3);
    nic.write(R.GPIE, 0);
    nic.clock.advance(50e3);
    nic.msix();
    nic.write(R.CTRL, 1 << 26);
    nic.clock.advance(1e6);
    expect(nic.read(R.EICR)).toBe(0);
  });

  it('vectors that are not there go nowhere', () => {
    const { nic, inject } = wired();
    nic.start();
    nic.msix(2);
    for (const vector of [5, 9, 10, 24, 25, 31]) {
      nic.write(R.IVAR, 0x80 | vector);
      nic.write(R.EIMS, 0xffff_ffff);
      inject(frame());
    }
    expect(nic.messages).toEqual([]);
  });
});

describe('whatever a driver does', () => {
  const registers = Object.values(R).filter((register) => register !== R.TCPTIMER);

  it('random accesses, descriptors and frames: nothing throws, nothing runs for ever, nothing is written outside the buffers', () => {
    const word = fc.oneof(fc.constantFrom(0, 1, 0xffff_ffff, 0x8000_0000, 0x1_0000, 0x1_0800, 0x40_0000), fc.nat({ max: 0xffff_ffff }));
    const step = fc.oneof(
      fc.record({ kind: fc.constant('write' as const), register: fc.constantFrom(...registers), queue: fc.nat({ max: 3 }), value: word }),
      fc.record({
        kind: fc.constant('descriptor' as const),
        ring: fc.boolean(),
        index: fc.nat({ max: RING - 1 }),
        words: fc.tuple(word, fc.constantFrom(0, 0, 1), word, word),
      }),
      fc.record({ kind: fc.constant('tail' as const), queue: fc.nat({ max: 3 }), value: fc.nat({ max: RING }) }),
      fc.record({ kind: fc.constant('frame' as const), bytes: fc.uint8Array({ minLength: 0, maxLength: 200 }) }),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const { nic, inject } = wired();
        nic.start({ queues: 4 });
        nic.bytes.fill(0xa5, 0xe0_0000, 0xe1_0000);
        for (const each of steps) {
          if (each.kind === 'write') nic.write(each.register >= 0xc000 ? of(each.register, each.queue) : each.register, each.value);
          else if (each.kind === 'tail') {
            nic.write(of(R.TDT, each.queue), each.value);
            nic.write(of(R.RDT, each.queue), each.value);
          } else if (each.kind === 'frame') inject(each.bytes);
          else {
            const at = nic.ringOf(0)[each.ring ? 'rx' : 'tx'] + 16 * each.index;
            for (const [i, value] of each.words.entries()) nic.view.setUint32(at + 4 * i, value, true);
          }
        }
        nic.clock.advance(1e6);
        // A ring or buffer may have been put there only by a word that names the place; none of those above does.
        expect(nic.bytes.subarray(0xe0_0000, 0xe1_0000).every((byte) => byte === 0xa5)).toBe(true);
        nic.write(R.CTRL, 1 << 26);
        expect(nic.read(R.RDLEN)).toBe(0);
      }),
      { numRuns: 40 },
    );
  });

  it('a queue that is disabled while its frames are out forgets them once', () => {
    const { nic, peer, segment, outbox } = wired();
    nic.start();
    peer.room = 0;
    nic.send(frame(64));
    nic.write(R.TXDCTL, 0);
    peer.room = 10;
    segment.wake(peer);
    expect(outbox()).toEqual([]);
    nic.write(R.TDT, 0);
    nic.write(R.TXDCTL, ENABLE);
    expect([nic.read(R.TDH), outbox()]).toEqual([0, []]);
  });

  it('TXDCTL, RXDCTL and resets from inside an interrupt', () => {
    const { nic, inject, outbox } = wired();
    nic.start();
    nic.msix();
    nic.write(R.IVAR, 0x8180);
    nic.write(R.EIMS, 3);
    nic.write(R.EIAC, 3);
    nic.onMessage = () => {
      nic.write(R.CTRL, 1 << 26);
      nic.onMessage = undefined;
    };
    inject(frame(), frame());
    expect(nic.read(R.RDLEN)).toBe(0);
    nic.start();
    nic.msix();
    nic.write(R.IVAR, 0x8180);
    nic.write(R.EIMS, 3);
    nic.onMessage = () => nic.write(R.TXDCTL, 0);
    nic.data(frame(64));
    nic.data(frame(65));
    nic.go();
    expect(outbox().length).toBeGreaterThan(0);
    expect(nic instanceof Station).toBe(true);
  });
});
