// Notification coalescing (VIRTIO_NET_F_NOTF_COAL): interrupts a packet and the time from sending a frame until the receiving driver is told of it, against no coalescing in
// the same run. The driver looks at its ring only when it is interrupted, and frames come at one rate throughout, so what is compared is the settings alone. First in
// simulated time, where the settings are all there is; then on a worker, with both threads asleep in between, and all that a busy machine adds.

import { InlineSegment } from '#backends/inline-backend';
import { VhostPool } from '#backends/vhost-pool';
import { SimClock } from '#core/clock';
import { PendingVectors } from '#core/interrupts';
import { DirectLink } from '#net/direct-link';
import { Segment } from '#net/segment';
import { VIRTIO_NET_F_NOTF_COAL } from '#virtio/net-features';
import { median, printTable } from './measure.js';
import { BenchGuest } from './ring-drivers.js';

/** Between two frames, in microseconds. */
const INTERVAL = 200;
const FRAMES = 4000;
const WARM = 400;
const RECEIVE_VECTOR = 0x40;
const SETTINGS = [
  [0, 0],
  [4, 2000],
  [16, 1000],
  [16, 8000],
  [64, 16_000],
] as const;

interface Outcome {
  readonly interrupts: number;
  readonly middle: number;
  readonly late: number;
}

function outcome(latency: Float64Array, interrupts: number): Outcome {
  const measured = latency.slice(WARM).sort();
  return { interrupts: interrupts / FRAMES, middle: measured[FRAMES >>> 1] as number, late: measured[Math.floor(FRAMES * 0.99)] as number };
}

const options = { packed: false, size: 1024, frame: 64, buffer: 256 };

function simulated(packets: number, usecs: number): Outcome {
  const clock = new SimClock();
  const segment = new InlineSegment(new Segment(new DirectLink(), { clock }), { defer: () => {} });
  const a = new BenchGuest(options);
  const b = new BenchGuest({ ...options, interrupts: true, features: [VIRTIO_NET_F_NOTF_COAL] });
  const vectors = new PendingVectors();
  b.policy.update((p) => p.setCoalescing(0, packets, usecs));
  a.attach(segment.port('a'), { clock });
  b.attach(segment.port('b'), { vectors, clock });
  b.receiver.fill();
  const latency = new Float64Array(FRAMES + WARM);
  let from = 0;
  let interrupts = 0;
  for (let to = 0; from < latency.length; ) {
    if (to < latency.length) to += a.transmitter.send(1);
    // A microsecond at a time: a driver is told when it happens, not with the next frame.
    for (let us = 0; us < INTERVAL; us++) {
      if (vectors.take() === RECEIVE_VECTOR) {
        if (from >= WARM) interrupts++;
        for (let n = b.receiver.receive(); n > 0; n--) latency[from] = clock.now() / 1000 - INTERVAL * from++;
      }
      clock.advance(1000);
    }
  }
  return outcome(latency, interrupts);
}

async function onWorker(packets: number, usecs: number): Promise<Outcome> {
  const pool = new VhostPool();
  const segment = pool.worker().segment();
  const a = new BenchGuest(options);
  const b = new BenchGuest({ ...options, interrupts: true, features: [VIRTIO_NET_F_NOTF_COAL] });
  const vectors = new PendingVectors();
  b.policy.update((p) => p.setCoalescing(0, packets, usecs));
  a.attach(segment.port('a'));
  b.attach(segment.port('b'), { vectors });
  b.receiver.fill();
  const sent = new Float64Array(FRAMES + WARM);
  const latency = new Float64Array(FRAMES + WARM);
  let to = 0;
  let from = 0;
  let interrupts = 0;
  const start = performance.now();
  while (from < sent.length) {
    const now = performance.now();
    if (now - start > 60_000) throw new Error(`${from} of ${sent.length} frames after a minute`);
    if (to < sent.length && now >= start + (to * INTERVAL) / 1000) {
      sent[to] = now;
      if (a.transmitter.send(1) === 1) to++;
    }
    const ticket = vectors.bell.ticket;
    if (vectors.take() !== RECEIVE_VECTOR) {
      // Asleep, as a processor is that waits for an interrupt or for its next packet.
      const left = to < sent.length ? start + (to * INTERVAL) / 1000 - performance.now() : 100;
      if (left > 0) vectors.bell.wait(ticket, left);
      continue;
    }
    if (from >= WARM) interrupts++;
    const told = performance.now();
    for (let n = b.receiver.receive(); n > 0; n--) latency[from] = (told - (sent[from++] as number)) * 1000;
  }
  await pool.close();
  return outcome(latency, interrupts);
}

function print(outcomes: readonly (readonly Outcome[])[]): void {
  const of = (i: number, what: keyof Outcome): number => median((outcomes[i] as Outcome[]).map((o) => o[what]));
  printTable(
    ['max_packets / max_usecs', 'interrupts a packet', 'of none', 'told after, p50', 'p99', 'of none'],
    SETTINGS.map(([packets, usecs], i) => [
      packets === 0 ? 'none' : `${packets} / ${usecs} us`,
      of(i, 'interrupts').toFixed(3),
      (of(i, 'interrupts') / of(0, 'interrupts')).toFixed(3),
      `${of(i, 'middle').toFixed(0)} us`,
      `${of(i, 'late').toFixed(0)} us`,
      of(0, 'late') > 0 ? `${(of(i, 'late') / of(0, 'late')).toFixed(1)}x` : '-',
    ]),
  );
}

console.log(`a frame every ${INTERVAL} us, inline, in simulated time`);
print(SETTINGS.map(([packets, usecs]) => [simulated(packets, usecs)]));
console.log(`a frame every ${INTERVAL} us through one worker; the median of three rounds`);
const rounds: Outcome[][] = SETTINGS.map(() => []);
for (let round = 0; round < 3; round++) for (const [i, [packets, usecs]] of SETTINGS.entries()) (rounds[i] as Outcome[]).push(await onWorker(packets, usecs));
print(rounds);
