// What hashing and steering cost: the hash of one frame by kind, beside a pass over the same frames that computes nothing; then frames of 64 bytes to sixteen receive queues, with and without
// the hash reported. Processor time on one thread, driver and device together, and the rate through a worker.
//
// Beside what? Sixteen queues cost something without being steered to: sixteen indices to read and to write where one would do, each a cache line that travels between two processors, for
// sixteen frames in place of 256; and the driver polls them. A guest that opens them for its processors pays that whoever fills them. So steering, which is to look into a frame and to choose
// its queue, stands beside the same frames sent to the same places in the same rings by somebody who knows where they go and looks into none (unsteered-worker.ts): the two differ in nothing
// else. What the queues cost is the other number: against one queue of as many buffers. Every frame is of another flow than the one before it.

import { InlineSegment } from '#backends/inline-backend';
import { VhostPool } from '#backends/vhost-pool';
import { viewsOf } from '#core/guest-memory';
import { DirectLink } from '#net/direct-link';
import { FrameHasher } from '#net/frame-hash';
import { FrameBatch } from '#net/port';
import { Segment } from '#net/segment';
import { VIRTIO_NET_F_HASH_REPORT } from '#virtio/net-features';
import { BenchGuest } from './ring-drivers.js';
import { KEY, TRANSMIT_SLOTS, UNSTEERED_TUNNELS } from './unsteered-worker.js';

const FRAMES = 256;
/** Receive buffers, all queues together: every case touches the same memory. */
const BUFFERS = 1024;
const BATCH = 256;
const ALL = 0x1ff;
const QUEUES = 16;

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

type Steering = 'one queue' | 'unsteered' | 'RSS' | 'automatic';

interface Case {
  readonly steering: Steering;
  readonly report: boolean;
  readonly packed: boolean;
}

function guests({ steering, report, packed }: Case): { a: BenchGuest; b: BenchGuest } {
  const queues = steering === 'one queue' ? 1 : QUEUES;
  const header = (slot: number): Uint8Array => Uint8Array.from([...new Array(12).fill(0), ...(kinds['IPv4/TCP'] as (n: number) => number[])(slot)]);
  const a = new BenchGuest({ packed, size: TRANSMIT_SLOTS, frame: 64, buffer: 128, header });
  const b = new BenchGuest({
    packed,
    size: BUFFERS / queues,
    frame: 64,
    buffer: 128,
    receivers: queues,
    features: report ? [VIRTIO_NET_F_HASH_REPORT] : [],
  });
  b.policy.update((p) => {
    if (report) p.headerLength = 20;
    if (steering === 'unsteered') p.rss.tunnels = UNSTEERED_TUNNELS;
    const rss = { types: ALL, key: KEY, table: Uint16Array.from({ length: 128 }, (_, i) => i % QUEUES), unclassified: 0, maxTxVq: 1 };
    const spread = steering === 'RSS' || steering === 'unsteered';
    if (spread || report) p.rss.set(0, rss, spread ? rss : undefined);
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

/** Nanoseconds of processor time a frame, by case and round: the cases take turns, so that the machine's moods meet all of them. */
function inlineCosts(cases: readonly Case[]): number[][] {
  const runs = cases.map((one) => {
    const pair = guests(one);
    const segment = new InlineSegment(new Segment(new DirectLink()));
    const [backendA, backendB] = [segment.port('a'), segment.port('b', QUEUES)];
    pair.a.attach(backendA);
    pair.b.attach(backendB);
    return pair;
  });
  const costs: number[][] = cases.map(() => []);
  for (let round = 0; round < 48; round++)
    runs.forEach((pair, i) => {
      const before = process.cpuUsage();
      let frames = 0;
      while (frames < 100_000) frames += step(pair);
      const { user, system } = process.cpuUsage(before);
      if (round >= 8) (costs[i] as number[]).push(((user + system) * 1000) / frames);
    });
  return costs;
}

/** Frames a second through a worker each, by case and round, turn about. A worker whose turn it is not sleeps. */
async function workerRates(cases: readonly Case[]): Promise<number[][]> {
  const runs = cases.map((one) => {
    const pool = one.steering === 'unsteered' ? new VhostPool({ entry: new URL('./unsteered-worker.js', import.meta.url) }) : new VhostPool();
    const segment = pool.worker().segment();
    const pair = guests(one);
    const [backendA, backendB] = [segment.port('a'), segment.port('b', QUEUES)];
    pair.a.attach(backendA);
    pair.b.attach(backendB);
    return { pool, pair };
  });
  const rates: number[][] = cases.map(() => []);
  for (let round = 0; round < 48; round++)
    runs.forEach(({ pair }, i) => {
      const start = performance.now();
      let frames = 0;
      while (performance.now() - start < 30) for (let n = 0; n < 16; n++) frames += step(pair);
      if (round >= 8) (rates[i] as number[]).push((frames / (performance.now() - start)) * 1000);
    });
  for (const { pool } of runs) await pool.close();
  return rates;
}

const median = (all: readonly number[]): number => all.toSorted((x, y) => x - y)[all.length >> 1] as number;
/** Median of what rounds that followed one another say. */
const ratio = (all: readonly number[], peer: readonly number[]): number => median(all.map((value, round) => value / (peer[round] as number)));
const difference = (all: readonly number[], peer: readonly number[]): number => median(all.map((value, round) => value - (peer[round] as number)));

for (const packed of [false, true]) {
  const cases: Case[] = (['one queue', 'unsteered', 'RSS', 'automatic'] as const).map((steering) => ({ steering, report: false, packed }));
  for (const steering of ['one queue', 'RSS', 'automatic'] as const) cases.push({ steering, report: true, packed });
  const name = ({ steering, report }: Case): string =>
    `64 B ${packed ? 'packed' : 'split'}, ${steering === 'one queue' ? steering : `${QUEUES} queues, ${steering}`}${report ? ', hash reported' : ''}`;
  const costs = inlineCosts(cases);
  const [oneCost, unsteeredCost] = costs as [number[], number[]];
  cases.forEach((one, i) => {
    const cost = costs[i] as number[];
    const [more, than] = [difference(cost, oneCost), difference(cost, unsteeredCost)].map((nanos) => nanos.toFixed(1));
    console.log(`${name(one)}, inline: ${median(cost).toFixed(1)} ns of processor time a frame, ${than} more than unsteered, ${more} more than one queue`);
  });
  const rates = await workerRates(cases);
  const [oneRate, unsteeredRate] = rates as [number[], number[]];
  cases.forEach((one, i) => {
    const rate = rates[i] as number[];
    const [of, ofOne] = [ratio(rate, unsteeredRate), ratio(rate, oneRate)].map((part) => part.toFixed(2));
    console.log(`${name(one)}, worker: ${(median(rate) / 1e6).toFixed(2)} Mpps, ${of} of unsteered, ${ofOne} of one queue`);
  });
}
