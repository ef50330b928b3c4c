// The experiment in real time: each guest on a thread of its own, exits served by this one, and with a shared block the rings by a worker's. Exits and wakes are real ones. Guests that poll share
// this thread, since three threads that never sleep need three processors. Every frame that was sent has to arrive, once, in order and of its length (one in 64 is checked in full), before the next
// measurement begins: what one leaves in the rings would be the next one's.

import { setTimeout as sleep } from 'node:timers/promises';
import { InlineSegment } from '#backends/inline-backend';
import { VhostPool } from '#backends/vhost-pool';
import type { VhostWorker } from '#backends/vhost-worker';
import { NAP, SharedProcessor } from '#core/shared-processor';
import { Guest, type GuestReport } from '#guest-sim/guest';
import { GuestThread } from '#guest-sim/guest-thread';
import type { Job } from '#guest-sim/workload';
import { DirectLink } from '#net/direct-link';
import { Segment } from '#net/segment';
import { ValeSwitch } from '#net/vale-switch';
import { Machine } from '#nicbox/machine';
import { driverFor, FRAME_BY_FRAME, jobOf, type Load, MAC_A, MAC_B, type Measurement, type Techniques } from './rizzo.ts';

const NEGOTIATION = 1000;
/** Of each measurement's time, before it; and before the first with new threads, whose code is to be compiled. */
const WARM_UP = 0.5;
const FIRST_WARM_UP = 3;
/** What may still be under way after a measurement has so long to arrive, in milliseconds. A machine that is busy with other things may need it. */
const PATIENCE = 20_000;
/** Frames or answers without which a measurement goes on. */
const LEAST = 20;
/** A guest stopped in the middle of a count that it never gets to. */
const ENDLESS = 2 ** 30;
const NEVER_SLEEP = 1e12;
/** Steps of polling guests between two looks at the time, and milliseconds between two turns for the event loop. */
const STEPS = 256;
const BREATH = 20;

/** To nap on: nobody rings. */
const SILENT = new Int32Array(new SharedArrayBuffer(4));

async function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  await sleep(milliseconds, undefined, { signal }).catch(() => signal.throwIfAborted());
}

/** Two guests that run jobs, on threads or not. */
interface Pair {
  /** Frames that arrived at who counts them so far. */
  readonly arrived: () => number;
  start(a: Job, b: Job): void;
  /** Lets them run for so long. @throws AbortError as soon as the signal comes */
  run(milliseconds: number): Promise<void>;
  /** The sender adds nothing more; runs on until all it sent has left, and (unless some may be lost) all that left has arrived. @throws Error when that takes too long */
  finish(frames: 'arrive' | 'lost'): Promise<readonly [GuestReport, GuestReport]>;
  close(): Promise<void>;
}

/** All loads with one set of techniques. @throws AbortError after `signal`; Error for frames that do not arrive; what a guest's thread throws */
export async function measureWall(techniques: Techniques, loads: readonly Load[], seconds: number, signal: AbortSignal): Promise<Measurement[]> {
  const { csb, vale, polling } = techniques;
  const budget = vale ? undefined : FRAME_BY_FRAME;
  const pool = csb ? new VhostPool(polling ? { poll: { minimum: NEVER_SLEEP, maximum: NEVER_SLEEP } } : {}) : undefined;
  const worker = pool?.worker();
  const segment =
    worker?.segment({ kind: vale ? 'vale' : 'link', ...(budget && { budget }) }) ??
    new InlineSegment(new Segment(vale ? new ValeSwitch() : new DirectLink()), { ...(budget && { budget, rounds: 2048 }) });
  const machines = [MAC_A, MAC_B].map((mac, i) => {
    const machine = new Machine({ name: `guest ${i}`, memory: 64 * 2 ** 20 });
    const address = mac.map((byte) => byte.toString(16).padStart(2, '0')).join(':');
    machine.addE1000({ mac: address, segment, negotiation: NEGOTIATION, sharedBlock: csb });
    return machine;
  }) as [Machine, Machine];
  let pair: Pair | undefined;
  try {
    pair = polling ? await pollingPair(machines, techniques, signal) : await threadPair(machines, techniques, signal);
    await meet(pair);
    const results: Measurement[] = [];
    for (const load of loads) {
      const warmUp = seconds * (results.length === 0 ? FIRST_WARM_UP : WARM_UP);
      results.push(await measure(pair, worker, { techniques, load, seconds, warmUp }, signal));
    }
    return results;
  } finally {
    await pair?.close();
    await Promise.allSettled(machines.map((machine) => machine.close()));
    await pool?.close();
  }
}

/** The worker's thread may not be up yet, and frames for a port that it does not know go nowhere: asks until there is an answer. @throws Error */
async function meet(pair: Pair): Promise<void> {
  pair.start({ kind: 'ping', count: ENDLESS, destination: MAC_B }, { kind: 'echo' });
  const limit = performance.now() + PATIENCE;
  while (pair.arrived() === 0) {
    if (performance.now() > limit) throw new Error(`waited ${PATIENCE / 1000} s for a first answer`);
    await pair.run(1);
  }
  await pair.finish('lost');
}

/** Frames that arrive in so many seconds, or in as many as it takes for some to come, and how long it was. */
async function arrivals(pair: Pair, seconds: number): Promise<readonly [number, number]> {
  const before = pair.arrived();
  const from = performance.now();
  let frames: number;
  let took: number;
  do {
    await pair.run(seconds * 1000);
    frames = (pair.arrived() - before) >>> 0;
    took = performance.now() - from;
  } while (frames < LEAST && took < PATIENCE);
  return [frames, took / 1000];
}

async function measure(
  pair: Pair,
  worker: VhostWorker | undefined,
  { techniques, load, seconds, warmUp }: { readonly techniques: Techniques; readonly load: Load; readonly seconds: number; readonly warmUp: number },
  signal: AbortSignal,
): Promise<Measurement> {
  signal.throwIfAborted();
  const ping = load.burst === 0;
  const slept = worker?.statistics.sleeps ?? 0;
  pair.start(jobOf(load, ENDLESS, MAC_B), ping ? { kind: 'echo' } : { kind: 'sink', verify: 'sampled' });
  await arrivals(pair, warmUp);
  const [frames, took] = await arrivals(pair, seconds);
  const [sent, received] = await pair.finish('arrive');
  signal.throwIfAborted();
  const errors = [...sent.errors, ...received.errors];
  // Also an order that no sink looks at: what an echo got is what was asked.
  if (received.framesReceived !== sent.framesSent) errors.push(`${sent.framesSent} frames were sent and ${received.framesReceived} arrived`);
  if ((received.details.lost ?? 0) > 0) errors.push(`${received.details.lost} frames are missing`);
  if (frames === 0) errors.push('nothing arrived');
  const count = Math.max(received.framesReceived, 1);
  return {
    mode: 'wall',
    techniques,
    load,
    frames,
    seconds: took,
    framesPerSecond: frames / took,
    exitsPerFrame: (sent.exits + received.exits) / count,
    interruptsPerFrame: (sent.interrupts + received.interrupts) / count,
    wakesPerFrame: (sent.wakes + received.wakes + (worker?.statistics.sleeps ?? 0) - slept) / count,
    p50: sent.details.p50 ?? 0,
    p99: sent.details.p99 ?? 0,
    errors,
  };
}

/** @throws Error; AbortError after `signal` */
async function until(condition: () => boolean, what: () => string, signal: AbortSignal): Promise<void> {
  const limit = performance.now() + PATIENCE;
  while (!condition()) {
    if (performance.now() > limit) throw new Error(`waited ${PATIENCE / 1000} s for ${what()}`);
    await pause(1, signal);
  }
}

async function threadPair(machines: readonly [Machine, Machine], techniques: Techniques, signal: AbortSignal): Promise<Pair> {
  const start = (machine: Machine): Promise<GuestThread> => GuestThread.start(machine.threadBus().share, { e1000: driverFor('wall', techniques) });
  const a = await start(machines[0]);
  const b = await start(machines[1]);
  let jobs: [Promise<GuestReport>, Promise<GuestReport>];
  let counts = a;
  return {
    arrived: () => counts.framesReceived,
    start(first, second) {
      jobs = [a.run(first), b.run(second)];
      // A thread that ends early is told of by `finish`, and no unhandled rejection before.
      for (const job of jobs) job.catch(() => {});
      counts = first.kind === 'ping' ? a : b;
    },
    run: (milliseconds) => pause(milliseconds, signal),
    async finish(frames) {
      a.stop();
      const sent = await jobs[0];
      const drained = a.run({ kind: 'generate', count: 0 });
      const late = setTimeout(() => a.stop(), PATIENCE);
      const { broken, done } = await drained;
      clearTimeout(late);
      if (!done && broken === '') throw new Error(`waited ${PATIENCE / 1000} s for the sender's ring to empty`);
      await until(
        () => frames === 'lost' || b.framesReceived >>> 0 === sent.framesSent >>> 0 || broken !== '',
        () => `${sent.framesSent} frames, of which ${b.framesReceived} arrived`,
        signal,
      );
      b.stop();
      return [sent, await jobs[1]];
    },
    async close() {
      await Promise.allSettled([a.close(), b.close()]);
    },
  };
}

async function pollingPair(machines: readonly [Machine, Machine], techniques: Techniques, signal: AbortSignal): Promise<Pair> {
  const [a, b] = machines.map((machine) => new Guest(machine.localBus(), { e1000: driverFor('wall', techniques) })) as [Guest, Guest];
  await until(
    () => {
      for (const guest of [a, b]) guest.step();
      return a.nic.configuration.linkUp && b.nic.configuration.linkUp;
    },
    () => 'the links to come up',
    signal,
  );
  let ping = false;
  const shared = new SharedProcessor();
  const moved = (guest: Guest): number => (guest.workload?.framesSent ?? 0) + (guest.workload?.framesReceived ?? 0);
  const step = async (limit: number, so: () => boolean): Promise<boolean> => {
    let before = -1;
    for (let breath = performance.now() + BREATH; ; ) {
      for (let i = 0; i < STEPS; i++) {
        a.step();
        b.step();
      }
      if (so()) return true;
      const now = performance.now();
      if (now > limit) return false;
      const after = moved(a) + moved(b);
      if (after !== before) shared.begin(now * 1e6);
      else if (shared.inVain(now * 1e6)) Atomics.wait(SILENT, 0, 0, NAP);
      before = after;
      if (now < breath) continue;
      await new Promise((resolve) => setImmediate(resolve));
      signal.throwIfAborted();
      breath = performance.now() + BREATH;
      // What the event loop did was work.
      shared.begin((breath - BREATH) * 1e6);
    }
  };
  const received = (guest: Guest): number => guest.workload?.framesReceived ?? 0;
  return {
    arrived: () => received(ping ? a : b),
    start(first, second) {
      ping = first.kind === 'ping';
      b.start(second);
      a.start(first);
    },
    async run(milliseconds) {
      await step(performance.now() + milliseconds, () => false);
    },
    async finish(frames) {
      const sent = a.report();
      const drain = a.start({ kind: 'generate', count: 0 });
      const all = (): boolean => drain.done && (frames === 'lost' || received(b) === sent.framesSent);
      if (!(await step(performance.now() + PATIENCE, all)))
        throw new Error(`waited ${PATIENCE / 1000} s for ${sent.framesSent} frames, of which ${received(b)} arrived`);
      return [sent, b.report()];
    },
    async close() {
      for (const guest of [a, b]) guest.nic.shutDown();
    },
  };
}
