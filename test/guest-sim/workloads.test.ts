import { describe, expect, it } from 'vitest';
import type { FrameStore } from '#guest-sim/compare';
import { DRIVER_FEATURES, featureMask } from '#guest-sim/features';
import { Guest } from '#guest-sim/guest';
import { Histogram } from '#guest-sim/histogram';
import { checksumsHold, Headers, transportChecksum } from '#guest-sim/packets';
import { buildFrame } from '#guest-sim/test-frame';
import { VIRTIO_NET_F } from '#guest-sim/virtio-constants';
import type { Job, PackedFrames } from '#guest-sim/workload';
import { VirtioModel } from './virtio-model.ts';

function pack(frames: readonly Uint8Array[], gap = 1000): PackedFrames {
  const buffer = new SharedArrayBuffer(frames.reduce((n, f) => n + f.length, 8));
  const offset = new Uint32Array(frames.length);
  let at = 0;
  for (const [i, frame] of frames.entries()) {
    new Uint8Array(buffer).set(frame, at);
    offset[i] = at;
    at += frame.length;
  }
  return { count: frames.length, buffer, offset, length: Int32Array.from(frames, (f) => f.length), time: Float64Array.from(frames, (_, i) => 5e9 + i * gap) };
}

function frameOf(size: number, options: { tcp?: boolean; unfilled?: boolean } = {}): Uint8Array {
  const frame = new Uint8Array(size);
  const source = Uint8Array.of(2, 0, 0, 0, 0, 1);
  buildFrame(frame, 0, { size, tcp: options.tcp ?? false, flow: 3, source, destination: source, unfilled: options.unfilled ?? false });
  return frame;
}

function storeFor(bytes: number, frames: number): FrameStore {
  return {
    bytes: new SharedArrayBuffer(bytes),
    offsets: new SharedArrayBuffer(4 * (frames + 1)),
    times: new SharedArrayBuffer(8 * frames),
    count: new SharedArrayBuffer(4),
  };
}

/** The model sends everything back, so one guest replays and its twin, fed from the same ring, compares: two workloads in one. */
function replayAndCompare(guest: Guest, frames: PackedFrames, store?: FrameStore, job: Partial<Job> = {}) {
  const replay = guest.start({ kind: 'replay', frames, ...job } as Job);
  const compare = new Guest(new VirtioModel({ features: 1n << 32n })).start({ kind: 'compare', frames, ...(store && { store }) });
  const count = replay.receive.bind(replay);
  replay.receive = (frame) => {
    count(frame);
    compare.receive(frame);
  };
  return { replay, compare };
}

const ALL = featureMask(DRIVER_FEATURES);

describe('replay and compare', () => {
  it('agree over the model, and the store holds what came', () => {
    const guest = new Guest(new VirtioModel({ features: ALL }));
    const sent = [60, 61, 200, 1514].map((n) => frameOf(n));
    const store = storeFor(10_000, 4);
    const { replay, compare } = replayAndCompare(guest, pack(sent), store);
    for (let i = 0; i < 50; i++) guest.step();
    expect([replay.done, compare.done, compare.result().errors]).toEqual([true, true, []]);
    const offsets = new Uint32Array(store.offsets);
    const bytes = new Uint8Array(store.bytes);
    expect(new Int32Array(store.count)[0]).toBe(4);
    expect(sent.map((_, i) => bytes.slice(offsets[i], offsets[i + 1]))).toEqual(sent);
  });

  it('stop storing where the store is full', () => {
    const guest = new Guest(new VirtioModel({ features: ALL }));
    const sent = [60, 60, 60, 60].map((n) => frameOf(n));
    const store = storeFor(130, 4);
    const { compare } = replayAndCompare(guest, pack(sent), store);
    for (let i = 0; i < 50; i++) guest.step();
    expect([compare.done, new Int32Array(store.count)[0]]).toEqual([true, 2]);
  });

  it('notice one wrong byte, a missing frame and one too many', () => {
    const good = [frameOf(100), frameOf(101), frameOf(102)];
    const bad = good.map((f) => f.slice());
    (bad[1] as Uint8Array)[70] = ~((bad[1] as Uint8Array)[70] as number);
    for (const [sent, wanted, message] of [
      [bad, good, 'frame 1: byte 70'],
      [[good[0], good[2]], good, 'frame 1: 102 bytes in place of 101'],
      [[...good, good[0]], good, 'after the last one'],
    ] as [Uint8Array[], Uint8Array[], string][]) {
      const guest = new Guest(new VirtioModel({ features: ALL }));
      const replay = guest.start({ kind: 'replay', frames: pack(sent) });
      const compare = new Guest(new VirtioModel({ features: 1n << 32n })).start({ kind: 'compare', frames: pack(wanted) });
      replay.receive = (frame) => compare.receive(frame);
      for (let i = 0; i < 50; i++) guest.step();
      expect(compare.result().errors.join()).toContain(message);
    }
  });

  it.each([0, 11, 66, 67, 68, 69, 71, 99, 100])('notice a wrong byte wherever it is: at %i of 101', (at) => {
    const good = frameOf(101);
    const bad = good.slice();
    bad[at] = (bad[at] as number) ^ 0x10;
    const guest = new Guest(new VirtioModel({ features: ALL }));
    const replay = guest.start({ kind: 'replay', frames: pack([bad]) });
    const compare = new Guest(new VirtioModel({ features: 1n << 32n })).start({ kind: 'compare', frames: pack([good]) });
    replay.receive = (frame) => compare.receive(frame);
    for (let i = 0; i < 50; i++) guest.step();
    expect(compare.result().errors.join()).toContain(`frame 0: byte ${at} is`);
  });

  it('send a frame recorded with an unfilled checksum for the device to fill, or filled without CSUM', () => {
    const frame = frameOf(300, { unfilled: true });
    for (const csum of [true, false]) {
      const guest = new Guest(new VirtioModel({ features: csum ? ALL : ALL & ~featureMask([VIRTIO_NET_F.CSUM]) }));
      const { compare } = replayAndCompare(guest, pack([frame]));
      for (let i = 0; i < 20; i++) guest.step();
      expect([compare.done, compare.result().errors]).toEqual([true, []]);
      expect(guest.report().details.unfilled).toBe(csum ? 1 : 0);
    }
  });

  it('segment in software what no device was found to segment', () => {
    const guest = new Guest(new VirtioModel({ features: ALL & ~featureMask([VIRTIO_NET_F.HOST_TSO4]) }));
    const { replay, compare } = replayAndCompare(guest, pack([frameOf(9000, { tcp: true }), frameOf(60)]));
    for (let i = 0; i < 50; i++) guest.step();
    expect([replay.done, compare.done, compare.result().errors]).toEqual([true, true, []]);
    expect(compare.result().details).toMatchObject({ segments: 7, whole: 1 });
  });

  it('keep the capture’s pace on the guest’s clock', () => {
    const device = new VirtioModel({ features: ALL });
    const guest = new Guest(device);
    const replay = guest.start({ kind: 'replay', frames: pack([frameOf(60), frameOf(60), frameOf(60)], 1000), speed: 2 });
    const seen: number[] = [];
    for (device.time = 0; device.time <= 1200; device.time += 100) {
      guest.step();
      seen.push(replay.framesSent);
    }
    expect(seen).toEqual([1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 3]);
    expect(guest.sleepTime(50)).toBe(50);
  });
});

describe('the pieces', () => {
  it('quantiles stay within a step of the sample', () => {
    const h = new Histogram();
    for (let i = 1; i <= 1000; i++) h.add(i * 100);
    expect(h.quantile(0.5) / 50_000).toBeCloseTo(1, 0);
    expect(Math.abs(h.quantile(0.5) - 50_000)).toBeLessThan(50_000 / 16);
    expect(Math.abs(h.quantile(0.99) - 99_000)).toBeLessThan(99_000 / 16);
    expect([h.quantile(1), h.max, new Histogram().quantile(0.5)]).toEqual([100_000, 100_000, 0]);
  });

  it('checksums hold where RFC 1071 says so, and only there', () => {
    // The IPv4 header of RFC 1071's usual worked example, with its known checksum 0xb861, in front of a UDP header without one.
    const frame = Uint8Array.from([
      ...[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0],
      ...[0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7],
      ...[0, 1, 0, 2, 0, 95, 0, 0],
      ...Array.from({ length: 87 }, (_, i) => i),
    ]);
    const h = new Headers();
    expect(h.parse(frame, 0, frame.length)).toBe(true);
    expect([h.network, h.transport, h.payload, h.end]).toEqual([14, 34, 42, 129]);
    expect(checksumsHold(frame, 0, h)).toBe(true);
    const sum = transportChecksum(frame, 0, h);
    frame.set([sum >>> 8, sum & 0xff], 40);
    expect(checksumsHold(frame, 0, h)).toBe(true);
    for (const at of [25, 41, 128]) {
      const wrong = frame.slice();
      wrong[at] = (wrong[at] as number) ^ 0x10;
      expect(checksumsHold(wrong, 0, h)).toBe(false);
    }
  });

  it('headers of any bytes parse without reading past them', () => {
    const h = new Headers();
    for (const length of [0, 13, 14, 20, 33, 34, 53]) expect(h.parse(frameOf(60), 0, length)).toBe(false);
    for (let seed = 0; seed < 2000; seed++) {
      const frame = Uint8Array.from({ length: 15 + (seed % 80) }, (_, i) => (seed * 2654435761 + i * 40503) >>> 11);
      frame.set(seed % 2 ? [8, 0, 0x45] : [0x86, 0xdd, 0x60], 12);
      if (!h.parse(frame, 0, frame.length)) continue;
      expect(h.end).toBeLessThanOrEqual(frame.length);
      expect(h.payload).toBeLessThanOrEqual(h.end);
    }
  });
});
