import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { SimClock } from '#core/clock';
import { openCapture } from '#net/capture';
import { loadFrames } from '#net/capture-frames';
import { CaptureSink, CaptureSource } from '#net/capture-ports';
import { CaptureError } from '#net/captured-packet';
import { DirectLink } from '#net/direct-link';
import { PcapWriter } from '#net/pcap';
import { GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4 } from '#net/port';
import { Segment } from '#net/segment';
import { dissect, faults } from './frames.ts';

const real = openCapture(readFileSync(new URL('../../captures/real.pcapng', import.meta.url)));
const EVERYTHING = 0xffff & ~0x8000;

describe('captures as ports', () => {
  it('replays a capture into a sink byte for byte when it takes every offload, holding back while the sink is full', () => {
    const frames = loadFrames(real);
    const clock = new SimClock(5e9);
    const segment = new Segment(new DirectLink(), { clock });
    const source = new CaptureSource('source', frames);
    const sink = new CaptureSink('sink', { clock, capacity: 65536, accepts: EVERYTHING, epoch: 1_000_000 });
    segment.addPort(source);
    const at = segment.addPort(sink);
    const got: Uint8Array[] = [];
    let drains = 0;
    while (source.left > 0 || sink.kept > 0) {
      while (segment.service());
      sink.drain((bytes, seconds) => {
        expect(seconds).toBe(1_000_005);
        got.push(bytes.slice());
      });
      segment.wake(at);
      if (++drains > 100) throw new Error(`not done after ${drains} drains: ${source.left} frames left`);
    }
    expect(drains).toBeGreaterThan(4);
    const views = new Uint8Array(frames.buffer);
    expect(got.length).toBe(frames.count);
    got.forEach((bytes, i) => {
      const start = frames.offset[i] as number;
      expect(Buffer.compare(bytes, views.subarray(start, start + (frames.length[i] as number)))).toBe(0);
    });
    expect(sink.counters.snapshot()).toMatchObject({ receiveFrames: frames.count, receiveDrops: {} });
  });

  it('replays it as a wire would carry it to a sink that takes no offload: no frame over the MTU, every checksum right, the same streams', () => {
    const frames = loadFrames(real);
    const segment = new Segment(new DirectLink());
    segment.addPort(new CaptureSource('source', frames));
    const sink = new CaptureSink('sink');
    segment.addPort(sink);
    while (segment.service());
    let payload = 0;
    let large = 0;
    sink.drain((bytes) => {
      const frame = bytes.slice();
      const p = dissect(frame);
      if ((p.version !== 4 && p.version !== 6) || (p.protocol !== 6 && p.protocol !== 17)) return;
      expect(faults(frame)).toEqual([]);
      expect(frame.length - p.network).toBeLessThanOrEqual(1500);
      payload += frame.length - p.payload;
    });
    let expected = 0;
    for (const { bytes } of real.packets) {
      const p = dissect(bytes);
      if ((p.version !== 4 && p.version !== 6) || (p.protocol !== 6 && p.protocol !== 17)) continue;
      expected += bytes.length - p.payload;
      if (bytes.length > 1518) large++;
    }
    expect(payload).toBe(expected);
    expect(large).toBeGreaterThan(10);
  });

  it('works out which offload each kind of large frame asked for', () => {
    const { gsoType } = loadFrames(real);
    expect(new Set(gsoType)).toEqual(new Set([GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4]));
  });

  it('sends a capture several times over, and takes nothing itself', () => {
    const frames = loadFrames(real);
    const segment = new Segment(new DirectLink());
    const [a, b] = [new CaptureSource('a', frames, 3), new CaptureSource('b', frames)];
    segment.addPort(a);
    segment.addPort(b);
    while (segment.service());
    expect(b.counters.snapshot().receiveDrops).toEqual({ filtered: 3 * frames.count });
    expect([a.left, b.left]).toEqual([0, 0]);
  });

  it('refuses captures that are not of Ethernet, and counts cut and empty packets', () => {
    const write = (linkType: number, snapLength: number, sizes: number[]): Uint8Array => {
      const chunks: Uint8Array[] = [];
      const writer = new PcapWriter((chunk) => chunks.push(chunk), { linkType, snapLength });
      for (const size of sizes) writer.packet(new Uint8Array(size), 0, 0);
      writer.flush();
      return Buffer.concat(chunks);
    };
    expect(() => loadFrames(openCapture(write(113, 100, [60])))).toThrow(CaptureError);
    expect(loadFrames(openCapture(write(1, 100, [60, 0, 200, 300])))).toMatchObject({ count: 3, cut: 2, empty: 1 });
  });
});
