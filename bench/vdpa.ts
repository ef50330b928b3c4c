// vDPA: what a notification costs a guest on a thread of its own, by data plane; then frames a second from one guest's ring to another's, over the same data planes in the same run. A shadow
// virtqueue is served on the machine's thread, which here is also the driver's: its cost is the difference to vDPA without one.

import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { InlineSegment } from '#backends/inline-backend';
import { VdpaBackend } from '#backends/vdpa-backend';
import { VdpaNet } from '#backends/vdpa-net';
import { VdpaShadow } from '#backends/vdpa-shadow';
import { VhostPool } from '#backends/vhost-pool';
import { BellLoop } from '#core/bell-loop';
import { Bell, Doorbell } from '#core/doorbell';
import { DirectLink } from '#net/direct-link';
import { Segment } from '#net/segment';
import { Machine } from '#nicbox/machine';
import type { VhostBackend } from '#virtio/vhost';
import { median, nanosPerCall, printTable } from './measure.js';
import { BenchGuest } from './ring-drivers.js';
import type { KickCost } from './vdpa-kick-worker.js';

const PLANES = ['inline', 'vhost worker', 'vDPA', 'shadow over vDPA'] as const;
type Plane = (typeof PLANES)[number];
/** A NIC does not sleep. */
const ALWAYS = { minimum: 1e9, maximum: 1e9 };
const NEVER = { minimum: 0, maximum: 0 };
const BATCH = 64;
const ROUNDS = 5;
const ROUND_MILLISECONDS = 400;

interface Wire {
  readonly port: (name: string) => VhostBackend;
  /** What the machine's thread does besides: a look at shadow virtqueues. */
  readonly look: () => void;
  readonly close: () => Promise<void>;
}

/** @param loop of the machine whose thread serves shadow virtqueues */
function wire(plane: Plane, loop = new BellLoop(), poll = ALWAYS): Wire {
  if (plane === 'inline') {
    const segment = new InlineSegment(new Segment(new DirectLink()));
    return { port: (name) => segment.port(name), look: () => {}, close: async () => loop.close() };
  }
  const pool = new VhostPool({ poll });
  const segment = pool.worker().segment();
  const close = async (): Promise<void> => {
    loop.close();
    await pool.close();
  };
  if (plane === 'vhost worker') return { port: (name) => segment.port(name), look: () => {}, close };
  const device = (name: string): VdpaNet => new VdpaNet(segment.port(name));
  if (plane === 'vDPA') return { port: (name) => new VdpaBackend(device(name)), look: () => {}, close };
  return { port: (name) => new VdpaShadow(device(name), loop), look: () => void loop.runOnce(), close };
}

/** @param apart milliseconds from kick to kick, and the data plane sleeps meanwhile; 0: one after the other, and it never sleeps */
async function kickCost(plane: Plane, apart = 0): Promise<KickCost> {
  const machine = new Machine({ memory: 96 * 2 ** 20 });
  const link = wire(plane, undefined, apart > 0 ? NEVER : ALWAYS);
  machine.addVirtioNet({ mac: '52:54:00:00:00:01', backend: link.port('a') });
  const worker = new Worker(new URL('./vdpa-kick-worker.js', import.meta.url), {
    // Many short samples: their median leaves out those in which the processor was somebody else's.
    workerData: { share: machine.threadBus().share, calls: plane === 'inline' ? 20 : 2000, samples: 301, apart },
  });
  const [cost] = (await once(worker, 'message')) as [KickCost];
  await worker.terminate();
  await machine.close();
  await link.close();
  return cost;
}

async function framesPerSecond(plane: Plane, packed: boolean): Promise<number> {
  const link = wire(plane);
  const options = { packed, size: 1024, frame: 64, buffer: 128 };
  const [a, b] = [new BenchGuest(options), new BenchGuest(options)];
  a.attach(link.port('a'));
  b.attach(link.port('b'));
  b.receiver.fill();
  const step = (): void => {
    a.transmitter.send(BATCH);
    link.look();
    b.receiver.receive();
  };
  // Its thread has to come up first.
  const patience = performance.now() + 30_000;
  while (b.receiver.frames === 0) {
    step();
    if (performance.now() > patience) throw new Error(`${plane}: no frame in 30 s`);
  }
  const rates: number[] = [];
  for (let round = -2; round < ROUNDS; round++) {
    const start = performance.now();
    const before = b.receiver.frames;
    let now = start;
    while (now - start < ROUND_MILLISECONDS) {
      for (let i = 0; i < 64; i++) step();
      now = performance.now();
    }
    if (b.receiver.frames === before) throw new Error(`${plane}: no frame in ${ROUND_MILLISECONDS} ms`);
    if (round >= 0) rates.push(((b.receiver.frames - before) / (now - start)) * 1000);
  }
  await link.close();
  return median(rates);
}

const word = new Doorbell(new Bell());
const bound = nanosPerCall(
  (i) => {
    word.ring();
    return word.take() + i;
  },
  2000,
  301,
);
const kicks: (string | number)[][] = [['the words alone, rung and taken on one thread', bound.toFixed(0), '', '', '']];
const row = (name: string, { nanos, exits, fastKicks, wakes }: KickCost): number => kicks.push([name, nanos.toFixed(0), exits, fastKicks, wakes]);
for (const plane of PLANES) row(`${plane}, running`, await kickCost(plane));
for (const plane of ['vhost worker', 'vDPA'] as const) row(`${plane}, asleep`, await kickCost(plane, 1));
printTable(['notification', 'ns', 'exits', 'without one', 'woke'], kicks);
if (process.argv.includes('--kicks')) process.exit();

const rows: (string | number)[][] = [];
for (const packed of [false, true]) {
  let reference = 0;
  for (const plane of PLANES) {
    const rate = await framesPerSecond(plane, packed);
    if (plane === 'vhost worker') reference = rate;
    rows.push([`${plane}, ${packed ? 'packed' : 'split'}`, (rate / 1e6).toFixed(2), reference > 0 ? (rate / reference).toFixed(2) : '']);
  }
}
printTable(['64 B frames', 'M/s', 'of the worker'], rows);
