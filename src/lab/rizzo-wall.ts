// The experiment in real time: each guest on a thread of its own, exits served by this one, and with a shared block the rings by a worker's. Exits and wakes are real ones.

import { InlineSegment } from '#backends/inline-backend';
import { VhostPool } from '#backends/vhost-pool';
import { GuestThread } from '#guest-sim/guest-thread';
import { DirectLink } from '#net/direct-link';
import { Segment } from '#net/segment';
import { ValeSwitch } from '#net/vale-switch';
import { Machine } from '#nicbox/machine';
import { driverFor, FRAME_BY_FRAME, jobOf, type Load, MAC_A, MAC_B, type Measurement, type Techniques } from './rizzo.ts';

const NEGOTIATION = 1000;
/** Of each measurement's time, before it: code is compiled and addresses learnt. */
const WARM_UP = 0.5;
const DRAIN_MS = 60;
const PINGS_PER_SECOND = 4000;
/** A guest stopped in the middle of a count that it never gets to. */
const ENDLESS = 2 ** 30;

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** All loads with one set of techniques. @throws AbortError after `signal`; what a guest's thread throws */
export async function measureWall(techniques: Techniques, loads: readonly Load[], seconds: number, signal: AbortSignal): Promise<Measurement[]> {
  const { csb, vale } = techniques;
  const budget = vale ? undefined : FRAME_BY_FRAME;
  const pool = csb ? new VhostPool() : undefined;
  const worker = pool?.worker();
  const segment =
    worker?.segment({ kind: vale ? 'vale' : 'link', ...(budget && { budget }) }) ??
    new InlineSegment(new Segment(vale ? new ValeSwitch() : new DirectLink()), { ...(budget && { budget, rounds: 2048 }) });
  const machines: Machine[] = [];
  const guests: GuestThread[] = [];
  try {
    for (const [i, mac] of [MAC_A, MAC_B].entries()) {
      const machine = new Machine({ name: `guest ${i}`, memory: 64 * 2 ** 20 });
      machines.push(machine);
      machine.addE1000({
        mac: mac.map((byte) => byte.toString(16).padStart(2, '0')).join(':'),
        segment,
        negotiation: NEGOTIATION,
        sharedBlock: csb,
      });
      guests.push(await GuestThread.start(machine.threadBus().share, { e1000: driverFor(techniques) }));
    }
    const [a, b] = guests as [GuestThread, GuestThread];
    const results: Measurement[] = [];
    for (const load of loads) {
      await runLoad(a, b, load, seconds * WARM_UP, signal);
      const slept = worker?.statistics.sleeps ?? 0;
      const [sent, received] = await runLoad(a, b, load, seconds, signal);
      const frames = load.burst === 0 ? sent.framesReceived : received.framesReceived;
      const count = Math.max(frames, 1);
      const errors = [...sent.errors, ...received.errors];
      if (frames === 0) errors.push('nothing arrived');
      results.push({
        mode: 'wall',
        techniques,
        load,
        frames,
        seconds: sent.seconds,
        framesPerSecond: frames / sent.seconds,
        exitsPerFrame: (sent.exits + received.exits) / count,
        interruptsPerFrame: (sent.interrupts + received.interrupts) / count,
        wakesPerFrame: (sent.wakes + received.wakes + (worker?.statistics.sleeps ?? 0) - slept) / count,
        p50: sent.details.p50 ?? 0,
        p99: sent.details.p99 ?? 0,
        errors,
      });
    }
    return results;
  } finally {
    await Promise.allSettled(guests.map((guest) => guest.close()));
    await Promise.allSettled(machines.map((machine) => machine.close()));
    await pool?.close();
  }
}

async function runLoad(a: GuestThread, b: GuestThread, load: Load, seconds: number, signal: AbortSignal) {
  signal.throwIfAborted();
  const ping = load.burst === 0;
  const receiving = b.run(ping ? { kind: 'echo' } : { kind: 'sink', verify: 'none' });
  const sending = a.run(jobOf(load, ping ? Math.ceil(PINGS_PER_SECOND * seconds) : ENDLESS, MAC_B));
  const stop = (): void => a.stop();
  signal.addEventListener('abort', stop);
  const timer = setTimeout(stop, seconds * 1000);
  try {
    const sent = await sending;
    // What is on its way still counts.
    await pause(DRAIN_MS);
    b.stop();
    const received = await receiving;
    signal.throwIfAborted();
    return [sent, received] as const;
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', stop);
  }
}
