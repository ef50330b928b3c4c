// docs/hostile-inputs.md, rows of e1000: what a guest may do to it, and that nothing comes of it but what the guest asked for. No throw, no endless loop, no byte written outside the guest's buffers.
import { Worker } from 'node:worker_threads';
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { InlineSegment } from '#backends/inline-backend';
import { DirectLink } from '#net/direct-link';
import { Segment } from '#net/segment';
import { MemoryPort } from '../net/memory-port.ts';
import {
  EOP,
  frame,
  IC,
  IDE,
  IFCS,
  link,
  list,
  packet,
  R,
  RCTL_BAM,
  RCTL_EN,
  RCTL_LBM,
  RCTL_SBP,
  RCTL_SECRC,
  RING,
  RS,
  RXT0,
  STATION,
  Station,
  TCTL_ON,
  TSE,
  wired,
} from './bench.ts';

const ON = RCTL_EN | RCTL_BAM | RCTL_SECRC;
const BAR = 0xc000_0000;

describe('transmit', () => {
  it('CVE-2015-6815: segmentation by steps of nothing is dropped, and the ring goes on', () => {
    const { nic, peer } = wired();
    nic.start();
    for (const [mss, hdrlen] of [
      [0, 0],
      [0, 54],
      [1, 0],
      [1000, 255],
    ] as const) {
      nic.context({ command: 3 | TSE, mss, hdrlen, paylen: 100 });
      nic.data(packet({ payload: 100 }), EOP | IFCS | RS | TSE, 3);
    }
    const last = nic.send(frame());
    expect([nic.sent(last), peer.inbox.length]).toEqual([1, 1]);
    expect(nic.nic.counters.snapshot().transmitDrops.malformed).toBe(4);
  });

  it('CVE-2016-1981, CVE-2017-9310: indices outside the ring serve nothing', () => {
    const { nic, peer, inject } = wired();
    nic.start();
    nic.write(R.TDLEN, 0x80);
    for (const [head, tail] of [
      [200, 3],
      [3, 200],
      [0xffff, 0xfffe],
    ] as const) {
      nic.write(R.TDH, head);
      nic.write(R.TDT, tail);
      expect([nic.read(R.TDH), peer.inbox.length]).toEqual([head, 0]);
    }
    nic.write(R.RDLEN, 0x80);
    nic.write(R.RDH, 200);
    inject(frame());
    expect([nic.read(R.RDH), nic.received().length]).toEqual([200, 0]);
    nic.write(R.RDLEN, 0);
    nic.write(R.TDLEN, 0);
    nic.write(R.TDT, 5);
    inject(frame());
  });

  it('CVE-2021-20257: a legacy descriptor in the middle of segmentation', () => {
    const { nic, peer } = wired();
    nic.start();
    nic.context({ command: 3 | TSE, mss: 100, hdrlen: 54, paylen: 500 });
    const bytes = packet({ payload: 500, seed: true });
    nic.data(bytes.slice(0, 300), IFCS | TSE, 3);
    nic.legacy(bytes.slice(300), EOP | IFCS | RS);
    nic.go();
    expect(peer.inbox.map(({ bytes: b }) => b.length)).toEqual([154, 154, 154, 154, 154]);
    nic.legacy(bytes.slice(0, 300), IFCS);
    nic.data(bytes.slice(300), EOP | IFCS | RS | TSE, 3);
    const last = nic.send(frame());
    expect(nic.sent(last)).toBe(1);
  });

  it('CVE-2021-20257, CVE-2021-3416, CVE-2020-15859, CVE-2023-3019: buffers in the device’s own registers are refused, not entered', () => {
    const { nic, inject } = wired();
    nic.start({ rctl: ON | RCTL_LBM });
    for (let i = 0; i < RING; i++) nic.buffer(i, BAR + R.TDT);
    nic.describe(BAR + R.TDT, 0, 64 | ((EOP | IFCS | RS) << 24), 0);
    nic.legacy(frame());
    nic.go();
    expect([nic.read(R.TDH), nic.read(R.TDT), nic.read(R.RDH)]).toEqual([2, 2, 1]);
    expect(nic.machine.fabric.root.functions.length).toBe(1);
    nic.write(R.RCTL, ON);
    inject(frame());
    expect(nic.read(R.TDT)).toBe(2);
    nic.write(R.RDBAL, BAR);
    nic.write(R.TDBAL, BAR);
    nic.write(R.TDT, 9);
    inject(frame());
    expect(nic.read(R.TDT)).toBe(9);
  });

  it('a handler that runs inside the interrupt and kicks again is no recursion', () => {
    const segment = link({ rounds: 1000 });
    const a = new Station({ segment, mac: '52:54:00:00:00:0b' });
    const b = new Station({ segment });
    let depth = 0;
    let deepest = 0;
    for (const nic of [a, b]) {
      nic.start();
      nic.onLine = () => {
        deepest = Math.max(deepest, ++depth);
        nic.read(R.ICR);
        const got = nic.received();
        nic.refill(got.length);
        for (let i = 0; i < got.length; i++) nic.send(frame(64, nic === a ? STATION : [0x52, 0x54, 0, 0, 0, 0xb]));
        depth--;
      };
      nic.write(R.IMS, RXT0);
    }
    a.send(frame());
    expect(a.read(R.GPTC)).toBeGreaterThan(100);
    expect(deepest).toBeLessThanOrEqual(2);
  });

  it('a reset from inside an interrupt in the middle of a turn', () => {
    const segment = link();
    const a = new Station({ segment, mac: '52:54:00:00:00:0b' });
    const b = new Station({ segment });
    a.start();
    b.start();
    b.onLine = () => a.write(R.CTRL, 0x0400_0000);
    b.write(R.IMS, RXT0);
    for (let i = 0; i < 10; i++) a.legacy(frame());
    a.go();
    expect([a.read(R.TDH), a.read(R.GPTC), b.received().length]).toEqual([0, 0, 10]);
    a.start();
    a.send(frame(70));
    expect(b.received().map(({ bytes }) => bytes.length)).toEqual([70]);
  });

  it('CVE-2020-16092: more fragments than are kept', () => {
    const { nic, peer } = wired();
    nic.start();
    nic.write(R.TDLEN, 0x4000 * 4);
    const at = nic.place(frame(60));
    const ring = 0x80_0000;
    nic.write(R.TDBAL, ring);
    for (let i = 0; i < 2000; i++)
      [at + (i % 50), 0, 1 | ((i === 1999 ? EOP | IFCS | RS : IFCS) << 24), 0].forEach((w, k) => void nic.view.setUint32(ring + 16 * i + 4 * k, w, true));
    nic.write(R.TDT, 2000);
    expect([nic.read(R.TDH), peer.inbox.length]).toEqual([2000, 0]);
    expect(nic.nic.counters.snapshot().transmitDrops.malformed).toBe(1);
  });

  it('a ring full of descriptors without an end is dropped, not waited for', () => {
    const { nic, peer } = wired();
    nic.start();
    for (let i = 0; i < RING - 1; i++) nic.legacy(frame(), IFCS);
    nic.go();
    expect([nic.read(R.TDH), peer.inbox.length]).toEqual([RING - 1, 0]);
    nic.send(frame());
    expect(peer.inbox).toHaveLength(1);
  });

  it('CVE-2020-27617: segmentation of what is neither IPv4 nor IPv6', () => {
    const { nic, peer } = wired();
    nic.start();
    nic.context({ command: 3 | TSE, mss: 40, hdrlen: 54, paylen: 100 });
    nic.data(frame(154), EOP | IFCS | RS | TSE, 3);
    nic.go();
    expect(peer.inbox).toHaveLength(3);
  });

  it('CVE-2016-6834: fragments of length 0', () => {
    const { nic, peer } = wired();
    nic.start();
    nic.context({ command: 3 | TSE, mss: 1000, hdrlen: 54, paylen: 100 });
    nic.data([], IFCS | TSE, 3);
    nic.data(packet({ payload: 100, seed: true }), IFCS | TSE, 3);
    nic.data([], EOP | IFCS | RS | TSE, 3);
    nic.data([], EOP | IFCS | RS, 0);
    nic.legacy([], EOP | IFCS | RS);
    nic.go();
    expect([peer.inbox.length, nic.read(R.TDH)]).toEqual([1, 6]);
  });

  it('CVE-2024-3567: a length of all ones and a tail written byte by byte', () => {
    const { nic, peer } = wired();
    nic.start();
    nic.legacy(frame());
    nic.write(R.TDLEN, 0xffff_ffff);
    nic.write(R.TDT, 1, 1);
    expect(peer.inbox).toHaveLength(1);
    nic.write(R.TDT + 1, 0xff, 1);
    expect(nic.read(R.TDT)).toBe(0xff01);
  });

  it('dd32b5ea7e: checksums outside the packet', () => {
    const { nic, peer } = wired();
    nic.start();
    for (const [cso, css] of [
      [255, 255],
      [63, 64],
      [62, 200],
      [0, 0],
    ] as const)
      nic.send(frame(64), EOP | IFCS | RS | IC, { cso, css });
    nic.send([1], EOP | IFCS | RS | IC, { cso: 0, css: 0 });
    nic.context({ ipcss: 255, ipcso: 255, ipcse: 1, tucss: 255, tucso: 255, tucse: 3, command: 3 });
    nic.data(frame(64), EOP | IFCS | RS, 3);
    nic.data([1, 2, 3], EOP | IFCS | RS, 3);
    nic.go();
    const last = nic.send(frame());
    expect([nic.sent(last), peer.inbox.every(({ bytes }) => bytes.length >= 60)]).toEqual([1, true]);
  });

  it('7d6a4f123e: an IPv6 routing header at the end of the frame', () => {
    const { nic, inject } = wired();
    nic.start();
    nic.write(R.RXCSUM, 0x700);
    const bytes = packet({ version: 6, payload: 0 }).slice(0, 54 + 3);
    bytes[20] = 43;
    inject(bytes, [...bytes, 0, 43, 255, 255]);
    expect(nic.received()).toHaveLength(2);
  });
});

describe('receive', () => {
  it('CVE-2016-2857: an IP length beyond the frame is no checksum', () => {
    const { nic, inject } = wired();
    nic.start();
    nic.write(R.RXCSUM, 0x300);
    const bytes = packet({ payload: 20, filled: true });
    bytes[16] = 0xff;
    bytes[17] = 0xff;
    inject(bytes);
    expect(nic.received().map(({ status }) => status & 0x20)).toEqual([0]);
  });

  it('CVE-2025-12464: a frame of one byte in loopback', () => {
    const nic = new Station();
    nic.start({ rctl: ON | RCTL_LBM | RCTL_SBP | 8, tctl: TCTL_ON & ~8 });
    for (let length = 1; length < 60; length++) nic.send(frame(64).slice(0, length));
    expect(nic.received().every(({ bytes }) => bytes.length >= 14 && bytes.length < 60)).toBe(true);
    expect(nic.read(R.TDH)).toBe(59);
  });

  it('DSA-2608: oversized frames without LPE write nothing', () => {
    const { nic, inject } = wired();
    nic.start();
    inject(frame(4000));
    expect([nic.received().length, nic.read(R.RDH)]).toEqual([0, 0]);
  });

  it('CVE-2020-28916: descriptors without an address are passed over, and a ring of nothing else is no endless loop', () => {
    const { nic, inject, peer } = wired();
    // Buffers of 256 bytes.
    nic.start({ rctl: ON | (3 << 16) });
    for (const index of [0, 2, 3]) nic.buffer(index, 0);
    inject(frame(700));
    expect([nic.read(R.RDH), nic.received().map(({ bytes }) => list(bytes))]).toEqual([6, [frame(700)]]);
    for (let i = 0; i < RING; i++) nic.buffer(i, 0);
    inject(frame(700), frame(64));
    expect([nic.read(R.RDH), peer.outbox.length, nic.received().length]).toEqual([6, 2, 0]);
  });

  it('9d946d56a2, bab496a183, fda43b1204: frames that fill their buffers exactly, or by one byte more or less, in loopback', () => {
    // There is no packet split in this part; what broke was the sum of the buffers against the frame.
    const nic = new Station();
    nic.start({ rctl: ON | RCTL_LBM | (3 << 16) });
    for (const length of [255, 256, 257, 511, 512, 513, 1024, 1025]) {
      const first = nic.read(R.RDH);
      nic.send(frame(length));
      const [got] = nic.received();
      expect([list(got?.bytes), (nic.read(R.RDH) - first + RING) % RING]).toEqual([frame(length), Math.ceil(length / 256)]);
      nic.refill(Math.ceil(length / 256));
    }
  });

  it('b395a655ae: lengths come from the registers of a saved state, and are checked like any', () => {
    const saver = wired();
    saver.nic.start();
    const { nic, inject } = wired();
    nic.start();
    // The ring ends beyond memory, in buffers of 16 KiB that do too.
    saver.nic.write(R.RDLEN, 0xffff_ff80);
    saver.nic.write(R.RDBAL, 0xff_fff0);
    saver.nic.write(R.RDH, 0);
    saver.nic.write(R.RDT, 0xfff0);
    saver.nic.write(R.RCTL, ON | 0x201_0000);
    saver.nic.view.setUint32(0xff_fff0, 0xff_ff00, true);
    nic.bytes.set(saver.nic.bytes);
    nic.nic.restore(structuredClone(saver.nic.nic.save()));
    nic.nic.resume();
    const before = nic.bytes.slice(0, 0xff_ff00);
    inject(frame(1000), frame(64));
    expect(Buffer.compare(nic.bytes.subarray(0, 0xff_ff00), before)).toBe(0);
    nic.start();
    inject(frame());
    expect(nic.received()).toHaveLength(1);
  });

  it('8e4649cac9, 0cbd6e5221: timers that end after a reset, a mask or a mode change', () => {
    const { nic, inject } = wired();
    nic.start();
    nic.write(R.RDTR, 100);
    nic.write(R.TIDV, 100);
    nic.write(R.IMS, 0xff);
    inject(frame());
    nic.send(frame(), EOP | IFCS | RS | IDE);
    nic.machine.configWrite(0x0008, 0xf2, 2, 1);
    nic.machine.configWrite(0x0008, 0xf2, 2, 0);
    nic.write(R.CTRL, 0x0400_0000);
    nic.clock.advance(1e9);
    expect([nic.line, nic.read(R.ICR)]).toEqual([false, 0]);
  });

  it('9e41b5d22a: padding is not in the IP length', () => {
    const { nic, peer } = wired();
    nic.start();
    nic.context({ command: 2 });
    nic.data([...packet({ payload: 0 }).slice(0, 34)], EOP | IFCS | RS, 1);
    nic.go();
    const [sent] = peer.inbox;
    expect([sent?.bytes.length, sent?.bytes[16], sent?.bytes[17]]).toEqual([60, 0, 40]);
  });

  it('034d00d485: a thread that polls DD never sees half a descriptor', async () => {
    const { nic, inject } = wired();
    nic.start();
    const control = new Int32Array(new SharedArrayBuffer(12));
    const rounds = 2000;
    const reader = new Worker(
      `const { workerData: { buffer, control, rounds }, parentPort } = require('node:worker_threads');
       const words = new Uint32Array(buffer);
       let torn = 0;
       let seen = 0;
       parentPort.postMessage('ready');
       while (seen < rounds && Atomics.load(control, 0) === 0) {
         const d = 0x2_0000 / 4 + 4 * (seen % ${RING});
         if ((Atomics.load(words, d + 3) & 1) === 0) continue;
         if ((words[d + 2] & 0xffff) !== 100) torn++;
         words[d + 2] = 0;
         Atomics.store(words, d + 3, 0);
         Atomics.store(control, 1, ++seen);
       }
       parentPort.postMessage({ torn, seen });`,
      { eval: true, workerData: { buffer: nic.bytes.buffer, control, rounds } },
    );
    await new Promise((resolve) => reader.once('message', resolve));
    const result = new Promise<unknown>((resolve) => reader.once('message', resolve));
    const deadline = performance.now() + 15_000;
    for (let sent = 0; sent < rounds && performance.now() < deadline; ) {
      if (sent - Atomics.load(control, 1) >= RING - 2) {
        Atomics.wait(control, 2, 0, 1);
        continue;
      }
      inject(frame(100));
      nic.refill(1);
      sent++;
    }
    while (Atomics.load(control, 1) < rounds && performance.now() < deadline) Atomics.wait(control, 2, 0, 1);
    Atomics.store(control, 0, 1);
    expect(await result).toEqual({ torn: 0, seen: rounds });
    await reader.terminate();
  });
});

describe('a slow peer, and a guest that keeps the thread busy', () => {
  it('more contexts than are kept in one turn, one after the other', () => {
    const { nic, peer } = wired();
    nic.start();
    const [ring, entries] = [0x60_0000, 1024];
    nic.write(R.TDBAL, ring);
    nic.write(R.TDLEN, entries * 16);
    for (let i = 0; i < 700; i++) nic.view.setUint32(ring + 16 * i + 8, 0x2000_0000, true);
    const bytes = frame();
    nic.bytes.set(bytes, 0x70_0000);
    nic.view.setUint32(ring + 16 * 700, 0x70_0000, true);
    nic.view.setUint32(ring + 16 * 700 + 8, bytes.length | ((EOP | IFCS | RS) << 24), true);
    nic.write(R.TDT, 701);
    expect([nic.read(R.TDH), peer.inbox.length]).toEqual([701, 1]);
  });

  it('a PAUSE frame that is due in loopback waits for the wire, and keeps nobody busy', () => {
    let deferred = 0;
    const segment = new InlineSegment(new Segment(new DirectLink()), { defer: () => void deferred++ });
    const peer = new MemoryPort('peer');
    segment.addPort(peer);
    const nic = new Station({ segment });
    nic.start({ ctrl: 0x1000_0000, rctl: ON | RCTL_LBM });
    nic.write(R.TCTL, TCTL_ON | 0x40_0000);
    expect([deferred, peer.inbox.length]).toEqual([0, 0]);
    nic.write(R.RCTL, ON);
    expect([deferred, peer.inbox.length]).toEqual([0, 1]);
  });

  it('one write serves a bounded part of what it could; the rest is deferred', () => {
    const nic = new Station();
    nic.start({ rctl: ON | RCTL_LBM });
    // Loopback to itself with a handler that refills and sends for ever.
    let handled = 0;
    nic.onLine = () => {
      handled++;
      nic.read(R.ICR);
      nic.refill(nic.received().length);
      nic.send(frame());
    };
    nic.write(R.IMS, RXT0);
    nic.send(frame());
    expect(handled).toBeLessThan(100);
    const before = handled;
    nic.clock.advance(10_000);
    expect(handled).toBeGreaterThan(before);
    expect(handled).toBeLessThan(300);
  });
});

it('rings of any contents, indices and lengths: nothing throws, loops or writes outside the buffers', () => {
  const word = fc.oneof(fc.integer({ min: 0, max: 0xffff_ffff }), fc.constantFrom(0, 0x10_0000, 0x20_0000, 0xff_fff0, 0xffff_ffff));
  const step = fc.oneof(
    fc.record({
      register: fc.constantFrom(
        ...([R.TDH, R.TDT, R.RDH, R.RDT, R.TDLEN, R.RDLEN, R.RCTL, R.TCTL, R.CTRL, R.TXDCTL, R.RXCSUM, R.TDBAL, R.RDBAL, R.MDIC, R.VET] as number[]),
      ),
      value: word,
    }),
    fc.record({ descriptor: fc.nat(RING - 1), ring: fc.constantFrom(0x1_0000, 0x2_0000), words: fc.array(word, { minLength: 4, maxLength: 4 }) }),
    fc.record({ inject: fc.nat(3000) }),
    fc.record({ time: fc.nat(2_000_000) }),
  );
  fc.assert(
    fc.property(fc.array(step, { minLength: 20, maxLength: 120 }), (steps) => {
      const { nic, inject } = wired();
      nic.start();
      for (const s of steps) {
        if ('register' in s) nic.write(s.register, s.register === R.CTRL ? s.value & ~0x8000_0000 : s.value);
        else if ('descriptor' in s) s.words.forEach((w, i) => void nic.view.setUint32(s.ring + 16 * s.descriptor + 4 * i, w, true));
        else if ('inject' in s) inject(frame(14 + s.inject));
        else nic.clock.advance(s.time);
      }
      nic.start();
      nic.clock.advance(1e9);
      const index = nic.send(frame());
      expect(nic.sent(index) & 1).toBe(1);
    }),
    { numRuns: 60 },
  );
});
