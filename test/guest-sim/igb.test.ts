// The guest's igb driver and the igb, which were written apart from the datasheet, together: frames of all kinds between two guests, offloads, queues, tags.

import { afterEach, describe, expect, it } from 'vitest';
import type { AdvancedFrame } from '#guest-sim/advanced-receive';
import type { IgbOptions } from '#guest-sim/igb-options';
import { TransmitOffload } from '#guest-sim/net-transmit';
import { NET_HDR_F_NEEDS_CSUM } from '#guest-sim/virtio-constants';
import type { Machine } from '#nicbox/machine';
import { realCapture } from '../integration/two-guests.ts';
import { collect, igbPair, runAll, until } from './igb-guests.ts';

const open: Machine[] = [];

afterEach(async () => {
  for (const machine of open.splice(0)) await machine.close();
});

const WAYS: readonly (readonly [string, IgbOptions])[] = [
  ['nothing special', {}],
  ['moderated interrupts', { itr: 20 }],
  ['four pairs', { pairs: 4 }],
  ['eight pairs, moderated', { pairs: 8, itr: 20 }],
  ['headers split off', { splitHeaders: true }],
  ['head write-back', { headWriteBack: true }],
  ['both, and two pairs', { splitHeaders: true, headWriteBack: true, pairs: 2 }],
  ['small rings', { ringSize: 32 }],
  ['busy polling', { busyPolls: 5 }],
];

describe.each(WAYS)('the igb driver on the igb, with %s', (_name, driver) => {
  it('brings it up: address from the EEPROM, link from the PHY', async () => {
    const [a] = await igbPair(open, { driver });
    expect([...a.igb.configuration.mac]).toEqual([0x52, 0x54, 0, 0, 0, 1]);
    expect(a.igb.configuration.linkUp).toBe(true);
    expect(a.igb.receive.length).toBe(driver.pairs ?? 1);
  });

  it('carries frames of every size both ways, each byte checked', async () => {
    const [a, b] = await igbPair(open, { driver });
    const sizes = [60, 61, 64, 128, 255, 256, 1024, 1513, 1514];
    for (const [from, to] of [
      [a, b],
      [b, a],
    ] as const) {
      const [sent, received] = await runAll(
        [from, to],
        [
          { kind: 'generate', count: 3000, sizes },
          { kind: 'sink', count: 3000 },
        ],
      );
      expect([...(sent?.errors ?? ['none']), ...(received?.errors ?? ['none'])]).toEqual([]);
      expect(received?.details.lost).toBe(0);
    }
  });

  it('fills checksums in and cuts large frames', async () => {
    const [a, b] = await igbPair(open, { driver });
    const sizes = [200, 1514, 4000, 30_000].filter((size) => size <= (a.igb.transmit[0]?.longestFrame ?? 0));
    const pieces = 100 * sizes.reduce((sum, size) => sum + (size <= 1514 ? 1 : Math.ceil((size - 54) / 1460)), 0);
    const [sent, received] = await runAll(
      [a, b],
      [
        { kind: 'generate', count: 100 * sizes.length, sizes, checksumOffload: true },
        { kind: 'sink', count: pieces },
      ],
    );
    expect([...(sent?.errors ?? ['none']), ...(received?.errors ?? ['none'])]).toEqual([]);
  });

  it('answers pings', async () => {
    const [a, b] = await igbPair(open, { driver });
    const [ping] = await runAll(
      [a, b],
      [
        { kind: 'ping', count: 200 },
        { kind: 'echo', count: 200 },
      ],
    );
    expect(ping?.errors).toEqual([]);
    expect(ping?.framesReceived).toBe(200);
  });
});

describe('the igb driver', () => {
  it.each(['igb', 'e1000', 'virtio-net'] as const)('replays a real capture to an %s and back, byte for byte', async (peer) => {
    const [a, b] = await igbPair(open, { driver: { promiscuous: true }, peer });
    const frames = realCapture();
    for (const [from, to] of [
      [a, b],
      [b, a],
    ] as const) {
      const [sent, received] = await runAll(
        [from, to],
        [
          { kind: 'replay', frames, repeat: 2 },
          { kind: 'compare', frames, repeat: 2 },
        ],
      );
      expect([...(sent?.errors ?? ['none']), ...(received?.errors ?? ['none'])]).toEqual([]);
    }
  });

  it.each([2, 4, 8])('spreads frames over %i pairs by a hash that is the guest’s own', async (pairs) => {
    const [a, b] = await igbPair(open, { driver: { promiscuous: true }, peerDriver: { promiscuous: true, pairs } });
    const frames = realCapture();
    const [sent, spread] = await runAll(
      [a, b],
      [
        { kind: 'replay', frames, repeat: 2 },
        { kind: 'spread', count: 2 * frames.count },
      ],
    );
    expect([...(sent?.errors ?? ['none']), ...(spread?.errors ?? ['none'])]).toEqual([]);
    expect(spread?.details.agreed).toBe(spread?.framesReceived);
    expect(spread?.details.hashed).toBeGreaterThan(0);
    for (let q = 0; q < pairs; q++) expect(spread?.details[`queue${q}`]).toBeGreaterThan(0);
  });

  it('steers by a table and a key of its own', async () => {
    const key = Uint8Array.from({ length: 40 }, (_, i) => (i * 7 + 13) & 0xff);
    const [a, b] = await igbPair(open, { driver: { promiscuous: true }, peerDriver: { promiscuous: true, pairs: 4, rss: { key, table: [3, 3, 1, 3] } } });
    const frames = realCapture();
    const [, spread] = await runAll(
      [a, b],
      [
        { kind: 'replay', frames },
        { kind: 'spread', count: frames.count },
      ],
    );
    expect(spread?.errors).toEqual([]);
    expect(spread?.details.queue2).toBe(0);
    expect(spread?.details.queue3).toBeGreaterThan(spread?.details.queue1 ?? 0);
  });

  it('strips and inserts VLAN tags and filters by id', async () => {
    const [a, b] = await igbPair(open, { driver: { vlans: [5] } });
    const seen: { vlan: number; length: number }[] = [];
    const queue = a.igb.transmit[0] as (typeof a.igb.transmit)[0];
    for (const vlan of [5, 6, -1, 0x6005]) {
      queue.vlan = vlan;
      const at = queue.reserve();
      a.arena.u8.fill(0xff, at, at + 6);
      a.arena.u8.set(a.igb.configuration.mac, at + 6);
      a.arena.u8.set([0x88, 0xb5], at + 12);
      queue.send(100);
      queue.flush();
    }
    const sink = { receive: (frame: unknown) => void seen.push({ vlan: (frame as AdvancedFrame).vlan, length: (frame as AdvancedFrame).length }) };
    collect(b, sink);
    expect(seen).toEqual([
      { vlan: 5, length: 100 },
      { vlan: -1, length: 100 },
      { vlan: 0x6005, length: 100 },
    ]);
  });

  it('tells a sound SCTP packet from a damaged one, whose CRC the sender’s device filled in', async () => {
    const [a, b] = await igbPair(open);
    const seen: { bad: boolean; checksum: number; crc: number[] }[] = [];
    const sink = {
      receive: (frame: unknown) => {
        const f = frame as AdvancedFrame;
        seen.push({ bad: f.badChecksum, checksum: f.checksum, crc: [42, 43, 44, 45].map((i) => f.byte(i)) });
      },
    };
    const queue = a.igb.transmit[0] as (typeof a.igb.transmit)[0];
    const bytes = Uint8Array.of(
      ...[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0, 0, 0, 1, 0x08, 0x00],
      ...[0x45, 0, 0, 48, 0, 1, 0, 0, 64, 132, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2],
      ...[0x12, 0x34, 0x56, 0x78, 0, 0, 0, 9, 0, 0, 0, 0],
      ...[10, 0, 0, 16, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
    );
    let sum = 0;
    for (let i = 14; i < 34; i += 2) sum += ((bytes[i] as number) << 8) | (bytes[i + 1] as number);
    sum = ~((sum & 0xffff) + (sum >>> 16)) & 0xffff;
    bytes[24] = sum >>> 8;
    bytes[25] = sum;
    const sctp = Object.assign(new TransmitOffload(), { flags: NET_HDR_F_NEEDS_CSUM, csumStart: 34, csumOffset: 8 });
    const send = (offload: boolean): void => {
      const at = queue.reserve();
      a.arena.u8.set(bytes, at);
      queue.send(bytes.length, offload ? sctp : undefined);
      queue.flush();
    };
    send(true);
    send(false);
    collect(b, sink);
    // CRC32c, reflected, least significant byte first (RFC 4960 appendix B), computed here a bit at a time.
    let crc = ~0;
    for (let i = 34; i < bytes.length; i++) {
      crc ^= bytes[i] as number;
      for (let bit = 0; bit < 8; bit++) crc = (crc & 1) === 1 ? (crc >>> 1) ^ 0x82f6_3b78 : crc >>> 1;
    }
    crc = ~crc >>> 0;
    expect(seen).toEqual([
      { bad: false, checksum: 1, crc: [crc & 0xff, (crc >>> 8) & 0xff, (crc >>> 16) & 0xff, crc >>> 24] },
      { bad: true, checksum: 0, crc: [0, 0, 0, 0] },
    ]);
  });

  it('splits the headers of IP packets off', async () => {
    const [a, b] = await igbPair(open, { peerDriver: { splitHeaders: true } });
    const seen: number[] = [];
    const sink = { receive: (frame: unknown) => void seen.push((frame as AdvancedFrame).splitHeader) };
    // Beyond a buffer: TCP, cut into two segments. Else UDP.
    a.start({ kind: 'generate', count: 4, sizes: [200, 2100] });
    await until([a], () => a.workload?.done === true, 'the sender');
    collect(b, sink);
    expect(seen).toEqual([42, 54, 54, 42, 54, 54]);
  });

  it('counts what the device counted, and finds nothing wrong in its watchdog', async () => {
    const [a, b] = await igbPair(open);
    await runAll(
      [a, b],
      [
        { kind: 'generate', count: 500, sizes: [60, 1000] },
        { kind: 'sink', count: 500 },
      ],
    );
    a.igb.watchdog();
    b.igb.watchdog();
    const sent = a.igb.statistics.totals;
    const got = b.igb.statistics.totals;
    expect(sent.goodTransmitted).toBe(500);
    expect(sent.broadcastTransmitted).toBe(500);
    expect(sent.transmitted64).toBe(250);
    expect(got.goodReceived).toBe(500);
    expect(got.goodOctetsReceived).toBe(250 * 64 + 250 * 1004);
    expect(a.igb.broken).toBe('');
  });

  it('receives long frames in several buffers when its MTU is long', async () => {
    const [a, b] = await igbPair(open, { driver: { mtu: 9000 } });
    const [sent, received] = await runAll(
      [a, b],
      [
        { kind: 'generate', count: 300, sizes: [9014, 60, 4000] },
        { kind: 'sink', count: 300 },
      ],
    );
    expect([...(sent?.errors ?? ['none']), ...(received?.errors ?? ['none'])]).toEqual([]);
  });

  it('recovers by a reset, and gives all memory back', async () => {
    const [a, b] = await igbPair(open, { driver: { pairs: 2 } });
    const before = a.arena.bytesInUse;
    await runAll(
      [a, b],
      [
        { kind: 'generate', count: 100 },
        { kind: 'sink', count: 100 },
      ],
    );
    a.igb.recover();
    await until([a], () => a.igb.configuration.linkUp, 'the link after a reset');
    expect(a.arena.bytesInUse).toBe(before);
    const [sent, received] = await runAll(
      [a, b],
      [
        { kind: 'generate', count: 100 },
        { kind: 'sink', count: 100, verify: 'none' },
      ],
    );
    expect([...(sent?.errors ?? ['none']), ...(received?.errors ?? ['none'])]).toEqual([]);
    a.igb.shutDown();
    expect(a.arena.bytesInUse).toBe(0);
  });
});
