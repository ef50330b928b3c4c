// The bridge in a guest: who gets which frame, what is held, what is lost, and what goes to and comes from the guest's NIC.

import { beforeEach, describe, expect, it } from 'vitest';
import { type ByteViews, GuestMemory, viewsOf } from '#core/guest-memory';
import { GuestArena } from '#guest-sim/arena';
import { Bridge, type BridgedNic } from '#guest-sim/bridge';
import { CHECKSUM_PARTIAL, ReceivedFrame } from '#guest-sim/net-receive';
import { TransmitOffload } from '#guest-sim/net-transmit';
import type { Nic } from '#guest-sim/nic';

const SLOTS = 64;
const MACS = [1, 2, 3].map((n) => Uint8Array.of(2, 0, 0, 0, 0, n));
const FAR = Uint8Array.of(2, 0, 0, 0, 9, 9);
const EVERYBODY = new Uint8Array(6).fill(0xff);

let bridge: Bridge;
let left: { bytes: number[]; gsoType: number }[];
let full: boolean;

beforeEach(() => {
  left = [];
  full = false;
  const queue = {
    longestFrame: 65_550,
    copy(from: ByteViews, start: number, length: number, offload?: TransmitOffload): boolean {
      if (full) return false;
      left.push({ bytes: [...from.u8.subarray(start, start + length)], gsoType: offload?.gsoType ?? 0 });
      return true;
    },
    flush(): void {},
    awaitRoom: () => false,
  };
  const uplink = { configuration: { mac: MACS[0], mtu: 0, linkUp: true }, transmit: [queue], has: (feature: number) => feature === 0 } as unknown as Nic;
  bridge = new Bridge(new GuestArena(new GuestMemory([{ base: 0, size: 4 * 2 ** 20 }])), uplink, MACS, SLOTS);
});

const port = (n: number): BridgedNic => bridge.ports[n] as BridgedNic;

function frame(to: Uint8Array, from: Uint8Array, length: number, fill = 0x55): ByteViews {
  const views = viewsOf(new SharedArrayBuffer(Math.ceil(length / 8) * 8));
  views.u8.fill(fill);
  views.u8.set(to, 0);
  views.u8.set(from, 6);
  return views;
}

function send(from: number, to: Uint8Array, length = 60, offload?: TransmitOffload, fill?: number): boolean {
  return port(from).transmit[0].copy(frame(to, MACS[from] as Uint8Array, length, fill), 0, length, offload);
}

function received(n: number): { bytes: number[]; checksum: number; gsoType: number }[] {
  const frames: { bytes: number[]; checksum: number; gsoType: number }[] = [];
  const sink = {
    receive(f: ReceivedFrame): void {
      frames.push({ bytes: [...f.views.u8.subarray(f.offsets[0], (f.offsets[0] as number) + f.length)], checksum: f.checksum, gsoType: f.gsoType });
    },
  };
  while (port(n).poll(sink));
  return frames;
}

/** Everybody has been heard. */
function meet(): void {
  for (let n = 0; n < 3; n++) send(n, EVERYBODY);
  bridge.step();
  for (let n = 0; n < 3; n++) received(n);
  left = [];
}

describe('a bridge in a guest', () => {
  it('floods what it does not know, and takes what it does to one; a container hears what is for it', () => {
    send(0, MACS[1] as Uint8Array);
    bridge.step();
    expect(bridge.ports.map(({ arrived }) => arrived.frames)).toEqual([0, 1, 1]);
    expect([received(0).length, received(1).length, received(2).length, left.length]).toEqual([0, 1, 0, 1]);
    send(1, MACS[0] as Uint8Array);
    bridge.step();
    expect([received(0).length, received(1).length, received(2).length, left.length]).toEqual([1, 0, 0, 1]);
  });

  it('copies a frame whole, with what is left to be done to it', () => {
    meet();
    const offload = Object.assign(new TransmitOffload(), { flags: 1, gsoType: 1, gsoSize: 1460, csumStart: 34, csumOffset: 16, headerLength: 54 });
    const long = frame(MACS[2] as Uint8Array, MACS[0] as Uint8Array, 65_500, 0x77);
    expect(port(0).transmit[0].copy(long, 0, 65_500, offload)).toBe(true);
    bridge.step();
    const [got] = received(2);
    expect(got?.bytes).toEqual([...long.u8.subarray(0, 65_500)]);
    expect([got?.checksum, got?.gsoType]).toEqual([CHECKSUM_PARTIAL, 1]);
  });

  it('holds a sender whose receiver is full, and loses and reorders nothing, round and round', () => {
    meet();
    const lengths = [60, 5000, 1514, 20_000, 2048, 2049];
    let sent = 0;
    const got: number[][] = [];
    for (let turn = 0; turn < 400; turn++) {
      const length = lengths[sent % lengths.length] as number;
      if (send(0, MACS[1] as Uint8Array, length, undefined, sent & 0x7f)) sent++;
      if (turn % 7 === 0) bridge.step();
      // The receiver looks rarely.
      if (turn % 31 === 0) got.push(...received(1).map(({ bytes }) => [bytes.length, bytes[20] as number]));
    }
    expect(sent).toBeLessThan(400);
    for (let i = 0; i < 10; i++) {
      bridge.step();
      got.push(...received(1).map(({ bytes }) => [bytes.length, bytes[20] as number]));
    }
    expect(got).toEqual(Array.from({ length: sent }, (_, i) => [lengths[i % lengths.length], i & 0x7f]));
    expect(port(0).transmit[0].outstanding).toBe(0);
    expect(bridge.lost).toBe(0);
  });

  it('gives the NIC what is for nobody here, and waits for it', () => {
    meet();
    const far = new ReceivedFrame(frame(MACS[0] as Uint8Array, FAR, 60), 2);
    far.length = 60;
    far.segmentCount = 2;
    far.offsets.set([0, 40]);
    far.lengths.set([40, 20]);
    bridge.receive(far);
    expect(received(0).map(({ bytes }) => bytes)).toEqual([[...far.views.u8.subarray(0, 60)]]);
    full = true;
    send(0, FAR);
    expect(bridge.step()).toBe(false);
    expect(port(0).transmit[0].outstanding).toBe(1);
    full = false;
    expect(bridge.step()).toBe(true);
    expect([left.length, received(1).length]).toEqual([1, 0]);
    // What came from there is not sent back.
    far.views.u8.set(FAR, 0);
    bridge.receive(far);
    expect([left.length, received(0).length, bridge.lost]).toEqual([1, 0, 0]);
  });

  it('counts what it loses: flooded copies without room, frames of the NIC without room, and what is no frame', () => {
    meet();
    let sent = 0;
    while (send(0, EVERYBODY)) sent++;
    bridge.step();
    while (send(0, EVERYBODY)) sent++;
    bridge.step();
    expect(port(0).transmit[0].outstanding).toBe(0);
    const kept = received(1).length + received(2).length;
    expect(kept).toBe(2 * SLOTS);
    expect(bridge.lost).toBe(2 * sent - kept);
    const before = bridge.lost;
    send(0, MACS[1] as Uint8Array, 13);
    bridge.step();
    expect(bridge.lost).toBe(before + 1);
  });

  it('follows a station that moves, and believes no group address', () => {
    meet();
    port(2).transmit[0].copy(frame(MACS[0] as Uint8Array, MACS[1] as Uint8Array, 60), 0, 60);
    port(2).transmit[0].copy(frame(MACS[0] as Uint8Array, EVERYBODY, 60), 0, 60);
    bridge.step();
    received(0);
    send(0, MACS[1] as Uint8Array);
    bridge.step();
    expect(bridge.ports.map(({ arrived }) => arrived.frames)).toEqual([0, 0, 1]);
    received(2);
    send(0, EVERYBODY);
    bridge.step();
    expect([received(1).length, received(2).length, left.length]).toEqual([1, 1, 1]);
  });

  it('keeps a frame of the NIC, and who looks at the NIC with it, until its container has room', () => {
    meet();
    const near = new ReceivedFrame(frame(MACS[2] as Uint8Array, FAR, 2048), 1);
    near.length = 2048;
    near.segmentCount = 1;
    near.offsets[0] = 0;
    near.lengths[0] = 2048;
    let taken = 0;
    for (; bridge.takes(near); taken++) bridge.receive(near);
    expect(taken).toBe(SLOTS);
    // What is for others, or for all, is not held by that.
    near.views.u8.set(MACS[1] as Uint8Array, 0);
    expect(bridge.takes(near)).toBe(true);
    near.views.u8.set(EVERYBODY, 0);
    expect(bridge.takes(near)).toBe(true);
    near.views.u8.set(MACS[2] as Uint8Array, 0);
    expect(received(2).length).toBe(SLOTS);
    expect([bridge.takes(near), bridge.lost, bridge.arrived]).toEqual([true, 0, SLOTS]);
  });

  it('has room in a ring that is empty wherever the last frame ended', () => {
    meet();
    for (const length of [65_540, 65_540, 60]) {
      expect(send(0, MACS[1] as Uint8Array, length)).toBe(true);
      bridge.step();
      expect(received(1).map(({ bytes }) => bytes.length)).toEqual([length]);
    }
  });

  it('offers its containers what the NIC can do of what it carries', () => {
    expect([0, 11, 12, 5].map((feature) => port(0).has(feature))).toEqual([true, false, false, false]);
  });
});
