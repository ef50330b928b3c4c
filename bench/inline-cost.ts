// What one frame costs on one thread, driver and device together, in processor time: steadier than a rate where processors are shared.

import { InlineSegment } from '#backends/inline-backend';
import { copyBytes } from '#core/copy';
import { viewsOf } from '#core/guest-memory';
import { DirectLink } from '#net/direct-link';
import { Segment } from '#net/segment';
import { BenchGuest } from './ring-drivers.js';

/** What this processor does now: the copy alone, twice a frame as the frame path's bytes go twice through the cache. */
function yardstick(bytes: number): number {
  const from = viewsOf(new SharedArrayBuffer(1 << 20));
  const to = viewsOf(new SharedArrayBuffer(1 << 20));
  let best = Number.POSITIVE_INFINITY;
  for (let round = 0; round < 12; round++) {
    const before = process.cpuUsage();
    for (let i = 0; i < 1_000_000; i++) copyBytes(to, ((i & 1023) << 7) + 12, from, ((i & 1023) << 7) + 12, bytes);
    const { user, system } = process.cpuUsage(before);
    best = Math.min(best, (user + system) / 1000);
  }
  return best;
}

function cost(packed: boolean, frame: number): number {
  const options = { packed, size: 1024, frame, buffer: frame <= 64 ? 128 : 2048 };
  const segment = new InlineSegment(new Segment(new DirectLink()));
  const a = new BenchGuest(options);
  const b = new BenchGuest(options);
  const [backendA, backendB] = [segment.port('a'), segment.port('b')];
  a.attach(backendA);
  b.attach(backendB);
  b.receiver.fill();
  let best = Number.POSITIVE_INFINITY;
  for (let round = 0; round < 12; round++) {
    const before = process.cpuUsage();
    let frames = 0;
    while (frames < 1_000_000) {
      a.transmitter.send(64);
      frames += b.receiver.receive();
    }
    const { user, system } = process.cpuUsage(before);
    best = Math.min(best, ((user + system) * 1000) / frames);
  }
  return best;
}

const only = process.argv[2];
for (const frame of [64, 1500]) console.log(`${frame} B copy alone: ${yardstick(frame).toFixed(1)} ns`);
for (const frame of [64, 1500])
  for (const packed of [false, true]) {
    const name = `${frame} B ${packed ? 'packed' : 'split'}`;
    if (only === undefined || name.includes(only)) console.log(`${name}: ${cost(packed, frame).toFixed(1)} ns of processor time a frame, best of 12 rounds`);
  }
