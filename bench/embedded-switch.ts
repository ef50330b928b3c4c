// What a frame costs to pass through a segment: nanoseconds by how it is forwarded, beside a direct link and a learning switch in the same run. The source has the same frames over and over, the sink copies them. Rules are looked
// up among many of one mask, and in many masks. Run: npm run bench -- embedded-switch

import { copyBytes } from '#core/copy';
import { type ByteViews, viewsOf } from '#core/guest-memory';
import { PortCounters } from '#net/counters';
import { DirectLink } from '#net/direct-link';
import type { FlowAction } from '#net/embedded-switch/actions';
import { EmbeddedSwitch } from '#net/embedded-switch/embedded-switch';
import { LearningSwitch } from '#net/learning-switch';
import { ACCEPTS_EVERYTHING, type FrameBatch, type NetPort } from '#net/port';
import { type Forwarding, Segment } from '#net/segment';
import { median, printTable } from './measure.ts';

const FRAMES = 256;
const ROUNDS = 400;
const SAMPLES = 15;
const ROOM = 2048;

/** Whatever is not asked of a port here. */
abstract class BenchPort implements NetPort {
  readonly name: string;
  readonly linkUp = true;
  readonly accepts = ACCEPTS_EVERYTHING;
  readonly counters = new PortCounters();
  readonly hasRoom = true;

  constructor(name: string) {
    this.name = name;
  }

  collect(_batch: FrameBatch, _frames: number, _bytes: number): number {
    return 0;
  }
  complete(_batch: FrameBatch, _done: number): void {}
  deliver(_batch: FrameBatch, from: number, to: number): number {
    return to - from;
  }
  flush(): void {}
  awaitFrames(): boolean {
    return true;
  }
  awaitRoom(): boolean {
    return true;
  }
}

class Source extends BenchPort {
  readonly #views = viewsOf(new ArrayBuffer(FRAMES * ROOM));
  readonly #length: number;

  /** @param flows different UDP source ports */
  constructor(name: string, length: number, flows: number) {
    super(name);
    this.#length = length;
    for (let i = 0; i < FRAMES; i++) {
      const flow = i % flows;
      const frame = [
        2,
        0,
        0,
        0,
        0,
        2,
        2,
        0,
        0,
        0,
        0,
        1,
        8,
        0,
        0x45,
        0,
        (length - 14) >> 8,
        (length - 14) & 255,
        0,
        0,
        0x40,
        0,
        64,
        17,
        0,
        0,
        10,
        0,
        0,
        1,
        10,
        0,
        0,
        2,
      ];
      frame.push(0x10 | (flow >> 8), flow & 255, 0x13, 0x88, (length - 34) >> 8, (length - 34) & 255, 0, 0);
      this.#views.u8.set(frame, i * ROOM);
    }
  }

  override collect(batch: FrameBatch, frames: number): number {
    const count = Math.min(frames, FRAMES);
    for (let i = 0; i < count; i++) {
      const f = batch.count++;
      batch.firstSegment[f] = batch.segments.count;
      batch.segmentCount[f] = 1;
      batch.segments.addHost(this.#views, i * ROOM, this.#length);
      batch.length[f] = this.#length;
      batch.flags[f] = 0;
      batch.gsoType[f] = 0;
      batch.token[f] = i;
    }
    return count;
  }
}

class Sink extends BenchPort {
  readonly #memory = viewsOf(new ArrayBuffer(2 * ROOM));
  frames = 0;

  override deliver(batch: FrameBatch, from: number, to: number): number {
    const { segments } = batch;
    for (let f = from; f < to; f++) {
      let at = 0;
      const first = batch.firstSegment[f] as number;
      const last = first + (batch.segmentCount[f] as number);
      for (let s = first; s < last; s++) {
        const length = segments.length[s] as number;
        copyBytes(this.#memory, at, segments.views[s] as ByteViews, segments.offset[s] as number, length);
        at += length;
      }
    }
    this.frames += to - from;
    return to - from;
  }
}

interface Case {
  readonly name: string;
  readonly make: () => Forwarding;
  readonly flows?: number;
}

function legacy(): Forwarding {
  const nic = new EmbeddedSwitch({ functions: 2 });
  nic.configurePort('vf0', { mac: '02:00:00:00:00:01', spoofCheck: true });
  nic.configurePort('vf1', { mac: '02:00:00:00:00:02' });
  return nic.forwarding();
}

function switchdev(rules: (nic: EmbeddedSwitch) => void): () => Forwarding {
  return () => {
    const nic = new EmbeddedSwitch({ functions: 2, mode: 'switchdev', limits: { rules: 16384 } });
    nic.root.addTunnel('t', {
      kind: 'vxlan',
      vni: 1,
      source: '192.0.2.1',
      destination: '192.0.2.2',
      sourceMac: '02:00:00:00:00:01',
      destinationMac: '02:00:00:00:00:02',
    });
    rules(nic);
    return nic.forwarding();
  };
}

const TO_VF1: FlowAction = { kind: 'forward', to: 'vf1' };
const one = (...actions: FlowAction[]): (() => Forwarding) =>
  switchdev((nic) => void nic.root.addRule({ match: { port: 'vf0' }, actions: [...actions, TO_VF1] }));
const exact = (nic: EmbeddedSwitch, count: number): void => {
  for (let i = 0; i < count; i++)
    nic.root.addRule({
      match: { port: 'vf0', source: '10.0.0.1', destination: '10.0.0.2', protocol: 17, sourcePort: 0x1000 | i, destinationPort: 5000 },
      actions: [TO_VF1],
    });
};
/** So many masks that the frames' rule, in the last of them, is found after looking in each. */
const masks = (nic: EmbeddedSwitch, count: number): void => {
  for (let i = 0; i < count - 1; i++) nic.root.addRule({ match: { source: `11.0.0.0/${8 + i}` }, actions: [TO_VF1], priority: 9 });
  exact(nic, FRAMES);
};

const CASES: readonly Case[] = [
  { name: 'direct link', make: () => new DirectLink() },
  { name: 'learning switch', make: () => new LearningSwitch() },
  { name: 'legacy, spoof check', make: legacy },
  { name: 'switchdev, 1 rule', make: one() },
  { name: '256 rules of 1 mask, 256 flows', make: switchdev((nic) => exact(nic, FRAMES)), flows: FRAMES },
  { name: '4096 rules of 1 mask, 256 flows', make: switchdev((nic) => exact(nic, 4096)), flows: FRAMES },
  { name: '8 masks, 256 flows', make: switchdev((nic) => masks(nic, 8)), flows: FRAMES },
  { name: '24 masks, 256 flows', make: switchdev((nic) => masks(nic, 24)), flows: FRAMES },
  { name: 'push VLAN', make: one({ kind: 'push-vlan', id: 5 }) },
  { name: 'set addresses, decrement TTL', make: one({ kind: 'set', source: '10.1.1.1', destinationMac: '02:00:00:00:00:09' }, { kind: 'decrement-ttl' }) },
  { name: 'encapsulate in VXLAN', make: one({ kind: 'encapsulate', tunnel: 't' }) },
];

function nanosPerFrame({ make, flows = 1 }: Case, length: number): number {
  const segment = new Segment(make());
  const sink = new Sink('vf1');
  segment.addPort(new Source('vf0', length, flows));
  segment.addPort(sink);
  const times: number[] = [];
  for (let sample = -3; sample < SAMPLES; sample++) {
    const before = sink.frames;
    const start = performance.now();
    for (let round = 0; round < ROUNDS; round++) segment.service();
    const nanos = ((performance.now() - start) * 1e6) / (sink.frames - before);
    if (sample >= 0) times.push(nanos);
  }
  return median(times);
}

const results = CASES.map((one) => ({ name: one.name, small: nanosPerFrame(one, 64), large: nanosPerFrame(one, 1500) }));
const base = results.find(({ name }) => name === 'learning switch') as { small: number; large: number };
printTable(
  ['forwarding', '64 B ns', 'Mframes/s', 'x learning', '1500 B ns', 'x learning'],
  results.map(({ name, small, large }) => [
    name,
    small.toFixed(1),
    (1000 / small).toFixed(1),
    (small / base.small).toFixed(2),
    large.toFixed(1),
    (large / base.large).toFixed(2),
  ]),
);
