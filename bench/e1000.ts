// The e1000 on one thread, beside virtio-net (split rings) on the same thread, segment and run: processor time for a frame from ring to ring, drivers that write descriptors and tails in batches of 64; what is allocated
// for a frame; and what is done to a frame that is not plain. Then the same two devices served by a worker, the e1000 through its shared block: frames a second, guest to guest, on two threads.

import { setImmediate as nextTurn } from 'node:timers/promises';
import { InlineSegment } from '#backends/inline-backend';
import { VhostPool } from '#backends/vhost-pool';
import type { VhostSegment } from '#backends/vhost-worker';
import { SimClock } from '#core/clock';
import type { E1000 } from '#devices/e1000/device';
import { DirectLink } from '#net/direct-link';
import { Segment } from '#net/segment';
import { Machine } from '#nicbox/machine';
import { printTable } from './measure.js';
import { BenchGuest } from './ring-drivers.js';

const BATCH = 64;
const RING = 1024;
const BDF = 0x0008;
const TX_RING = 0x1_0000;
const RX_RING = 0x2_0000;
const TX_DATA = 0x10_0000;
const RX_DATA = 0x40_0000;
const BLOCK = 0x8_0000;
const BUFFER = 2048;
const [TDT, RDT, CTRL, STATUS, TCTL, RCTL] = [0x3818, 0x2818, 0, 8, 0x400, 0x100] as const;
const LINK_UP = 2;

interface Options {
  readonly frame: number;
  /** Each of a batch's descriptors is told of by itself. */
  readonly single?: boolean;
  /** Through the shared communication block. */
  readonly block?: boolean;
  /** RXCSUM on. */
  readonly checksums?: boolean;
}

/** Rings driven as a lean driver would. */
class Guest {
  readonly machine: Machine;
  readonly nic: E1000;
  readonly #words: Uint32Array;
  readonly #options: Options;
  readonly #clock = new SimClock();
  #transmitted = 0;
  #received = 0;
  accesses = 0;

  constructor(segment: InlineSegment | VhostSegment, mac: string, options: Options) {
    this.#options = options;
    this.machine = new Machine({ memory: 16 * 2 ** 20, clock: this.#clock, interrupts: { message: () => {}, setIntx: () => {} } });
    this.nic = this.machine.addE1000({ mac, segment, sharedBlock: options.block ?? false });
    this.machine.configWrite(BDF, 0x10, 4, 0xc000_0000);
    this.machine.configWrite(BDF, 4, 2, 7);
    this.#words = this.machine.memory.slabs[0]?.views.u32 as Uint32Array;
    this.#write(CTRL, 0x40);
    this.#clock.advance(1e9);
    for (const [register, value] of [
      [0x3800, TX_RING],
      [0x3808, RING * 16],
      [0x2800, RX_RING],
      [0x2808, RING * 16],
      [0x5000, options.checksums ? 0x300 : 0],
    ] as const)
      this.#write(register, value);
    for (let i = 0; i < RING; i++) {
      this.#words.set([TX_DATA + i * BUFFER, 0, options.frame | 0x0300_0000, 0], TX_RING / 4 + 4 * i);
      this.#words.set([RX_DATA + i * BUFFER, 0, 0, 0], RX_RING / 4 + 4 * i);
      this.machine.memory.slabs[0]?.views.u8.set([0x52, 0x54, 0, 0, 0, mac.endsWith('1') ? 2 : 1, 2, 0, 0, 0, 0, 1, 0x88, 0xb5], TX_DATA + i * BUFFER);
    }
    this.#write(TCTL, 0x4_01fa & ~0xf0);
    this.#write(RCTL, 0x0400_8002);
    if (options.block) {
      this.#write(0x2830, BLOCK);
      this.#words[BLOCK / 4 + 4] = RING - 1;
      this.#words[BLOCK / 4 + 3] = 1;
    }
    this.#write(RDT, RING - 1);
    this.accesses = 0;
  }

  #write(register: number, value: number): void {
    this.accesses++;
    this.machine.barWrite(BDF, 0, register, 4, value);
  }

  /** Time passes until there is a link, which waits for a worker to have opened the port. @throws Error when that takes 5 s */
  async linked(): Promise<void> {
    for (const start = performance.now(); (this.machine.barRead(BDF, 0, STATUS, 4) & LINK_UP) === 0; ) {
      if (performance.now() - start > 5000) throw new Error('no link');
      this.#clock.advance(1e9);
      await nextTurn();
    }
    this.accesses = 0;
  }

  send(count: number): void {
    const { single } = this.#options;
    for (let i = 0; i < count; i++) {
      this.#transmitted = (this.#transmitted + 1) & (RING - 1);
      if (single) this.#tail();
    }
    if (!single) this.#tail();
  }

  /** As many of a batch as there is room for, through the shared block. */
  fill(): void {
    const room = (Atomics.load(this.#words, BLOCK / 4 + 16) - this.#transmitted - 1) & (RING - 1);
    const count = Math.min(room, BATCH);
    if (count === 0) return;
    this.#transmitted = (this.#transmitted + count) & (RING - 1);
    this.#tail();
  }

  #tail(): void {
    if (this.#options.block) {
      Atomics.store(this.#words, BLOCK / 4, this.#transmitted);
      if (Atomics.load(this.#words, BLOCK / 4 + 17) === 0) return;
    }
    this.#write(TDT, this.#transmitted);
  }

  /** Takes what has DD, gives the buffers back at once. */
  receive(): number {
    const words = this.#words;
    let count = 0;
    for (;;) {
      const at = RX_RING / 4 + 4 * this.#received + 3;
      if ((Atomics.load(words, at) & 1) === 0) break;
      words[at] = 0;
      this.#received = (this.#received + 1) & (RING - 1);
      count++;
    }
    if (count === 0) return 0;
    const tail = (this.#received + RING - 1) & (RING - 1);
    if (this.#options.block) {
      Atomics.store(words, BLOCK / 4 + 4, tail);
      if (Atomics.load(words, BLOCK / 4 + 21) === 0) return count;
    }
    this.#write(RDT, tail);
    return count;
  }
}

interface Measured {
  readonly nanos: number;
  readonly heap: number;
  readonly accesses: number;
}

const FRAMES = 300_000;
const ROUNDS = 7;

/** Best of some rounds: processor time a frame, and heap growth a frame over all of them. */
function measure(step: () => number, accesses: () => number): Measured {
  let nanos = Number.POSITIVE_INFINITY;
  let heap = 0;
  let total = 0;
  for (let round = 0; round < ROUNDS; round++) {
    if (round === 2) {
      heap = process.memoryUsage().heapUsed;
      total = 0;
    }
    const before = process.cpuUsage();
    let frames = 0;
    while (frames < FRAMES) frames += step();
    const { user, system } = process.cpuUsage(before);
    nanos = Math.min(nanos, ((user + system) * 1000) / frames);
    total += frames;
  }
  return { nanos, heap: Math.max(0, process.memoryUsage().heapUsed - heap) / total, accesses: accesses() / (FRAMES * ROUNDS) };
}

function e1000(options: Options): Measured {
  const segment = new InlineSegment(new Segment(new DirectLink()));
  const a = new Guest(segment, '52:54:00:00:00:01', options);
  const b = new Guest(segment, '52:54:00:00:00:02', options);
  return measure(
    () => {
      a.send(BATCH);
      return b.receive();
    },
    () => a.accesses + b.accesses,
  );
}

function virtio(frame: number): Measured {
  const options = { packed: false, size: RING, frame, buffer: frame <= 64 ? 128 : BUFFER };
  const segment = new InlineSegment(new Segment(new DirectLink()));
  const a = new BenchGuest(options);
  const b = new BenchGuest(options);
  a.attach(segment.port('a'));
  b.attach(segment.port('b'));
  b.receiver.fill();
  return measure(
    () => {
      a.transmitter.send(BATCH);
      return b.receiver.receive();
    },
    () => 0,
  );
}

/** Frames a second: the upper decile of short rounds after a warm-up, as in data-plane.ts. @throws Error when nothing arrives */
function rate(step: () => number): number {
  const run = (milliseconds: number): number => {
    const start = performance.now();
    let frames = 0;
    let now = start;
    while (now - start < milliseconds) {
      for (let i = 0; i < 64; i++) frames += step();
      now = performance.now();
    }
    return (frames / (now - start)) * 1000;
  };
  if (run(1000) === 0) throw new Error('nothing arrives');
  const rates = Array.from({ length: 40 }, () => run(50)).sort((a, b) => a - b);
  return rates[36] as number;
}

async function workerE1000(frame: number): Promise<{ readonly rate: number; readonly detail: string }> {
  const pool = new VhostPool();
  const worker = pool.worker();
  const segment = worker.segment();
  const a = new Guest(segment, '52:54:00:00:00:01', { frame, block: true });
  const b = new Guest(segment, '52:54:00:00:00:02', { frame, block: true });
  await Promise.all([a.linked(), b.linked()]);
  const found = rate(() => {
    a.fill();
    return b.receive();
  });
  const { turns, emptyTurns, sleeps } = worker.statistics;
  const frames = a.nic.counters.snapshot().transmitFrames;
  const detail = `${(frames / Math.max(1, turns - emptyTurns)).toFixed(0)} frames a turn, ${sleeps} sleeps, ${((a.accesses + b.accesses) / frames).toFixed(4)} register accesses a frame`;
  await Promise.all([a.machine.close(), b.machine.close()]);
  await pool.close();
  return { rate: found, detail };
}

async function workerVirtio(frame: number): Promise<{ readonly rate: number; readonly detail: string }> {
  const options = { packed: false, size: RING, frame, buffer: frame <= 64 ? 128 : BUFFER };
  const pool = new VhostPool();
  const segment = pool.worker().segment();
  const a = new BenchGuest(options);
  const b = new BenchGuest(options);
  a.attach(segment.port('a'));
  b.attach(segment.port('b'));
  b.receiver.fill();
  const found = rate(() => {
    a.transmitter.send(BATCH);
    return b.receiver.receive();
  });
  await pool.close();
  return { rate: found, detail: '' };
}

const inline = process.argv[2] !== 'worker';
for (const frame of inline ? [64, 1500] : []) {
  const bound = virtio(frame);
  const rows: [string, Measured][] = [
    ['virtio-net, split', bound],
    ['e1000', e1000({ frame })],
    ['e1000, receive checksums on', e1000({ frame, checksums: true })],
    ['e1000, a tail write each frame', e1000({ frame, single: true })],
    ['e1000, shared block', e1000({ frame, block: true })],
  ];
  console.log(`${frame} bytes, ring to ring on one thread`);
  printTable(
    ['device', 'ns a frame', 'of virtio-net’s rate', 'register accesses a frame', 'heap bytes a frame'],
    rows.map(([name, m]) => [name, m.nanos.toFixed(0), (bound.nanos / m.nanos).toFixed(2), m.accesses.toFixed(3), m.heap.toFixed(2)]),
  );
}

for (const frame of [64, 1500]) {
  const bound = await workerVirtio(frame);
  const found = await workerE1000(frame);
  console.log(`${frame} bytes, guest to guest through a worker, one driver thread`);
  printTable(
    ['device', 'million frames a second', 'of virtio-net’s', ''],
    [
      ['virtio-net, split', (bound.rate / 1e6).toFixed(2), '1.00', bound.detail],
      ['e1000, shared block', (found.rate / 1e6).toFixed(2), (found.rate / bound.rate).toFixed(2), found.detail],
    ],
  );
}
