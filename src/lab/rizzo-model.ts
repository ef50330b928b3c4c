// The experiment in simulated time, on one thread, the same numbers every time: real drivers and devices, but what exits, interrupts, wakes and copies take is declared. Two guests and a
// host are actors with a time of their own each, and whoever is furthest behind goes on; what an actor does costs it time, and the slowest bounds what goes through.

import { type Nanos, SimClock } from '#core/clock';
import { Guest } from '#guest-sim/guest';
import { DirectLink } from '#net/direct-link';
import type { NetPort, PortHost } from '#net/port';
import { Segment, type ServiceBudget } from '#net/segment';
import { ValeSwitch } from '#net/vale-switch';
import { Machine } from '#nicbox/machine';
import { driverFor, FRAME_BY_FRAME, jobOf, type Load, MAC_A, MAC_B, type Measurement, type Techniques } from './rizzo.ts';

/** Nanoseconds each. */
export interface ModelCosts {
  /** An access that leaves the guest, without what it makes the device do. */
  readonly exit: number;
  /** Delivering an interrupt, to the guest. */
  readonly interrupt: number;
  /** From telling a sleeper until it runs; and what telling costs the teller. */
  readonly wake: number;
  readonly notify: number;
  /** The backend's part: a turn of it, a frame, a byte copied. */
  readonly turn: number;
  readonly copyFrame: number;
  readonly copyByte: number;
  /** A guest's own work on a frame, to send or to take it. */
  readonly guestFrame: number;
  /** A look that finds nothing. */
  readonly poll: number;
}

/**
 * Published: an exit to a user-space VMM (3.7 us on 2013's machines, up to 10 with its emulation). Measured on a 2-vCPU cloud machine: waking. The others are assumptions of about the
 * right size; options change each.
 */
export const DEFAULT_COSTS: ModelCosts = {
  exit: 3700,
  interrupt: 2000,
  wake: 23_000,
  notify: 7400,
  turn: 1000,
  copyFrame: 50,
  copyByte: 0.05,
  guestFrame: 150,
  poll: 50,
};

const IDLE_GUEST = 20;
/** Empty looks of the worker before it sleeps: 50 us, as a vhost pool's. */
const IDLE_HOST = 1000;
const FRAMES = 6000;
const PINGS = 200;
/** Simulated time after which a measurement counts as stuck. */
const PATIENCE: Nanos = 60e9;
const NEGOTIATION = 1000;

interface Actor {
  time: Nanos;
  asleep: boolean;
  step(): void;
}

/** Serves the segment: inside the exit that asks for it or, with a shared block, as a worker that looks for work and sleeps. */
class ModelHost implements PortHost, Actor {
  time: Nanos = 0;
  asleep = true;
  wakes = 0;
  /** What was done inside somebody's exit, to be charged to him. */
  owed = 0;
  readonly #segment: Segment;
  readonly #budget: ServiceBudget | undefined;
  readonly #worker: boolean;
  readonly #clock: SimClock;
  readonly #costs: ModelCosts;
  readonly #members = new Map<NetPort, number>();
  #serving = false;
  #again = false;
  #idle = 0;
  #moved = 0;
  #bytes = 0;

  constructor(techniques: Techniques, clock: SimClock, costs: ModelCosts) {
    this.#segment = new Segment(techniques.vale ? new ValeSwitch({ clock }) : new DirectLink(), { clock, idleRounds: 1 });
    this.#budget = techniques.vale ? undefined : FRAME_BY_FRAME;
    this.#worker = techniques.csb;
    this.#clock = clock;
    this.#costs = costs;
  }

  addPort(port: NetPort): void {
    this.#members.set(port, this.#segment.addPort(port));
  }

  removePort(port: NetPort): void {
    const index = this.#members.get(port);
    if (index !== undefined) this.#segment.removePort(index);
    this.#members.delete(port);
  }

  wake(port: NetPort): void {
    this.#segment.wake(this.#members.get(port) as number);
    if (!this.#worker) {
      this.#again = true;
      if (this.#serving) return;
      this.#serving = true;
      for (let left = true; left; ) {
        this.#again = false;
        left = this.#turn() || this.#segment.rest() || this.#again;
      }
      this.#serving = false;
    } else if (this.asleep) {
      this.asleep = false;
      this.#idle = 0;
      this.wakes++;
      this.owed += this.#costs.notify;
      this.time = this.#clock.now() + this.#costs.wake;
    }
  }

  step(): void {
    if (this.#turn()) {
      this.#idle = 0;
      this.time += this.owed;
      this.owed = 0;
      return;
    }
    for (const index of this.#members.values()) this.#segment.wake(index);
    this.time += this.#costs.poll;
    if (++this.#idle > IDLE_HOST && !this.#segment.rest()) this.asleep = true;
  }

  #turn(): boolean {
    const worked = this.#segment.service(this.#budget);
    let frames = 0;
    let bytes = 0;
    for (const port of this.#members.keys()) {
      const { receiveFrames, receiveBytes } = port.counters.snapshot();
      frames += receiveFrames;
      bytes += receiveBytes;
    }
    const { turn, copyFrame, copyByte } = this.#costs;
    if (worked) this.owed += turn + (frames - this.#moved) * copyFrame + (bytes - this.#bytes) * copyByte;
    this.#moved = frames;
    this.#bytes = bytes;
    return worked;
  }
}

class ModelGuest implements Actor {
  time: Nanos = 0;
  asleep = false;
  wakes = 0;
  readonly guest: Guest;
  readonly #host: ModelHost;
  readonly #costs: ModelCosts;
  #idle = 0;

  constructor(guest: Guest, host: ModelHost, costs: ModelCosts) {
    this.guest = guest;
    this.#host = host;
    this.#costs = costs;
  }

  get interrupted(): boolean {
    const { lines, vectors } = this.guest.bus;
    return vectors.any || lines.any;
  }

  step(): void {
    const { bus, nic } = this.guest;
    const [exits, interrupts, frames] = [bus.counts.exits, nic.interrupts, this.#frames];
    const busy = this.guest.step();
    const { exit, interrupt, guestFrame, poll } = this.#costs;
    const spent =
      (bus.counts.exits - exits) * exit +
      (nic.interrupts - interrupts) * interrupt +
      (this.#frames - frames) * guestFrame +
      this.#host.owed +
      (busy ? 0 : poll);
    this.#host.owed = 0;
    this.time += Math.max(spent, 1);
    this.#idle = busy ? 0 : this.#idle + 1;
    if (this.#idle > IDLE_GUEST && !this.interrupted) this.asleep = true;
  }

  get #frames(): number {
    const { workload } = this.guest;
    return workload ? workload.framesSent + workload.framesReceived : 0;
  }

  wakeUp(now: Nanos): void {
    this.asleep = false;
    this.#idle = 0;
    this.wakes++;
    this.time = Math.max(this.time, now + this.#costs.wake);
  }
}

/** @throws Error when a measurement does not come to its end, which is ours */
export async function measureModel(techniques: Techniques, load: Load, costs: ModelCosts): Promise<Measurement> {
  const clock = new SimClock();
  const host = new ModelHost(techniques, clock, costs);
  const machines: Machine[] = [];
  try {
    const guests = [MAC_A, MAC_B].map((mac, i) => {
      const machine = new Machine({ name: `guest ${i}`, memory: 64 * 2 ** 20, clock });
      machines.push(machine);
      machine.addE1000({
        mac: mac.map((byte) => byte.toString(16).padStart(2, '0')).join(':'),
        segment: host,
        negotiation: NEGOTIATION,
        sharedBlock: techniques.csb,
      });
      return new ModelGuest(new Guest(machine.localBus(), { e1000: driverFor('model', techniques) }), host, costs);
    }) as [ModelGuest, ModelGuest];
    const [a, b] = guests;
    const run = (until: () => boolean): void => advance(clock, [a, b, host], guests, until);
    run(() => a.guest.nic.configuration.linkUp && b.guest.nic.configuration.linkUp);
    const ping = load.burst === 0;
    const count = ping ? PINGS : FRAMES;
    const taker = b.guest.start(ping ? { kind: 'echo' } : { kind: 'sink', count, verify: 'sequence' });
    const sender = a.guest.start(jobOf(load, count, MAC_B));
    const started = clock.now();
    const wakesBefore = a.wakes + b.wakes + host.wakes;
    run(() => (ping ? sender.done : taker.done));
    const [sent, received] = [a.guest.report(), b.guest.report()];
    const seconds = (clock.now() - started) / 1e9;
    const both = (pick: (r: typeof sent) => number): number => (pick(sent) + pick(received)) / count;
    return {
      mode: 'model',
      techniques,
      load,
      frames: count,
      seconds,
      framesPerSecond: count / seconds,
      exitsPerFrame: both((r) => r.exits),
      interruptsPerFrame: both((r) => r.interrupts),
      wakesPerFrame: (a.wakes + b.wakes + host.wakes - wakesBefore) / count,
      p50: sent.details.p50 ?? 0,
      p99: sent.details.p99 ?? 0,
      errors: [...sent.errors, ...received.errors],
    };
  } finally {
    for (const machine of machines) await machine.close();
  }
}

/** Whoever is furthest behind goes on; when all sleep, time goes on to the next timer. */
function advance(clock: SimClock, actors: readonly Actor[], guests: readonly ModelGuest[], until: () => boolean): void {
  const limit = clock.now() + PATIENCE;
  while (!until()) {
    for (const guest of guests) if (guest.asleep && guest.interrupted) guest.wakeUp(clock.now());
    let next: Actor | undefined;
    for (const actor of actors) if (!actor.asleep && (next === undefined || actor.time < next.time)) next = actor;
    const due = clock.nextDeadline;
    // A timer may wake somebody: he is looked at before who comes after it.
    if (due !== undefined && (next === undefined || due <= next.time)) {
      clock.advanceTo(Math.max(due, clock.now()));
      continue;
    }
    if (next === undefined || clock.now() > limit) throw new Error('the simulation is stuck: everybody sleeps, or nothing arrives');
    if (next.time > clock.now()) clock.advanceTo(next.time);
    else next.time = clock.now();
    next.step();
  }
}
