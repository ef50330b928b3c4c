// virtio-net to virtio-net through one vhost-net worker: a driver thread (this one) transmits on A and receives on B, the worker moves the frames. Each rate stands
// beside a bound measured in the same run: the same hand-off and copy through a raw shared-memory ring, with no descriptors and no checks.

import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { InlineSegment } from '#backends/inline-backend';
import { VhostPool } from '#backends/vhost-pool';
import { DirectLink } from '#net/direct-link';
import { ACCEPTS_CSUM, ACCEPTS_TSO4, FRAME_NEEDS_CSUM, GSO_TCPV4 } from '#net/port';
import { Segment } from '#net/segment';
import { VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_MRG_RXBUF } from '#virtio/net-features';
import { CONSUMED, DELIVERED, PRODUCED, type RawJob, STOP, TAKEN } from './raw-ring-worker.js';
import { BenchGuest, type BenchGuestOptions } from './ring-drivers.js';

const WARM = 1500;
const ROUNDS = 40;
const ROUND = 50;
const BATCH = 64;

/**
 * Frames a second: the upper decile of short rounds after a warm-up, so that rounds in which the machine did something else (two threads on two shared processors)
 * do not count; the same for the bounds. `step` returns frames received.
 */
function measure(step: () => number, warm = WARM): number {
  const run = (milliseconds: number): number => {
    let frames = 0;
    const start = performance.now();
    let now = start;
    let last = start;
    while (now - start < milliseconds) {
      let here = 0;
      for (let i = 0; i < 64; i++) here += step();
      now = performance.now();
      if (here > 0) last = now;
      else if (now - last > 5000) throw new Error('no frame for five seconds');
      frames += here;
    }
    return (frames / (now - start)) * 1000;
  };
  run(warm);
  const rates = Array.from({ length: ROUNDS }, () => run(ROUND)).sort((a, b) => a - b);
  return rates[Math.floor(ROUNDS * 0.9)] as number;
}

async function rawRing(bytes: number, slots: number, stride: number): Promise<number> {
  const job: RawJob = {
    control: new SharedArrayBuffer(1024),
    from: new SharedArrayBuffer(slots * stride),
    to: new SharedArrayBuffer(slots * stride),
    slots,
    stride,
    bytes,
  };
  const worker = new Worker(new URL('./raw-ring-worker.js', import.meta.url), { workerData: job });
  await once(worker, 'online');
  const words = new Int32Array(job.control);
  const from = new Int32Array(job.from);
  const to = new Int32Array(job.to);
  const mask = slots - 1;
  let produced = 0;
  let consumed = 0;
  const rate = measure(() => {
    const room = (Atomics.load(words, TAKEN) + slots - produced) | 0;
    const n = Math.min(room, BATCH);
    for (let i = 0; i < n; i++) from[(((produced + i) & mask) * stride + 16) >>> 2] = (produced + i) | 0;
    if (n > 0) {
      produced = (produced + n) | 0;
      Atomics.store(words, PRODUCED, produced);
    }
    const there = (Atomics.load(words, DELIVERED) - consumed) | 0;
    for (let i = 0; i < there; i++) if (to[(((consumed + i) & mask) * stride + 16) >>> 2] !== ((consumed + i) | 0)) throw new Error('raw ring: wrong slot');
    if (there > 0) {
      consumed = (consumed + there) | 0;
      Atomics.store(words, CONSUMED, consumed);
    }
    return there;
  });
  Atomics.store(words, STOP, 1);
  await worker.terminate();
  return rate;
}

async function throughWorker(options: BenchGuestOptions, loose = false): Promise<{ rate: number; bytes: number; detail: string }> {
  const pool = new VhostPool();
  const worker = pool.worker();
  const segment = worker.segment();
  const a = new BenchGuest(options);
  const b = new BenchGuest(options);
  const backendA = segment.port('a');
  const backendB = segment.port('b');
  a.attach(backendA);
  b.attach(backendB);
  b.receiver.loose = loose;
  b.receiver.fill();
  const before = worker.statistics;
  let buffers = 0;
  const rate = measure(() => {
    a.transmitter.send(BATCH);
    const frames = b.receiver.frames;
    buffers += b.receiver.receive();
    return b.receiver.frames - frames;
  });
  const after = worker.statistics;
  const counted = backendA.counters.snapshot();
  const turns = after.turns - before.turns;
  const detail = `${(counted.transmitFrames / Math.max(1, turns - (after.emptyTurns - before.emptyTurns))).toFixed(0)} frames a turn, ${after.sleeps} sleeps, ${(buffers / Math.max(1, b.receiver.frames)).toFixed(1)} buffers a frame`;
  await pool.close();
  return { rate, bytes: b.receiver.bytes, detail };
}

function inline(options: BenchGuestOptions): number {
  const segment = new InlineSegment(new Segment(new DirectLink()));
  const a = new BenchGuest(options);
  const b = new BenchGuest(options);
  const [backendA, backendB] = [segment.port('a'), segment.port('b')];
  a.attach(backendA);
  b.attach(backendB);
  b.receiver.fill();
  return measure(() => {
    a.transmitter.send(BATCH);
    return b.receiver.receive();
  });
}

async function roundTrip(packed: boolean): Promise<string> {
  const pool = new VhostPool();
  const segment = pool.worker().segment();
  const options = { packed, size: 256, frame: 64, buffer: 2048 };
  const a = new BenchGuest(options);
  const b = new BenchGuest(options);
  const [backendA, backendB] = [segment.port('a'), segment.port('b')];
  a.attach(backendA);
  b.attach(backendB);
  a.receiver.fill();
  b.receiver.fill();
  const wait = (guest: BenchGuest): void => {
    const deadline = performance.now() + 5000;
    for (let i = 0; guest.receiver.receive() === 0; i++) if ((i & 0xffff) === 0 && performance.now() > deadline) throw new Error('no answer for five seconds');
  };
  const trips = 20_000;
  const times = new Float64Array(trips);
  for (let warm = 0; warm < 3; warm++)
    for (let i = 0; i < trips; i++) {
      const start = performance.now();
      a.transmitter.send(1);
      wait(b);
      b.transmitter.send(1);
      wait(a);
      times[i] = (performance.now() - start) * 1000;
    }
  times.sort();
  const at = (share: number): string => (times[Math.floor(share * (trips - 1))] as number).toFixed(2);
  await pool.close();
  return `p50 ${at(0.5)} us, p99 ${at(0.99)} us, p99.9 ${at(0.999)} us`;
}

const mpps = (rate: number): string => `${(rate / 1e6).toFixed(2)} Mpps`;
const only = process.argv[2];
const wanted = (name: string): boolean => only === undefined || name.includes(only);

const SIZE = 1024;
/** Ethernet, IPv4, TCP: a 64 KiB TSO frame as a stack would send it. */
function tsoHeader(): Uint8Array {
  const header = new Uint8Array(HEADER_LENGTH);
  const view = new DataView(header.buffer);
  header[0] = FRAME_NEEDS_CSUM;
  header[1] = GSO_TCPV4;
  view.setUint16(2, 54, true);
  view.setUint16(4, 1460, true);
  view.setUint16(6, 34, true);
  view.setUint16(8, 16, true);
  header.set([0x52, 0x54, 0, 0, 0, 2, 0x52, 0x54, 0, 0, 0, 1, 0x08, 0x00], 12);
  header.set([0x45, 0, 0xff, 0xb2, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2], 26);
  header.set([0x10, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10], 46);
  return header;
}
const HEADER_LENGTH = 12 + 54;
const TSO_FRAME = 14 + 0xffb2;

for (const [bytes, buffer] of [
  [64, 128],
  [1500, 2048],
] as const) {
  if (!wanted(`${bytes}`)) continue;
  const stride = buffer;
  const bound = await rawRing(bytes, SIZE, stride);
  console.log(`${bytes} B raw ring with copy, two threads: ${mpps(bound)}${bytes > 64 ? `, ${((bound * bytes) / 1e9).toFixed(1)} GB/s` : ''} (the bound)`);
  for (const packed of [false, true]) {
    const format = packed ? 'packed' : 'split';
    const options = { packed, size: SIZE, frame: bytes, buffer };
    const { rate, detail } = await throughWorker(options);
    console.log(`${bytes} B ${format}, worker: ${mpps(rate)}, ${(rate / bound).toFixed(2)} of the bound (${detail})`);
    console.log(`${bytes} B ${format}, inline, one thread: ${mpps(inline(options))}`);
  }
}
if (wanted('tso')) {
  const features = [VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_MRG_RXBUF];
  const bound = await rawRing(65536, 64, 65536);
  console.log(`64 KiB raw ring with copy: ${((bound * 65536) / 1e9).toFixed(2)} GB/s (the bound)`);
  for (const packed of [false, true]) {
    for (const buffer of [2048, 65664]) {
      const options = {
        packed,
        size: buffer === 2048 ? 1024 : 64,
        frame: TSO_FRAME,
        buffer,
        features,
        header: tsoHeader(),
        accepts: ACCEPTS_CSUM | ACCEPTS_TSO4,
      };
      const { rate, detail } = await throughWorker(options, true);
      const gigabytes = (rate * TSO_FRAME) / 1e9;
      console.log(
        `64 KiB TSO ${packed ? 'packed' : 'split'}, ${buffer} B buffers: ${gigabytes.toFixed(2)} GB/s, ${((rate * TSO_FRAME) / (bound * 65536)).toFixed(2)} of the bound (${detail})`,
      );
    }
  }
}
if (only === 'inline')
  for (const packed of [false, true])
    console.log(`64 B ${packed ? 'packed' : 'split'}, inline, one thread: ${mpps(inline({ packed, size: SIZE, frame: 64, buffer: 128 }))}`);
if (wanted('trip')) for (const packed of [false, true]) console.log(`round trip ${packed ? 'packed' : 'split'}, 64 B, polling: ${await roundTrip(packed)}`);
