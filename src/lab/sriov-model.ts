// The SR-IOV experiment in simulated time, on one thread, the same numbers every time: real drivers, rings and switches, but what each step takes is declared (sriov-costs.ts). Whoever is furthest behind goes on.

import { InlineSegment } from '#backends/inline-backend';
import { SimClock } from '#core/clock';
import { LearningSwitch } from '#net/learning-switch';
import { Segment } from '#net/segment';
import { ValeSwitch } from '#net/vale-switch';
import type { Machine } from '#nicbox/machine';
import { ContainerGuest, RING } from './container-guest.ts';
import { ContainerPairs, type Runner, type Usage } from './container-pairs.ts';
import { type Actor, GuestProcessor, HOST_BUDGET, HostProcessor, MeteredForwarding, NIC_BUDGET, NicPipeline, type Switching } from './sriov-actors.ts';
import type { OffloadCosts } from './sriov-costs.ts';
import { containersOf, embeddedSwitch, machinesFor, type Placement } from './sriov-machines.ts';
import type { Measured, SoftwareSwitch } from './sriov-offload.ts';

/** Simulated, of a stream at most, and of what goes before one; round trips take less. */
const SECONDS = 0.25;
const ROUND_TRIPS = 0.01;
/** A stream is as long as it takes every ring to go round so often, or this many buffers in all. */
const LAPS = 4;
const LEAST = 8192;
const BUFFER = 2048;
/** When nobody has anything to do, processors look around so often, as for timers of theirs. */
const TICK = 1e6;
/** Turns between two looks whether it is so. */
const TURNS = 16;

export interface ModelOptions extends Placement {
  readonly vcpus: number;
  readonly software: SoftwareSwitch;
  readonly sizes: readonly number[];
  readonly costs: OffloadCosts;
  readonly signal: AbortSignal;
}

/** All sizes on one path with so many pairs. @throws AbortError after `signal`; Error for frames that do not arrive, which is ours */
export async function measureModel(options: ModelOptions): Promise<Measured[]> {
  const { path, software, sizes, costs, signal } = options;
  const clock = new SimClock();
  const nic = path === 'offload' ? embeddedSwitch(options, clock) : undefined;
  const forwarding = new MeteredForwarding(nic?.forwarding() ?? (software === 'vale' ? new ValeSwitch({ clock }) : new LearningSwitch({ clock })));
  // A paused segment only takes note of who rang: it is served when its actor's turn comes.
  const segment = new InlineSegment(new Segment(forwarding, { clock, idleRounds: 1 }), { paused: true, budget: nic ? NIC_BUDGET : HOST_BUDGET });
  const switching = nic ? new NicPipeline(segment.server, forwarding, costs) : new HostProcessor(segment.server, forwarding, costs);
  const machines = machinesFor(options, { nic, backend: (name) => segment.port(name), clock });
  try {
    const guests = machines.map(
      (machine, number) => new ContainerGuest(machine.localBus(), { path, containers: containersOf(options), number, delay: (time) => clock.advance(time) }),
    );
    const pairs = new ContainerPairs(guests, new SimulatedRunner(clock, guests, switching, options));
    pairs.meet();
    const rows: Measured[] = [];
    for (const size of sizes) {
      // Lets a Ctrl-C be heard.
      await new Promise((resolve) => setImmediate(resolve));
      signal.throwIfAborted();
      const buffers = Math.ceil(size / BUFFER);
      const frames = Math.max(LEAST / buffers, LAPS * options.pairs * Math.floor(RING / buffers));
      rows.push(pairs.measure({ size, frames, seconds: SECONDS, warmUp: SECONDS, roundTrips: ROUND_TRIPS }));
    }
    for (const guest of guests) guest.shutDown();
    return rows;
  } finally {
    await close(machines);
  }
}

async function close(machines: readonly Machine[]): Promise<void> {
  for (const machine of machines) await machine.close();
}

class SimulatedRunner implements Runner {
  readonly patience = 20_000;
  readonly #clock: SimClock;
  readonly #guests: readonly ContainerGuest[];
  /** By guest. */
  readonly #processors: readonly (readonly GuestProcessor[])[];
  readonly #switching: Switching;
  readonly #actors: readonly Actor[];
  readonly #wakeTime: number;

  constructor(clock: SimClock, guests: readonly ContainerGuest[], switching: Switching, { guests: number, vcpus, costs }: ModelOptions) {
    this.#clock = clock;
    this.#guests = guests;
    this.#switching = switching;
    this.#wakeTime = costs.wake;
    this.#processors = guests.map((guest, g) => {
      const name = number === 1 ? 'guest' : g === 0 ? 'sending guest' : 'receiving guest';
      // Both containers of a pair are on one processor.
      const pairOf = (container: number): number => (number === 1 ? container >> 1 : container);
      return Array.from({ length: vcpus }, (_, i) => {
        const ours = guest.containers.filter((container) => pairOf(container.number) % vcpus === i);
        return new GuestProcessor(vcpus === 1 ? name : `${name}'s #${i}`, guest, i === 0, ours, switching, costs);
      });
    });
    this.#actors = [...this.#processors.flat(), switching];
  }

  run(milliseconds: number, so?: () => boolean): boolean {
    const clock = this.#clock;
    const end = clock.now() + milliseconds * 1e6;
    this.#rouse();
    for (let turn = 0; ; turn++) {
      if (turn % TURNS === 0 && so?.()) return true;
      this.#interrupt();
      const next = this.#next();
      const due = Math.min(clock.nextDeadline ?? Infinity, next?.time ?? clock.now() + TICK);
      if (due >= end) break;
      if (due > clock.now()) clock.advanceTo(due);
      if (next === undefined) this.#rouse();
      else if (next.time <= clock.now()) {
        next.time = clock.now();
        next.step();
      }
    }
    clock.advanceTo(end);
    for (const { broken } of this.#guests) if (broken !== '') throw new Error(`a driver gave up: ${broken}`);
    return so?.() ?? false;
  }

  /** Whoever is furthest behind of those who are awake. */
  #next(): Actor | undefined {
    let next: Actor | undefined;
    for (const actor of this.#actors) if (!actor.asleep && (next === undefined || actor.time < next.time)) next = actor;
    return next;
  }

  /** Handlers run at once; what that costs is charged to whose devices they are, and wakes them. */
  #interrupt(): void {
    for (let g = 0; g < this.#guests.length; g++) {
      (this.#guests[g] as ContainerGuest).guest.takeInterrupts();
      for (const processor of this.#processors[g] as readonly GuestProcessor[])
        if (processor.asleep && (processor.interrupted || processor.called)) this.#wake(processor);
    }
  }

  #wake(processor: GuestProcessor): void {
    processor.asleep = false;
    processor.time = this.#clock.now() + this.#wakeTime;
  }

  /** Everybody looks around: there may be something new to do. */
  #rouse(): void {
    for (const processors of this.#processors)
      for (const processor of processors)
        if (processor.asleep) {
          processor.asleep = false;
          processor.time = this.#clock.now();
        }
  }

  usage(): Usage {
    let exits = 0;
    let kicks = 0;
    for (const { guest, containers } of this.#guests) {
      exits += guest.bus.counts.exits;
      kicks += guest.nic.kicks;
      for (const { nic } of containers) kicks += nic.kicks;
    }
    const guest = this.#processors.flat().reduce((sum, { spent }) => sum + spent, 0);
    const { name, spent, wakes } = this.#switching;
    return {
      at: this.#clock.now() / 1e6,
      cpu: { guest, host: name === 'host' ? spent : 0, nic: name === 'NIC' ? spent : 0 },
      busy: this.#actors.map((actor) => ({ who: actor.name, time: actor.spent })),
      // A guest on the machine's own thread rings no doorbell but by an access.
      exits: exits - kicks,
      kicks,
      wakes,
    };
  }
}
