// What one VF's packets may take of everyone's time, and what it may change of them once the switch has looked: a turn is bounded, a slow queue costs its owner only, the header that was judged is the header that leaves.

import { describe, expect, test } from 'vitest';
import { DmaSpace } from '#core/dma-space';
import { Steering } from '#devices/igb/steering';
import { EmbeddedSwitch } from '#devices/igb/switch/embedded-switch';
import { TransmitQueue } from '#devices/igb/transmit-queue';
import { BROADCAST, frame, H, Host, macOf, messageOf, P, RING, V, WIRE_MAC } from './hypervisor.ts';

const TX_RING = 0x1000;
const TX_DATA = 0x1_0000;
const PVFGPTLBC = (n: number): number => 0x1_0044 + 0x100 * n;
const TSE = 0x80;

/** A context, and data to cut into steps of one octet: headers of 54 octets, `payload` behind. */
function cutSmall(host: Host, n: number, to: number, payload: number): void {
  const guest = host.guests[n] as Host['guests'][number];
  const headers = [...macOf(to), ...macOf(n), 8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
  headers.push(0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 0, 0, 0, 0, 0, 0);
  guest.describe([]);
  guest.word(TX_RING, (14 << 9) | 20);
  guest.word(TX_RING + 4, 0);
  guest.word(TX_RING + 8, (2 << 20) | (0x20 << 24) | (1 << 11) | (1 << 10));
  guest.word(TX_RING + 12, (1 << 16) | (20 << 8));
  guest.describe(headers, { command: 0x0b | TSE });
  guest.word(TX_RING + 16 + 8, (54 + payload) | (3 << 20) | ((0x2b | TSE) << 24));
  guest.word(TX_RING + 16 + 12, payload << 14);
}

describe('one VF among others', () => {
  test('a large packet for a neighbour, in steps of an octet, is many turns: a round’s frames each', () => {
    const host = new Host().start();
    host.write(H.QDE, 0xffff);
    host.vfWrite(1, V.IVAR, 0x80);
    const seen: number[] = [];
    host.onMessage = ({ data }) => {
      if (data === messageOf(1, 0)) seen.push(host.read(PVFGPTLBC(0)));
      host.guests[1]?.received();
      host.guests[1]?.refill();
    };
    cutSmall(host, 0, 1, 5000);
    host.guests[0]?.go();
    // A segment serves so many rounds in one call, and asks to be called again.
    for (let call = 0; call < 100 && host.guests[0]?.sent() === 0; call++) host.segment.service();
    expect(host.read(PVFGPTLBC(0))).toBe(5000);
    expect(seen.length).toBeGreaterThanOrEqual(5000 / 64);
    for (const [i, count] of seen.entries()) expect(count - (seen[i - 1] ?? 0)).toBeLessThanOrEqual(64);
    expect(host.guests[0]?.sent()).toBe(1);
  });

  test('a queue that is slower than another does not make it wait', () => {
    const host = new Host().start();
    for (const [queue, factor] of [
      [3, 10],
      [5, 1000],
    ] as const) {
      host.write(H.RTTDQSEL, queue);
      host.write(H.RTTBCNRC, 0x8000_0000 | (factor << 14));
      for (let i = 0; i < 4; i++) host.guests[queue]?.describe(frame(macOf(queue - 2), macOf(queue)));
    }
    host.guests[5]?.go();
    host.guests[3]?.go();
    // 64 octets, FCS, preamble, gap: ten times their time on the wire.
    host.clock.advance(4 * (64 + 4 + 8 + 12) * 8 * 10);
    expect(host.everyone()).toEqual({ 1: 4, 3: 1 });
    // Held by time alone: nobody need look until then.
    expect(host.segment.server.rest()).toBe(false);
  });

  test('what was judged is what is sent, though its memory changes meanwhile', () => {
    for (const length of [60, 64, 300]) {
      const host = new Host().start();
      host.write(H.DTXSWC, 0x8000_00ff);
      const guest = host.guests[0] as Host['guests'][number];
      const deliver = host.wire.deliver.bind(host.wire);
      host.wire.deliver = (batch, from, to) => {
        host.bytes.set(macOf(4), guest.base + TX_DATA + 6);
        return deliver(batch, from, to);
      };
      guest.send(frame(WIRE_MAC, macOf(0), { length, fill: 0x33 }));
      expect(host.outside()).toEqual([frame(WIRE_MAC, macOf(0), { length, fill: 0x33 })]);
    }
  });

  test('descriptors without a buffer are passed over up to a bound, not the whole of a large ring for each frame', () => {
    const host = new Host().start();
    const guest = host.guests[2] as Host['guests'][number];
    guest.write('rx', 0x28, 0, 0);
    guest.write('rx', 0x08, 0, 512 * 16);
    for (let i = 0; i < 512; i++) guest.buffer(i, i < 400 ? 0 : 0x4_0000);
    guest.write('rx', 0x0c, 0, 2 | (1 << 25) | 0x8000_0000);
    guest.write('rx', 0x28, 0, 1 << 25);
    guest.write('rx', 0x18, 0, 511);
    host.inject(frame(macOf(2), WIRE_MAC));
    expect(host.vfRead(2, 0x2810)).toBe(0);
    expect(host.read(H.RQDPC(2))).toBe(1);
  });

  test('a broadcast reaches pools once and the network once, however often that refuses', () => {
    const host = new Host().start();
    const guest = host.guests[0] as Host['guests'][number];
    const sent = Array.from({ length: 20 }, (_, i) => frame(i % 5 === 4 ? macOf(1) : BROADCAST, macOf(0), { fill: i }));
    host.wire.room = 3;
    for (const bytes of sent) guest.describe(bytes);
    guest.go();
    // The network has no room for the fourth: what pools were to have, they have.
    const first = (host.guests[1] as Host['guests'][number]).received();
    expect(first.length).toBeGreaterThan(3);
    for (let room = 4; room <= 16; room++) {
      host.wire.room = room;
      host.segment.wake(host.wire);
      host.segment.service();
    }
    host.guests[1]?.refill();
    const got = [...first, ...(host.guests[1] as Host['guests'][number]).received()].map(({ bytes }) => bytes);
    expect(got).toEqual(sent);
    expect(host.guests[2]?.received().map(({ bytes }) => bytes)).toEqual(sent.filter((bytes) => bytes[0] === 0xff));
    expect(host.outside()).toEqual(sent.filter((bytes) => bytes[0] === 0xff));
    expect(guest.sent()).toBe(20);
    expect(host.read(PVFGPTLBC(0))).toBe(20);
  });

  test('broadcasts go out as many at a time as a turn has copies for', () => {
    const host = new Host().start();
    const guest = host.guests[0] as Host['guests'][number];
    for (let i = 0; i < 20; i++) guest.describe(frame(BROADCAST, macOf(0), { fill: i }));
    const before = host.wire.flushes;
    guest.go();
    expect(host.outside().length).toBe(20);
    // Seven copies each, 64 in a turn.
    expect(host.wire.flushes - before).toBe(2);
  });

  test('what a VF writes in its window makes no table anew', () => {
    const host = new Host().start();
    const rebuild = EmbeddedSwitch.prototype.rebuild;
    const configure = Steering.prototype.configure;
    let tables = 0;
    EmbeddedSwitch.prototype.rebuild = function () {
      tables++;
      rebuild.call(this);
    };
    Steering.prototype.configure = function () {
      tables++;
      configure.call(this);
    };
    try {
      for (const value of [0, 0xffff_ffff, 1 << 26, 1 << 25]) for (let offset = 0; offset < 0x4000; offset += 4) host.vfWrite(3, offset, value);
      host.guests[0]?.send(frame(macOf(1), macOf(0)));
      expect(tables).toBe(0);
      // It has reset itself, and by that lost its bits in VFRE and VFTE: the switch goes by them all the same.
      host.guests[3]?.start();
      host.guests[0]?.send(frame(macOf(3), macOf(0)));
      expect(host.everyone()).toEqual({ 1: 1 });
      host.write(P.VFRE, 0xff);
      expect(tables).toBeLessThanOrEqual(2);
      host.guests[0]?.send(frame(macOf(3), macOf(0)));
      expect(host.everyone()).toEqual({ 3: 1 });
      expect(tables).toBe(2);
    } finally {
      EmbeddedSwitch.prototype.rebuild = rebuild;
      Steering.prototype.configure = configure;
    }
  });

  test('the end of a packet is looked for once: a descriptor added at a time costs a look at it', () => {
    const host = new Host().start();
    const guest = host.guests[0] as Host['guests'][number];
    const entries = 4096;
    guest.write('tx', 0x28, 0, 0);
    guest.write('tx', 0x00, 0, 0x2_0000);
    guest.write('tx', 0x08, 0, entries * 16);
    guest.write('tx', 0x28, 0, 1 << 25);
    for (let i = 0; i < entries; i++)
      for (const [at, value] of [0x1_0000, 0, 0 | (3 << 20) | (0x22 << 24), 0].entries()) guest.word(0x2_0000 + 16 * i + 4 * at, value);
    const { fetch } = TransmitQueue.prototype;
    let looks = 0;
    TransmitQueue.prototype.fetch = function (distance) {
      looks++;
      return fetch.call(this, distance);
    };
    try {
      for (let tail = 1; tail < 1000; tail++) guest.write('tx', 0x18, 0, tail);
      expect(looks).toBeLessThan(4 * 1000);
      // It ends after all: one frame, of what its descriptors hold.
      guest.word(0x2_0000 + 16 * 999 + 8, 64 | (3 << 20) | (0x2b << 24));
      host.bytes.set(frame(macOf(1), macOf(0)), guest.base + 0x1_0000);
      guest.write('tx', 0x18, 0, 1000);
      expect(looks).toBeLessThan(6 * 1000);
      expect(host.guests[1]?.received().map(({ bytes }) => bytes)).toEqual([frame(macOf(1), macOf(0))]);
      // Without one, all of the ring: dropped, in shares of a turn.
      for (let i = 0; i < entries; i++) guest.word(0x2_0000 + 16 * i + 8, 0 | (3 << 20) | (0x22 << 24));
      guest.write('tx', 0x18, 0, 999);
      expect(host.vfRead(0, 0x3810)).toBe(999);
      expect(looks).toBeLessThan(6 * 1000 + 3 * entries);
    } finally {
      TransmitQueue.prototype.fetch = fetch;
    }
  });

  test('copies are what a turn is made of: one who floods everybody leaves his neighbour his share', () => {
    const firsts = [
      [0, 1],
      [1, 0],
    ].map(([noisy, quiet]) => {
      const host = new Host().start();
      host.write(H.QDE, 0xffff);
      for (let i = 0; i < RING - 1; i++) {
        host.guests[noisy as number]?.describe(frame(BROADCAST, macOf(noisy as number)));
        host.guests[quiet as number]?.describe(frame(macOf(2), macOf(quiet as number)));
      }
      host.nic.pause();
      host.guests[noisy as number]?.go();
      host.guests[quiet as number]?.go();
      host.nic.resume();
      const from = host.guests[2]?.received().map(({ bytes }) => bytes[11]);
      return from?.indexOf(quiet);
    });
    // Whoever comes first: seven copies each, so that ten broadcasts are a share.
    expect(firsts.sort()).toEqual([0, 10]);
  });

  test('packets that are dropped count, too', () => {
    const host = new Host().start();
    host.write(H.DTXSWC, 0x8000_00ff);
    const liar = host.guests[0] as Host['guests'][number];
    liar.write('tx', 0x28, 0, 0);
    liar.write('tx', 0x00, 0, 0x2_0000);
    liar.write('tx', 0x08, 0, 4096 * 16);
    liar.write('tx', 0x28, 0, 1 << 25);
    host.bytes.set(frame(macOf(1), macOf(6)), liar.base + 0x1_0000);
    for (let i = 0; i < 4095; i++)
      for (const [at, value] of [0x1_0000, 0, 64 | (3 << 20) | (0x2b << 24), 0].entries()) liar.word(0x2_0000 + 16 * i + 4 * at, value);
    const quiet = host.guests[1] as Host['guests'][number];
    host.vfWrite(2, V.IVAR, 0x80);
    let dropped = -1;
    host.onMessage = ({ data }) => {
      if (data === messageOf(2, 0) && dropped < 0) dropped = host.vfRead(0, 0x3810);
    };
    quiet.describe(frame(macOf(2), macOf(1)));
    host.nic.pause();
    liar.write('tx', 0x18, 0, 4095);
    quiet.go();
    host.nic.resume();
    expect(dropped).toBeGreaterThanOrEqual(0);
    expect(dropped).toBeLessThanOrEqual(256);
  });

  test('two queues of one VF are one share', () => {
    const host = new Host().start();
    const [both, one, listener] = host.guests as [Host['guests'][number], Host['guests'][number], Host['guests'][number]];
    both.start(1);
    for (let i = 0; i < 10; i++) {
      both.describe(frame(macOf(2), macOf(0), { fill: 1 }));
      both.describe(frame(macOf(2), macOf(0), { fill: 2 }), { queue: 1 });
      one.describe(frame(macOf(2), macOf(1), { fill: 3 }));
    }
    host.nic.pause();
    both.go();
    both.go(1);
    one.go();
    host.nic.resume();
    const order = listener.received().map(({ bytes }) => bytes[20] as number);
    // A turn each of the first queue, the neighbour's, then of the second.
    expect(order.filter((from, i) => order.indexOf(from) === i)).toEqual([1, 3, 2]);
    expect(order.length).toBe(30);
  });

  test('descriptors without buffers are looked at once, not for each frame that finds none', () => {
    const host = new Host().start();
    host.write(H.QDE, 0xffff);
    const guest = host.guests[2] as Host['guests'][number];
    guest.write('rx', 0x28, 0, 0);
    guest.write('rx', 0x08, 0, 512 * 16);
    for (let i = 0; i < 512; i++) guest.buffer(i, 0);
    guest.write('rx', 0x28, 0, 1 << 25);
    guest.write('rx', 0x18, 0, 511);
    const window = DmaSpace.prototype.window;
    let looks = 0;
    DmaSpace.prototype.window = function (...args) {
      looks++;
      return window.apply(this, args);
    };
    try {
      host.inject(...Array.from({ length: 100 }, () => frame(macOf(2), WIRE_MAC)));
    } finally {
      DmaSpace.prototype.window = window;
    }
    expect(host.read(H.RQDPC(2))).toBe(100);
    expect(looks).toBeLessThan(256 + 1000);
    // Buffers come: so do frames.
    for (let i = 0; i < 512; i++) guest.buffer(i, 0x4_0000 + i * 0x800);
    guest.write('rx', 0x18, 0, 510);
    host.inject(frame(macOf(2), WIRE_MAC));
    expect(guest.received().length).toBe(1);
  });
});
