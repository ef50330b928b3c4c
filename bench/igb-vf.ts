// The 82576's virtual functions on one thread, 64 byte frames: processor time for a frame from one VF's ring to another's through the embedded switch, and from the physical function's; beside it what a broadcast costs a copy, and
// what neighbours notice of a VF that does its worst between their batches. Then what one access of such a VF costs whoever shares its thread, beside one by which an honest VF sends a batch: at the same pace a VF whose accesses
// cost no more takes no more from its neighbours. Other devices and fewer VFs: igb.ts.

import { InlineSegment } from '#backends/inline-backend';
import { SimClock } from '#core/clock';
import { DirectLink } from '#net/direct-link';
import { Segment } from '#net/segment';
import { Machine } from '#nicbox/machine';
import { printTable } from './measure.js';

const BATCH = 64;
const RING = 1024;
const PF = 0x0008;
const SRIOV = 0x160;
const FRAME = 64;
const GUEST = 0x40_0000;
const TX_RING = 0x1_0000;
const RX_RING = 0x2_0000;
const TX_DATA = 0x10_0000;
const RX_DATA = 0x20_0000;
const SLOT = 2048;
const ENABLE = 1 << 25;

const macOf = (pool: number): number[] => [2, 0, 0, 0, 1, pool];

/** A part with `vfs` VFs enabled, the physical function's own pool after them. */
class Part {
  readonly machine: Machine;
  readonly clock = new SimClock();
  readonly words: Uint32Array;
  readonly bytes: Uint8Array;

  constructor(vfs: number, segment = new InlineSegment(new Segment(new DirectLink()))) {
    this.machine = new Machine({ memory: 40 * 2 ** 20, clock: this.clock, interrupts: { message: () => {}, setIntx: () => {} } });
    this.machine.addIgb({ mac: '02:00:00:00:01:07', segment });
    const { machine } = this;
    const slab = machine.memory.slabs[0] as { views: { u8: Uint8Array; u32: Uint32Array } };
    this.words = slab.views.u32;
    this.bytes = slab.views.u8;
    machine.configWrite(PF, 0x10, 4, 0xc000_0000);
    machine.configWrite(PF, 4, 2, 6);
    machine.configWrite(PF, SRIOV + 0x24, 4, 0xd000_0000);
    this.write(0, 0x40);
    this.clock.advance(1e9);
    if (vfs > 0) this.#virtualize(vfs);
    // RXCSUM.PCSD, as drivers of several queues have it.
    this.write(0x5000, 0x2300);
    this.write(0x400, 0xfa);
    this.write(0x100, 0x0400_8002);
  }

  #virtualize(vfs: number): void {
    this.machine.configWrite(PF, SRIOV + 16, 2, vfs);
    this.machine.configWrite(PF, SRIOV + 8, 2, 9);
    this.write(0x5818, 3);
    this.write(0x581c, (1 << 30) | (7 << 7));
    this.write(0x3500, 0x8000_00ff);
    this.write(0x2408, 0xffff);
    for (let pool = 0; pool < 8; pool++) {
      const [a, b, c, d, e, f] = macOf(pool) as [number, number, number, number, number, number];
      this.write(0x5400 + 8 * pool, a | (b << 8) | (c << 16) | (d << 24));
      // Only those there are.
      this.write(0x5404 + 8 * pool, pool < vfs || pool === 7 ? e | (f << 8) | (1 << (18 + pool)) | 0x8000_0000 : 0);
      this.write(0x5ad0 + 4 * pool, pool < vfs ? (1 << 27) | (1 << 24) : 0);
    }
    this.write(0xc8c, 0xff);
    this.write(0xc90, 0xff);
    for (let n = 0; n < vfs; n++) this.machine.configWrite(PF + 0x80 + 2 * n, 4, 2, 4);
  }

  write(register: number, value: number): void {
    this.machine.barWrite(PF, 0, register, 4, value >>> 0);
  }
}

/** One queue's rings, driven as a lean driver would, by a VF's window or the physical function's registers. */
class Rings {
  readonly #part: Part;
  readonly #bdf: number;
  readonly #tx: number;
  readonly #rx: number;
  readonly #base: number;
  #sent = 0;
  #taken = 0;

  constructor(part: Part, pool: number, virtual: boolean, to: readonly number[]) {
    this.#part = part;
    this.#bdf = virtual ? PF + 0x80 + 2 * pool : PF;
    this.#tx = virtual ? 0x3800 : 0xe000 + 0x40 * pool;
    this.#rx = virtual ? 0x2800 : 0xc000 + 0x40 * pool;
    this.#base = GUEST * (pool + 1);
    const base = this.#base;
    for (let i = 0; i < RING; i++) {
      this.#describe(i, base + RX_DATA + i * SLOT);
      part.words.set([base + TX_DATA + i * SLOT, 0, FRAME | (3 << 20) | (0x23 << 24), FRAME << 14], (base + TX_RING) / 4 + 4 * i);
      part.bytes.set([...to, ...macOf(pool), 0x88, 0xb5], base + TX_DATA + i * SLOT);
    }
    this.#write(this.#tx, base + TX_RING);
    this.#write(this.#tx + 8, RING * 16);
    this.#write(this.#tx + 0x28, ENABLE);
    this.#write(this.#rx, base + RX_RING);
    this.#write(this.#rx + 8, RING * 16);
    this.#write(this.#rx + 0xc, 2 | (1 << 25));
    this.#write(this.#rx + 0x28, ENABLE);
    this.#write(this.#rx + 0x18, RING - 1);
  }

  #write(register: number, value: number): void {
    this.#part.machine.barWrite(this.#bdf, 0, register, 4, value >>> 0);
  }

  #describe(index: number, address: number): void {
    const { words } = this.#part;
    const at = (this.#base + RX_RING) / 4 + 4 * index;
    words[at] = address;
    words[at + 1] = 0;
    words[at + 2] = 0;
    words[at + 3] = 0;
  }

  send(count: number): void {
    this.#sent = (this.#sent + count) & (RING - 1);
    this.#write(this.#tx + 0x18, this.#sent);
  }

  receive(): number {
    const { words } = this.#part;
    let count = 0;
    for (;;) {
      const at = (this.#base + RX_RING) / 4 + 4 * this.#taken;
      if ((Atomics.load(words, at + 2) & 1) === 0) break;
      this.#describe(this.#taken, this.#base + RX_DATA + this.#taken * SLOT);
      this.#taken = (this.#taken + 1) & (RING - 1);
      count++;
    }
    if (count > 0) this.#write(this.#rx + 0x18, (this.#taken + RING - 1) & (RING - 1));
    return count;
  }
}

interface Measured {
  readonly nanos: number;
  readonly heap: number;
}

const FRAMES = 100_000;
const ROUNDS = 8;
/** Batches between what a hostile VF does. */
const STEPS = 16;

interface Row {
  readonly name: string;
  readonly step: () => number;
  /** Before each step, and not counted. */
  readonly between?: () => void;
}

/** Processor time of a row's steps a frame, the best of some rounds, and heap growth a frame. Rows take turns, so that what else the machine does meets all of them. */
function measure(rows: readonly Row[]): Measured[] {
  const nanos = rows.map(() => Number.POSITIVE_INFINITY);
  const heap = rows.map(() => 0);
  for (let round = 0; round < ROUNDS; round++)
    for (const [i, row] of rows.entries()) {
      const before = process.memoryUsage().heapUsed;
      let frames = 0;
      let time = 0;
      while (frames < FRAMES) {
        row.between?.();
        const { user, system } = process.cpuUsage();
        for (let n = 0; n < STEPS; n++) frames += row.step();
        const after = process.cpuUsage();
        time += after.user + after.system - user - system;
      }
      nanos[i] = Math.min(nanos[i] as number, (time * 1000) / frames);
      if (round > 1) heap[i] = (heap[i] as number) + (process.memoryUsage().heapUsed - before) / frames;
    }
  return rows.map((_, i) => ({ nanos: nanos[i] as number, heap: Math.max(0, (heap[i] as number) / (ROUNDS - 2)) }));
}

/** The physical function's pool, where seven VFs leave it one. */
const OWN = 7;

/** Of the pool `from` to VF 1. */
function toVf(name: string, from: number, vfs: number, between?: (part: Part) => void): Row {
  const part = new Part(vfs);
  const a = new Rings(part, from, from < vfs, macOf(1));
  const b = new Rings(part, 1, true, macOf(0));
  for (let n = 2; n < vfs; n++) new Rings(part, n, true, macOf(0));
  return {
    name,
    step: () => {
      a.send(BATCH);
      return b.receive();
    },
    ...(between !== undefined && { between: () => between(part) }),
  };
}

/** Time for each of the seven copies. */
function broadcast(): Row {
  const part = new Part(8);
  const a = new Rings(part, 0, true, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
  const others = Array.from({ length: 7 }, (_, n) => new Rings(part, n + 1, true, macOf(0)));
  return {
    name: 'broadcast to 7 VFs, a copy',
    step: () => {
      a.send(BATCH);
      return others.reduce((sum, rings) => sum + rings.receive(), 0);
    },
  };
}

/** VF 5 lies about who it is, points everywhere, resets itself and writes all over its window. */
function worst(part: Part): void {
  const bdf = PF + 0x80 + 10;
  const { machine } = part;
  for (let offset = 0; offset < 0x4000; offset += 4) machine.barWrite(bdf, 0, offset, 4, (offset * 0x9e37_79b9) >>> 0);
  const base = GUEST * 6;
  for (let i = 0; i < RING; i++) part.words.set([0xffff_f000, 0xffff_ffff, 0xffff_ffff, 0xffff_ffff], (base + TX_RING) / 4 + 4 * i);
  machine.barWrite(bdf, 0, 0x3808, 4, RING * 16);
  machine.barWrite(bdf, 0, 0x3800, 4, base + TX_RING);
  machine.barWrite(bdf, 0, 0x3828, 4, ENABLE);
  part.write(0xc90, 0xff);
  machine.barWrite(bdf, 0, 0x3818, 4, RING - 1);
  machine.barWrite(bdf, 0, 0x0c40, 4, 7);
  part.write(0xc8c, 0xff);
  part.write(0xc90, 0xff);
}

/** VF 5 is busy with itself: as many accesses as a hostile one makes, none of which means anything. What it takes of caches it takes, too. */
function busy(part: Part): void {
  const bdf = PF + 0x80 + 10;
  for (let i = 0; i < 4096; i++) part.machine.barWrite(bdf, 0, 0x3ffc, 4, i);
  const base = GUEST * 6;
  for (let i = 0; i < RING; i++) part.words.set([0xffff_f000, 0xffff_ffff, 0xffff_ffff, 0xffff_ffff], (base + TX_RING) / 4 + 4 * i);
}

/** The same VF writes its queues' registers and resets itself, over and over: what of it is everyone's to pay for? */
function rewrites(part: Part): void {
  const bdf = PF + 0x80 + 10;
  for (let i = 0; i < 16; i++)
    for (const [offset, value] of [
      [0x2800, GUEST * 6 + RX_RING],
      [0x2808, RING * 16],
      [0x280c, 2 | (1 << 25)],
      [0x3800, GUEST * 6 + TX_RING],
      [0x3808, RING * 16],
      [0x1700, 0x80],
      [0x0000, 1 << 26],
    ] as const)
      part.machine.barWrite(bdf, 0, offset, 4, value);
}

/** It adds to a packet without an end, a descriptor at a time. */
function endless(part: Part): void {
  const bdf = PF + 0x80 + 10;
  const base = GUEST * 6;
  for (let i = 0; i < RING; i++) part.words.set([base + TX_DATA, 0, 64 | (3 << 20) | (0x22 << 24), 0], (base + TX_RING) / 4 + 4 * i);
  part.machine.barWrite(bdf, 0, 0x3828, 4, 0);
  part.machine.barWrite(bdf, 0, 0x3808, 4, RING * 16);
  part.machine.barWrite(bdf, 0, 0x3800, 4, base + TX_RING);
  part.machine.barWrite(bdf, 0, 0x3828, 4, ENABLE);
  part.write(0xc90, 0xff);
  for (let tail = 1; tail < RING - 1; tail++) part.machine.barWrite(bdf, 0, 0x3818, 4, tail);
}

const rows = [
  toVf('VF to VF, 8 VFs enabled', 0, 8),
  broadcast(),
  toVf('VF to VF beside a busy VF', 0, 8, busy),
  toVf('beside one that does its worst', 0, 8, worst),
  toVf('beside one that rewrites its registers', 0, 8, rewrites),
  toVf('beside one whose packet has no end', 0, 8, endless),
  toVf('physical function to VF beside a busy VF', OWN, 7, busy),
  toVf('beside one that does its worst', OWN, 7, worst),
];
/** The row that each is compared with. */
const besides = [2, 2, 2, 2, 2, 2, 6, 6];
const measured = measure(rows);
printTable(
  ['64 byte frames', 'ns of processor a frame', 'rate to that beside a busy VF', 'heap bytes a frame'],
  measured.map(({ nanos, heap }, i) => [
    (rows[i] as Row).name,
    nanos.toFixed(0),
    ((measured[besides[i] as number] as Measured).nanos / nanos).toFixed(2),
    heap.toFixed(1),
  ]),
);

// ---- what an access costs ----

const SENDER = 5;

interface Act {
  readonly name: string;
  /** Once, after the rings are there. */
  readonly prepare?: (part: Part, base: number) => void;
  readonly register: number | ((i: number) => number);
  readonly value: (i: number) => number;
}

const tail = (count: number) => (i: number) => ((i + 1) * count) & (RING - 1);

/** All descriptors of VF 5's transmit ring. */
const descriptors =
  (...words: [number, number, number, number]) =>
  (part: Part, base: number): void => {
    for (let i = 0; i < RING; i++) part.words.set(words, (base + TX_RING) / 4 + 4 * i);
  };

/** Large packets to be cut to a byte of payload each: pairs of a context and 64 KiB. */
function crumbs(part: Part, base: number): void {
  for (let i = 0; i < RING; i += 2) {
    part.words.set([(14 << 9) | 20, 0, (1 << 29) | (2 << 20) | (5 << 10), (20 << 8) | (1 << 16)], (base + TX_RING) / 4 + 4 * i);
    part.words.set([base + TX_DATA, 0, 0xffff | (3 << 20) | (0xab << 24), (3 << 8) | ((0xffff - 54) << 14)], (base + TX_RING) / 4 + 4 * (i + 1));
  }
  part.bytes.set([...macOf(1), ...macOf(SENDER), 8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6], base + TX_DATA);
  part.bytes[base + TX_DATA + 46] = 0x50;
}

const ACTS: readonly Act[] = [
  { name: 'an honest VF sends 64 frames', register: 0x3818, value: tail(BATCH) },
  { name: 'it sends 1023, eight turns of 64 in an access', register: 0x3818, value: tail(RING - 1) },
  {
    name: 'sends 64 broadcasts',
    register: 0x3818,
    value: tail(BATCH),
    prepare: (part, base) => {
      for (let i = 0; i < RING; i++) part.bytes.fill(0xff, base + TX_DATA + i * SLOT, base + TX_DATA + i * SLOT + 6);
    },
  },
  { name: 'sends 1023 under a false address', register: 0x3818, value: tail(RING - 1), prepare: (part, base) => liar(part, base) },
  { name: '1023 descriptors of nonsense', register: 0x3818, value: tail(RING - 1), prepare: descriptors(0xffff_f000, 0xffff_ffff, 0xffff_ffff, 0xffff_ffff) },
  {
    name: '1023 packets out of its memory',
    register: 0x3818,
    value: tail(RING - 1),
    prepare: descriptors(0xffff_f000, 0xf, FRAME | (3 << 20) | (0x23 << 24), FRAME << 14),
  },
  { name: '1023 contexts and no packet', register: 0x3818, value: tail(RING - 1), prepare: descriptors(0, 0, (1 << 29) | (2 << 20), 0) },
  { name: '512 packets of 64 KiB to be cut to crumbs', register: 0x3818, value: tail(RING - 2), prepare: crumbs },
  {
    name: 'one more descriptor of an endless packet',
    register: 0x3818,
    value: tail(1),
    prepare: descriptors(GUEST * 6 + TX_DATA, 0, 64 | (3 << 20) | (0x22 << 24), 0),
  },
  { name: 'a receive tail', register: 0x2818, value: tail(1) },
  { name: 'its queue off and on', register: 0x3828, value: (i) => (i & 1) * ENABLE },
  { name: 'resets itself', register: 0, value: () => 1 << 26 },
  { name: 'rings the mailbox', register: 0xc40, value: (i) => 1 << (i & 1) },
  { name: 'writes the mailbox', register: (i) => 0x800 + 4 * (i & 15), value: (i) => i },
  { name: 'raises its own interrupt', register: 0x1520, value: () => 7 },
  { name: 'any of its registers', register: (i) => 4 * (i & 0xfff), value: (i) => Math.imul(i, 0x9e37_79b9) >>> 0 },
];

function liar(part: Part, base: number): void {
  part.write(0x3500, 0x8000_ffff);
  for (let i = 0; i < RING; i++) part.bytes.set(macOf(2), base + TX_DATA + i * SLOT + 6);
}

const ACCESSES = 4000;

/** Nanoseconds of an access: the median, and the slowest but one in a hundred. Receivers empty their rings in between, and a reset VF is let go on. */
function cost({ register, value, prepare }: Act): [number, number] {
  const part = new Part(8);
  const all = Array.from({ length: 8 }, (_, n) => new Rings(part, n, true, macOf(1)));
  const base = GUEST * (SENDER + 1);
  prepare?.(part, base);
  const times = new Float64Array(ACCESSES);
  for (let i = -ACCESSES; i < ACCESSES; i++) {
    const at = typeof register === 'number' ? register : register(i);
    const written = value(i) >>> 0;
    const before = performance.now();
    part.machine.barWrite(PF + 0x80 + 2 * SENDER, 0, at, 4, written);
    if (i >= 0) times[i] = (performance.now() - before) * 1e6;
    for (const rings of all) rings.receive();
  }
  times.sort();
  return [times[ACCESSES / 2] as number, times[ACCESSES * 0.99] as number];
}

// What the engine has not compiled yet is nobody's fault.
for (const act of ACTS) cost(act);
const costs = ACTS.map(cost);
printTable(
  ['one access of a VF', 'ns, the median', 'the 99th of 100', 'the median beside an honest one'],
  costs.map(([median, slow], i) => [(ACTS[i] as Act).name, median.toFixed(0), slow.toFixed(0), (median / (costs[0] as [number, number])[0]).toFixed(2)]),
);
