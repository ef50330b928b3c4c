// What a ring costs the device: nanoseconds per chain to pop and to push (one publish a batch), the driver's share not counted, beside a bound from the same
// run: a bare loop over typed arrays that moves the same words, with no checks. Run: npm run bench -- virtqueue

import { DmaSpace } from '#core/dma-space';
import { GuestMemory } from '#core/guest-memory';
import { SegmentList } from '#core/segments';
import { FeatureSet, VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1 } from '#virtio/features';
import { initialPosition, openQueue } from '#virtio/open-queue';

const SIZE = 256;
const BATCH = 64;
/** Batches in a chunk, and chunks: the best chunk counts, for the machine may be busy with other things. */
const CHUNK = 500;
const ROUNDS = 40 * CHUNK;
const WARM_UP = 3_000;
const RAM = 2 ** 22;
const DESC = 0x10000;
const DRIVER = 0x20000;
const DEVICE = 0x30000;
const TABLES = 0x40000;
const DATA = 0x100000;

interface Case {
  readonly name: string;
  readonly packed: boolean;
  readonly eventIdx: boolean;
  readonly inOrder: boolean;
  /** Descriptors in a chain, and whether they lie in an indirect table. */
  readonly descriptors: number;
  readonly indirect: boolean;
  readonly write: boolean;
}

const PLAIN = { packed: false, eventIdx: true, inOrder: false, descriptors: 1, indirect: false, write: false };
const CASES: readonly Case[] = [
  { ...PLAIN, name: 'split, 1 descriptor' },
  { ...PLAIN, name: 'split, 1 descriptor, writable', write: true },
  { ...PLAIN, name: 'split, chain of 2', descriptors: 2 },
  { ...PLAIN, name: 'split, indirect table of 2', descriptors: 2, indirect: true },
  { ...PLAIN, name: 'split, 1 descriptor, IN_ORDER', inOrder: true },
  { ...PLAIN, name: 'packed, 1 descriptor', packed: true },
  { ...PLAIN, name: 'packed, 1 descriptor, writable', packed: true, write: true },
  { ...PLAIN, name: 'packed, list of 2', packed: true, descriptors: 2 },
  { ...PLAIN, name: 'packed, indirect table of 2', packed: true, descriptors: 2, indirect: true },
  { ...PLAIN, name: 'packed, 1 descriptor, IN_ORDER', packed: true, inOrder: true },
];

/** What two readings of the timer differ by when nothing is between them: taken off every batch. */
const TIMER_NANOS = ((): number => {
  let best = Number.POSITIVE_INFINITY;
  for (let chunk = 0; chunk < 200; chunk++) {
    let total = 0n;
    for (let i = 0; i < CHUNK; i++) {
      const start = process.hrtime.bigint();
      const end = process.hrtime.bigint();
      total += end - start;
    }
    best = Math.min(best, Number(total) / CHUNK);
  }
  return best;
})();

/** The cheapest chunk of pops and of pushes. */
class Best {
  pop = Number.POSITIVE_INFINITY;
  push = Number.POSITIVE_INFINITY;
  #pop = 0n;
  #push = 0n;

  /** After batch `round` (warm-up is below 0), timed at its start, between pops and pushes, and at its end. */
  add(round: number, start: bigint, popped: bigint, end: bigint): void {
    if (round < 0) return;
    this.#pop += popped - start;
    this.#push += end - popped;
    if ((round + 1) % CHUNK !== 0) return;
    const perChain = (nanos: bigint): number => (Number(nanos) - CHUNK * TIMER_NANOS) / (CHUNK * BATCH);
    this.pop = Math.min(this.pop, perChain(this.#pop));
    this.push = Math.min(this.push, perChain(this.#push));
    this.#pop = 0n;
    this.#push = 0n;
  }
}

interface QueueCost {
  readonly name: string;
  readonly pop: number;
  readonly push: number;
}

/** The driver's side of a batch, as cheap as it can be: descriptors never change, only what makes them available. */
function makeDriver(c: Case, words: Uint32Array, halves: Uint16Array): () => void {
  const slots = c.indirect ? 1 : c.descriptors;
  const flags = c.write ? 2 : 0;
  const put = (at: number, address: number, length: number, last: number): void => {
    words[at >>> 2] = address;
    words[(at >>> 2) + 1] = 0;
    words[(at >>> 2) + 2] = length;
    words[(at >>> 2) + 3] = last;
  };
  for (let i = 0; i < SIZE; i++) {
    for (let k = 0; c.indirect && k < c.descriptors; k++) {
      const more = k + 1 < c.descriptors ? 1 : 0;
      put(TABLES + 1024 * i + 16 * k, DATA + 2048 * i + 64 * k, 64, c.packed ? flags << 16 : flags | more | ((more ? k + 1 : 0) << 16));
    }
  }
  const describe = (i: number, bits: number, id: number): void => {
    const more = (i + 1) % slots !== 0 ? 1 : 0;
    const own = c.indirect ? 4 : flags | more;
    const address = c.indirect ? TABLES + 1024 * i : DATA + 2048 * i;
    put(DESC + 16 * i, address, c.indirect ? 16 * c.descriptors : 64, c.packed ? ((own | bits) << 16) | id : own | ((more ? i + 1 : 0) << 16));
  };
  if (!c.packed) {
    for (let i = 0; i < SIZE; i++) describe(i, 0, 0);
    const heads = SIZE / slots;
    for (let i = 0; i < SIZE; i++) halves[(DRIVER + 4 + 2 * i) >>> 1] = (i % heads) * slots;
    let index = 0;
    return () => {
      index = (index + BATCH) & 0xffff;
      Atomics.store(halves, (DRIVER + 2) >>> 1, index);
    };
  }
  let next = 0;
  let bits = 0x80;
  return () => {
    for (let i = 0; i < BATCH * slots; i++) {
      describe(next, bits, next);
      next++;
      if (next === SIZE) {
        next = 0;
        bits ^= 0x8080;
      }
    }
  };
}

function measure(c: Case): QueueCost {
  const memory = new GuestMemory([{ base: 0, size: RAM }]);
  const dma = DmaSpace.create(memory);
  const { views } = memory.slabs[0] as (typeof memory.slabs)[0];
  const features = FeatureSet.of(
    VIRTIO_F_VERSION_1,
    VIRTIO_F_INDIRECT_DESC,
    ...(c.packed ? [VIRTIO_F_RING_PACKED] : []),
    ...(c.eventIdx ? [VIRTIO_F_EVENT_IDX] : []),
    ...(c.inOrder ? [VIRTIO_F_IN_ORDER] : []),
  );
  const queue = openQueue({ size: SIZE, descriptorArea: DESC, driverArea: DRIVER, deviceArea: DEVICE }, initialPosition(features), features, dma);
  if (typeof queue === 'string') throw new Error(queue);
  const makeAvailable = makeDriver(c, views.u32, views.u16);
  const list = new SegmentList(1024, views);
  const tokens = new Int32Array(BATCH);
  const best = new Best();
  for (let round = -WARM_UP; round < ROUNDS; round++) {
    makeAvailable();
    list.truncate(0);
    queue.resync();
    const start = process.hrtime.bigint();
    for (let i = 0; i < BATCH; i++) tokens[i] = queue.pop(list);
    const popped = process.hrtime.bigint();
    for (let i = 0; i < BATCH; i++) queue.push(tokens[i] as number, c.write ? 64 : 0);
    queue.publish();
    const end = process.hrtime.bigint();
    best.add(round, start, popped, end);
    if ((tokens[BATCH - 1] as number) < 0) throw new Error(`${c.name}: ${queue.broken ?? 'the ring ran empty'}`);
  }
  return { name: c.name, pop: best.pop, push: best.push };
}

/** The same words moved by a bare loop: head and descriptor to arrays, used entry back, one index a batch. */
function measureBound(): QueueCost {
  const views = new Uint32Array(new SharedArrayBuffer(RAM));
  const halves = new Uint16Array(views.buffer);
  const offset = new Int32Array(BATCH);
  const length = new Int32Array(BATCH);
  const tokens = new Int32Array(BATCH);
  for (let i = 0; i < SIZE; i++) {
    halves[(DRIVER + 4 + 2 * i) >>> 1] = i;
    views.set([DATA + 2048 * i, 0, 64, 0], (DESC + 16 * i) >>> 2);
  }
  const best = new Best();
  let index = 0;
  for (let round = -WARM_UP; round < ROUNDS; round++) {
    const start = process.hrtime.bigint();
    for (let i = 0; i < BATCH; i++) {
      const head = halves[(DRIVER + 4 + 2 * ((index + i) & (SIZE - 1))) >>> 1] as number;
      const at = (DESC + 16 * head) >>> 2;
      tokens[i] = head + ((views[at + 1] as number) | (views[at + 3] as number));
      offset[i] = views[at] as number;
      length[i] = views[at + 2] as number;
    }
    const popped = process.hrtime.bigint();
    for (let i = 0; i < BATCH; i++) {
      const at = (DEVICE + 4 + 8 * ((index + i) & (SIZE - 1))) >>> 2;
      views[at] = tokens[i] as number;
      views[at + 1] = length[i] as number;
    }
    index = (index + BATCH) & 0xffff;
    Atomics.store(halves, (DEVICE + 2) >>> 1, index);
    const end = process.hrtime.bigint();
    best.add(round, start, popped, end);
  }
  return { name: 'bound: bare loop over the same words', pop: best.pop, push: best.push };
}

function run(only = ''): void {
  const bound = measureBound();
  const rows = [bound, ...CASES.filter((c) => c.name.includes(only)).map(measure)];
  console.log(`virtqueue: ns per chain, batches of ${BATCH}, ring of ${SIZE}`);
  console.log(`${''.padEnd(40)}${'pop'.padStart(8)}${'push'.padStart(8)}${'sum'.padStart(8)}${'x bound'.padStart(9)}`);
  for (const row of rows) {
    const sum = row.pop + row.push;
    const cells = [row.pop.toFixed(1), row.push.toFixed(1), sum.toFixed(1)].map((s) => s.padStart(8)).join('');
    console.log(row.name.padEnd(40) + cells + (sum / (bound.pop + bound.push)).toFixed(1).padStart(9));
  }
}

run(process.argv[2]);
