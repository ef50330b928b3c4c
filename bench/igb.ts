// The igb on one thread, beside virtio-net (split rings) and the e1000 on the same thread and in the same run: processor time for a frame from ring to ring; then from one virtual function to another through the embedded switch, with
// two and with seven of them enabled.

import { InlineSegment } from '#backends/inline-backend';
import { SimClock } from '#core/clock';
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
const BUFFER = 2048;
const ENABLE = 0x0200_0000;
const VF_BME = 0x88;

/** A ring each way, the transmit ring of one queue and the receive ring of one, driven as a lean driver would. */
class Rings {
  readonly machine: Machine;
  readonly #words: Uint32Array;
  readonly #tdt: number;
  readonly #rdt: number;
  readonly #status: number;
  #transmitted = 0;
  #received = 0;

  constructor(machine: Machine, registers: { readonly tdt: number; readonly rdt: number; readonly status: number }) {
    this.machine = machine;
    this.#words = machine.memory.slabs[0]?.views.u32 as Uint32Array;
    this.#tdt = registers.tdt;
    this.#rdt = registers.rdt;
    this.#status = registers.status;
  }

  send(count: number): void {
    this.#transmitted = (this.#transmitted + count) & (RING - 1);
    this.machine.barWrite(BDF, 0, this.#tdt, 4, this.#transmitted);
  }

  receive(): number {
    const words = this.#words;
    let count = 0;
    for (;;) {
      const at = RX_RING / 4 + 4 * this.#received;
      if ((Atomics.load(words, at + this.#status) & 1) === 0) break;
      words[at] = RX_DATA + this.#received * BUFFER;
      words[at + 1] = 0;
      words[at + this.#status] = 0;
      this.#received = (this.#received + 1) & (RING - 1);
      count++;
    }
    if (count > 0) this.machine.barWrite(BDF, 0, this.#rdt, 4, (this.#received + RING - 1) & (RING - 1));
    return count;
  }
}

function fill(machine: Machine, word2: number, word3: number, to: readonly number[], from: readonly number[]): void {
  const { u32, u8 } = (machine.memory.slabs[0] as (typeof machine.memory.slabs)[number]).views;
  for (let i = 0; i < RING; i++) {
    u32.set([TX_DATA + i * BUFFER, 0, word2, word3], TX_RING / 4 + 4 * i);
    u32.set([RX_DATA + i * BUFFER, 0, 0, 0], RX_RING / 4 + 4 * i);
    u8.set([...to, ...from, 0x88, 0xb5], TX_DATA + i * BUFFER);
  }
}

function make(): { machine: Machine; clock: SimClock } {
  const clock = new SimClock();
  return { machine: new Machine({ memory: 16 * 2 ** 20, clock, interrupts: { message: () => {}, setIntx: () => {} } }), clock };
}

const A = '52:54:00:00:00:01';
const B = '52:54:00:00:00:02';
/** B's. */
const TARGET = [0x52, 0x54, 0, 0, 0, 2];

function e1000(segment: InlineSegment, mac: string, frame: number): Rings {
  const { machine, clock } = make();
  machine.addE1000({ mac, segment });
  machine.configWrite(BDF, 0x10, 4, 0xc000_0000);
  machine.configWrite(BDF, 4, 2, 7);
  fill(machine, frame | 0x0300_0000, 0, TARGET, [2, 0, 0, 0, 0, 1]);
  const write = (register: number, value: number): void => machine.barWrite(BDF, 0, register, 4, value);
  write(0, 0x40);
  clock.advance(1e9);
  for (const [register, value] of [
    [0x3800, TX_RING],
    [0x3808, RING * 16],
    [0x2800, RX_RING],
    [0x2808, RING * 16],
    [0x400, 0x4_010a],
    [0x100, 0x0400_8002],
    [0x2818, RING - 1],
  ] as const)
    write(register, value);
  return new Rings(machine, { tdt: 0x3818, rdt: 0x2818, status: 3 });
}

/** Transmits on queue `from`, receives on queue `to`. */
function queues(machine: Machine, frame: number, from: number, to: number, target: readonly number[], source: readonly number[]): Rings {
  fill(machine, frame | 0x2330_0000, frame << 14, target, source);
  const write = (register: number, value: number): void => machine.barWrite(BDF, 0, register, 4, value >>> 0);
  for (const [register, value] of [
    [0xe000 + 0x40 * from, TX_RING],
    [0xe008 + 0x40 * from, RING * 16],
    [0xe028 + 0x40 * from, ENABLE],
    [0xc000 + 0x40 * to, RX_RING],
    [0xc008 + 0x40 * to, RING * 16],
    [0xc00c + 0x40 * to, 0x0200_0002],
    [0xc028 + 0x40 * to, ENABLE],
    [0xc018 + 0x40 * to, RING - 1],
    [0x5000, 0x2300],
    [0x400, 0xfa],
    [0x100, 0x0400_8002],
  ] as const)
    write(register, value);
  return new Rings(machine, { tdt: 0xe018 + 0x40 * from, rdt: 0xc018 + 0x40 * to, status: 2 });
}

function igb(segment: InlineSegment, mac: string, frame: number): Rings {
  const { machine, clock } = make();
  machine.addIgb({ mac, segment });
  machine.configWrite(BDF, 0x10, 4, 0xc000_0000);
  machine.configWrite(BDF, 4, 2, 7);
  machine.barWrite(BDF, 0, 0, 4, 0x40);
  clock.advance(1e9);
  return queues(machine, frame, 0, 0, TARGET, [2, 0, 0, 0, 0, 1]);
}

/** VF 0 to VF 1 of one part, `count` of them enabled. */
function virtual(count: number, frame: number): Rings {
  const { machine, clock } = make();
  machine.addIgb({ mac: '52:54:00:00:00:0a', segment: new InlineSegment(new Segment(new DirectLink())) });
  machine.configWrite(BDF, 0x10, 4, 0xc000_0000);
  machine.configWrite(BDF, 4, 2, 7);
  machine.configWrite(BDF, 0x170, 2, count);
  machine.configWrite(BDF, 0x168, 2, 9);
  for (let vf = 0; vf < count; vf++) machine.configWrite(VF_BME + 2 * vf, 4, 2, 4);
  const write = (register: number, value: number): void => machine.barWrite(BDF, 0, register, 4, value >>> 0);
  write(0, 0x40);
  clock.advance(1e9);
  // Each has an address, and takes broadcasts; they hear each other.
  for (let vf = 0; vf < count; vf++) {
    write(0x5400 + 8 * (vf + 1), 0x0000_0202 | (vf << 24));
    write(0x5404 + 8 * (vf + 1), 0x8000_0000 | (1 << (18 + vf)));
    write(0x5ad0 + 4 * vf, 0x8900_2600);
  }
  for (const [register, value] of [
    [0x3500, 0x8000_00ff],
    [0x5818, 3],
    [0xc8c, 0xff],
    [0xc90, 0xff],
    [0x2408, 0xffff],
  ] as const)
    write(register, value);
  return queues(machine, frame, 0, 1, [2, 2, 0, 1, 0, 0], [2, 2, 0, 0, 0, 0]);
}

const FRAMES = 100_000;
const ROUNDS = 10;

interface Row {
  readonly name: string;
  readonly step: () => number;
}

interface Measured {
  readonly nanos: number;
  readonly heap: number;
}

/** Processor time a frame, the best of some rounds, and heap growth a frame. Rows take turns, so that what else the machine does meets all of them. */
function measure(rows: readonly Row[]): Measured[] {
  const nanos = rows.map(() => Number.POSITIVE_INFINITY);
  const heap = rows.map(() => 0);
  for (let round = 0; round < ROUNDS; round++)
    for (const [i, row] of rows.entries()) {
      const memory = process.memoryUsage().heapUsed;
      const before = process.cpuUsage();
      let frames = 0;
      while (frames < FRAMES) {
        const taken = row.step();
        if (taken === 0) throw new Error('no frame arrived');
        frames += taken;
      }
      const { user, system } = process.cpuUsage(before);
      nanos[i] = Math.min(nanos[i] as number, ((user + system) * 1000) / frames);
      if (round > 1) heap[i] = (heap[i] as number) + (process.memoryUsage().heapUsed - memory) / frames;
    }
  return rows.map((_, i) => ({ nanos: nanos[i] as number, heap: Math.max(0, (heap[i] as number) / (ROUNDS - 2)) }));
}

function pair(name: string, device: typeof igb, frame: number): Row {
  const segment = new InlineSegment(new Segment(new DirectLink()));
  const a = device(segment, A, frame);
  const b = device(segment, B, frame);
  return {
    name,
    step: () => {
      a.send(BATCH);
      return b.receive();
    },
  };
}

function between(count: number, frame: number): Row {
  const rings = virtual(count, frame);
  return {
    name: `igb, VF to VF, ${count} enabled`,
    step: () => {
      rings.send(BATCH);
      return rings.receive();
    },
  };
}

function virtio(frame: number): Row {
  // The igb's buffers: what is far apart costs more to come by, whoever stores it there.
  const options = { packed: false, size: RING, frame, buffer: BUFFER };
  const segment = new InlineSegment(new Segment(new DirectLink()));
  const a = new BenchGuest(options);
  const b = new BenchGuest(options);
  a.attach(segment.port('a'));
  b.attach(segment.port('b'));
  b.receiver.fill();
  return {
    name: 'virtio-net, split',
    step: () => {
      a.transmitter.send(BATCH);
      return b.receiver.receive();
    },
  };
}

for (const frame of [64, 1500]) {
  const rows = [virtio(frame), pair('e1000', e1000, frame), pair('igb', igb, frame), between(2, frame), between(7, frame)];
  const measured = measure(rows);
  const bound = measured[0] as Measured;
  console.log(`${frame} bytes, ring to ring on one thread`);
  printTable(
    ['device', 'ns a frame', 'of virtio-net’s rate', 'heap bytes a frame'],
    measured.map(({ nanos, heap }, i) => [(rows[i] as Row).name, nanos.toFixed(0), (bound.nanos / nanos).toFixed(2), heap.toFixed(2)]),
  );
}
