// What hashing and steering cost: the hash of one frame by kind, beside a pass over the same frames that computes nothing; frames of 64 bytes to sixteen receive queues beside one queue, with
// and without the hash reported. Processor time on one thread, driver and device together, and the rate through a worker.

import { InlineSegment } from '#backends/inline-backend';
import { VhostPool } from '#backends/vhost-pool';
import { viewsOf } from '#core/guest-memory';
import { DirectLink } from '#net/direct-link';
import { FrameHasher } from '#net/frame-hash';
import { FrameBatch } from '#net/port';
import { Segment } from '#net/segment';
import { VIRTIO_NET_F_HASH_REPORT } from '#virtio/net-features';
import { BenchGuest } from './ring-drivers.js';

const FRAMES = 256;
const QUEUES = 16;
const BATCH = 256;
const ALL = 0x1ff;
const KEY = Uint8Array.from({ length: 40 }, (_, i) => (i * 73 + 29) & 0xff);

/** Processor time of one call in nanoseconds, best of several rounds: neighbours take turns on the processor, not of it. */
function cost(call: (i: number) => void, calls = 4000): number {
  let best = Number.POSITIVE_INFINITY;
  for (let round = 0; round < 12; round++) {
    const before = process.cpuUsage();
    for (let i = 0; i < calls; i++) call(i);
    const { user, system } = process.cpuUsage(before);
    best = Math.min(best, ((user + system) * 1000) / calls);
  }
  return best;
}

// ---- the hash alone ----

/** Frames of many flows, `stride` bytes apart as a driver's buffers lie. */
function batchOf(frame: (n: number) => readonly number[], stride = 256): FrameBatch {
  const views = viewsOf(new SharedArrayBuffer(FRAMES * stride));
  const batch = new FrameBatch(views, FRAMES);
  for (let f = 0; f < FRAMES; f++) {
    const bytes = frame(f);
    views.u8.set(bytes, f * stride + 12);
    batch.firstSegment[f] = f;
    batch.segmentCount[f] = 1;
    batch.segments.addHost(views, f * stride + 12, Math.max(64, bytes.length));
    batch.length[f] = Math.max(64, bytes.length);
  }
  batch.count = FRAMES;
  return batch;
}

const u16 = (value: number): number[] => [(value >> 8) & 0xff, value & 0xff];
const macs = [0x52, 0x54, 0, 0, 0, 2, 0x52, 0x54, 0, 0, 0, 1];
const ports = (n: number): number[] => [...u16(n * 7919), ...u16(80)];
const tcp = (n: number): number[] => [...ports(n), 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x10, 1, 0, 0, 0, 0, 0];
const ipv4 = (n: number, protocol: number, payload: readonly number[]): number[] => [
  ...[0x45, 0, ...u16(20 + payload.length), 0, 0, 0, 0, 64, protocol, 0, 0],
  ...[10, n & 7, n >> 3, 1, 10, 9, 0, n & 0xff],
  ...payload,
];
const ipv6 = (n: number, payload: readonly number[]): number[] => [
  ...[0x60, 0, 0, 0, ...u16(payload.length), 6, 64],
  ...[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n >> 8, n & 0xff, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, n & 0x7f],
  ...payload,
];
const kinds: Record<string, (n: number) => number[]> = {
  'IPv4/TCP': (n) => [...macs, 8, 0, ...ipv4(n, 6, tcp(n))],
  'IPv4/UDP': (n) => [...macs, 8, 0, ...ipv4(n, 17, [...ports(n), 0, 8, 0, 0])],
  'VLAN, IPv4/TCP': (n) => [...macs, 0x81, 0, 0, 5, 8, 0, ...ipv4(n, 6, tcp(n))],
  'IPv6/TCP': (n) => [...macs, 0x86, 0xdd, ...ipv6(n, tcp(n))],
  'IPv4/TCP in VXLAN': (n) => [
    ...[...macs, 8, 0],
    ...ipv4(1, 17, [...ports(1).slice(0, 2), ...u16(4789), 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 1, 0, ...macs, 8, 0, ...ipv4(n, 6, tcp(n))]),
  ],
};

const touched = batchOf(kinds['IPv4/TCP'] as (n: number) => number[]);
/** The least a hash has to do: look at one word of every frame's header, and write three columns. */
const bound =
  cost((i) => {
    const { segments, hash, hashReport, hashedBy } = touched;
    const views = segments.views[0] as (typeof segments.views)[number];
    for (let f = 0; f < FRAMES; f++) {
      hash[f] = views.i32[((segments.offset[f] as number) + 28) >>> 2] as number;
      hashReport[f] = 2;
      hashedBy[f] = i;
    }
  }) / FRAMES;
console.log(`look at one word of a frame, write its columns: ${bound.toFixed(1)} ns (the bound)`);
for (const [name, frame] of Object.entries(kinds)) {
  const batch = batchOf(frame);
  const hasher = new FrameHasher();
  hasher.configure({ types: ALL, tunnels: name.includes('VXLAN') ? ALL : 0, key: KEY });
  const nanos =
    cost(() => {
      batch.hashedBy.fill(0);
      hasher.hash(batch, 0, FRAMES);
    }) / FRAMES;
  console.log(`hash of ${name}: ${nanos.toFixed(1)} ns`);
}

// ---- on the way to receive queues ----

type Steering = 'one queue' | 'RSS' | 'automatic';

interface Case {
  readonly steering: Steering;
  readonly report: boolean;
  readonly packed: boolean;
}

function guests({ steering, report, packed }: Case): { a: BenchGuest; b: BenchGuest } {
  const queues = steering === 'one queue' ? 1 : QUEUES;
  const header = (slot: number): Uint8Array => Uint8Array.from([...new Array(12).fill(0), ...(kinds['IPv4/TCP'] as (n: number) => number[])(slot)]);
  const a = new BenchGuest({ packed, size: 1024, frame: 64, buffer: 128, header });
  const b = new BenchGuest({
    packed,
    size: 1024 / queues,
    transmitSize: 1024,
    frame: 64,
    buffer: 128,
    receivers: queues,
    features: report ? [VIRTIO_NET_F_HASH_REPORT] : [],
  });
  b.policy.update((p) => {
    if (report) p.headerLength = 20;
    const rss = { types: ALL, key: KEY, table: Uint16Array.from({ length: 128 }, (_, i) => i % QUEUES), unclassified: 0, maxTxVq: 1 };
    if (steering === 'RSS' || report) p.rss.set(0, rss, steering === 'RSS' ? rss : undefined);
    p.activePairs = steering === 'automatic' ? QUEUES : 1;
  });
  for (const receiver of b.receivers) {
    receiver.loose = true;
    receiver.fill();
  }
  return { a, b };
}

function step({ a, b }: { a: BenchGuest; b: BenchGuest }): number {
  a.transmitter.send(BATCH);
  let frames = 0;
  for (const receiver of b.receivers) frames += receiver.receive();
  return frames;
}

/** Nanoseconds of processor time a frame, best of several rounds; the cases take turns, so that the machine's moods meet all of them. */
function inlineCosts(cases: readonly Case[]): number[] {
  const runs = cases.map((one) => {
    const pair = guests(one);
    const segment = new InlineSegment(new Segment(new DirectLink()));
    const [backendA, backendB] = [segment.port('a'), segment.port('b', QUEUES)];
    pair.a.attach(backendA);
    pair.b.attach(backendB);
    return pair;
  });
  const best = cases.map(() => Number.POSITIVE_INFINITY);
  for (let round = 0; round < 10; round++)
    runs.forEach((pair, i) => {
      const before = process.cpuUsage();
      let frames = 0;
      while (frames < 500_000) frames += step(pair);
      const { user, system } = process.cpuUsage(before);
      best[i] = Math.min(best[i] as number, ((user + system) * 1000) / frames);
    });
  return best;
}

/** Frames a second through a worker, the upper decile of short rounds that take turns. */
async function workerRates(cases: readonly Case[]): Promise<number[]> {
  const rates: number[][] = cases.map(() => []);
  for (let pass = 0; pass < 3; pass++)
    for (const [i, one] of cases.entries()) {
      const pool = new VhostPool();
      const segment = pool.worker().segment();
      const pair = guests(one);
      const [backendA, backendB] = [segment.port('a'), segment.port('b', QUEUES)];
      pair.a.attach(backendA);
      pair.b.attach(backendB);
      for (let round = 0; round < 24; round++) {
        const start = performance.now();
        let frames = 0;
        while (performance.now() - start < 40) for (let n = 0; n < 16; n++) frames += step(pair);
        if (round >= 8) (rates[i] as number[]).push((frames / (performance.now() - start)) * 1000);
      }
      await pool.close();
    }
  return rates.map((all) => all.sort((x, y) => x - y)[Math.floor(all.length * 0.9)] as number);
}

for (const packed of [false, true]) {
  const cases: Case[] = [];
  for (const report of [false, true]) for (const steering of ['one queue', 'RSS', 'automatic'] as const) cases.push({ steering, report, packed });
  const name = ({ steering, report }: Case): string =>
    `${packed ? 'packed' : 'split'}, ${steering === 'one queue' ? steering : `${QUEUES} queues, ${steering}`}${report ? ', hash reported' : ''}`;
  const costs = inlineCosts(cases);
  cases.forEach((one, i) => {
    const [cost, first] = [costs[i] as number, costs[0] as number];
    console.log(`64 B ${name(one)}, inline: ${cost.toFixed(1)} ns of processor time a frame, ${(cost - first).toFixed(1)} ns more than one queue`);
  });
  const rates = await workerRates(cases);
  cases.forEach((one, i) => {
    const [rate, first] = [rates[i] as number, rates[0] as number];
    console.log(`64 B ${name(one)}, worker: ${(rate / 1e6).toFixed(2)} Mpps, ${(rate / first).toFixed(2)} of one queue`);
  });
}
