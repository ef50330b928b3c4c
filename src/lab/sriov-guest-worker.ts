// The thread that runs the experiment's guests in real time: all containers of a guest, and two guests, take turns on it. Nothing is measured by anybody else, so nothing of it takes an exit.

import { readFileSync } from 'node:fs';
import { parentPort, workerData } from 'node:worker_threads';
import { openGuestBus } from '#core/exit-channel';
import { NAP, SharedProcessor } from '#core/shared-processor';
import { type Container, ContainerGuest } from './container-guest.ts';
import { ContainerPairs, type Runner, type Usage } from './container-pairs.ts';
import type { FromSriovGuest, SriovGuestStart, ToSriovGuest } from './sriov-guest.ts';

/** Rounds without work before a guest that is alone on its thread halts, as guest threads have it. */
const IDLE_ROUNDS = 50;
const LONGEST_HALT = 5;
/** Rounds between two looks at the time. */
const ROUNDS = 8;
/** Milliseconds that so many rounds in vain can take: where it took longer, others had the processor. */
const LONGEST_LOOK = 0.1;

const start = workerData as SriovGuestStart;
const stopped = new Int32Array(start.stop);
/** To nap on: nobody rings. */
const silent = new Int32Array(new SharedArrayBuffer(4));
const port = parentPort;
if (!port) throw new Error('sriov-guest-worker runs as a worker thread only');
const tell = (message: FromSriovGuest): void => port.postMessage(message);

/** Nanoseconds a thread ran, on Linux (the first field of its schedstat); Node 20 has no call for it. */
function threadTime(thread: string): number | null {
  try {
    const ran = Number(readFileSync(`/proc/${thread}/schedstat`, 'latin1').split(' ')[0]);
    return Number.isFinite(ran) && ran > 0 ? ran : null;
  } catch {
    return null;
  }
}

function processTime(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) * 1000;
}

class ThreadRunner implements Runner {
  readonly patience = 20_000;
  readonly #guests: readonly ContainerGuest[];
  readonly #shared = new SharedProcessor();
  /** Nanoseconds that went into looking for work that was not there. */
  #inVain = 0;

  constructor(guests: readonly ContainerGuest[]) {
    this.#guests = guests;
  }

  /** Everybody once. True when any got anywhere. */
  #round(): boolean {
    let busy = false;
    for (let g = 0; g < this.#guests.length; g++) {
      const one = this.#guests[g] as ContainerGuest;
      const { bridge, containers } = one;
      const before = bridge === undefined ? 0 : bridge.arrived + bridge.forwarded;
      if (one.stepNic()) busy = true;
      for (let i = 0; i < containers.length; i++) if (one.step(containers[i] as Container)) busy = true;
      if (bridge === undefined) continue;
      if (bridge.step()) busy = true;
      this.#pretend(bridge.arrived + bridge.forwarded - before);
    }
    return busy;
  }

  /** The time that a kernel is said to take for so many frames on its bridge. */
  #pretend(frames: number): void {
    if (start.bridgeCost === 0 || frames === 0) return;
    const end = performance.now() + (frames * start.bridgeCost) / 1e6;
    while (performance.now() < end);
  }

  run(milliseconds: number, so?: () => boolean): boolean {
    let now = performance.now();
    const end = now + milliseconds;
    let idle = 0;
    for (;;) {
      let busy = false;
      for (let i = 0; i < ROUNDS; i++) if (this.#round()) busy = true;
      const before = now;
      now = performance.now();
      if (busy) {
        idle = 0;
        this.#shared.begin(now * 1e6);
      } else {
        this.#inVain += Math.min(now - before, LONGEST_LOOK) * 1e6;
        idle += ROUNDS;
        this.#rest(now, idle);
        now = performance.now();
      }
      if (so?.()) return true;
      if (now >= end) return false;
      if (Atomics.load(stopped, 0) !== 0) throw new Error('stopped');
      for (const { broken } of this.#guests) if (broken !== '') throw new Error(`a driver gave up: ${broken}`);
    }
  }

  /** Nobody had anything to do. One guest halts; two would have to wait for two bells, so they look on, and only let others have the processor. */
  #rest(now: number, rounds: number): void {
    if (this.#guests.length > 1) {
      if (this.#shared.inVain(now * 1e6)) Atomics.wait(silent, 0, 0, NAP);
    } else if (rounds > IDLE_ROUNDS) this.#guests[0]?.guest.bus.waitForInterrupt(LONGEST_HALT);
  }

  usage(): Usage {
    let exits = 0;
    let kicks = 0;
    let wakes = 0;
    for (const { guest } of this.#guests) {
      exits += guest.bus.counts.exits;
      kicks += guest.bus.counts.fastKicks;
      wakes += guest.bus.counts.fastKickWakes;
    }
    return { at: performance.now(), cpu: this.#cpu(), busy: [], exits, kicks, wakes };
  }

  /** The guests' is this thread's; the rest of the process is the thread that switches, which stands for the NIC on path (iii), the machines' thread, which serves exits, and the engine's own. */
  #cpu(): Usage['cpu'] {
    const ours = threadTime('thread-self');
    const machine = threadTime('self');
    if (ours === null || machine === null) return null;
    // Threads and process are not read at the very same moment.
    const rest = Math.max(0, processTime() - ours - machine);
    const guest = Math.max(0, ours - this.#inVain);
    return start.path === 'offload' ? { guest, host: machine, nic: rest } : { guest, host: machine + rest, nic: 0 };
  }
}

function failed(error: unknown): void {
  tell({ kind: 'failed', message: error instanceof Error ? error.message : String(error) });
}

try {
  const containers = start.buses.length === 1 ? 2 * start.pairs : start.pairs;
  const guests = start.buses.map((bus, number) => new ContainerGuest(openGuestBus(bus), { path: start.path, containers, number }));
  const pairs = new ContainerPairs(guests, new ThreadRunner(guests));
  pairs.meet();
  port.on('message', (request: ToSriovGuest) => {
    try {
      if (request === 'close') {
        for (const guest of guests) guest.shutDown();
        port.close();
      } else tell({ kind: 'measured', measured: pairs.measure(request) });
    } catch (error) {
      failed(error);
      if (request === 'close') port.close();
    }
  });
  tell({ kind: 'ready' });
} catch (error) {
  failed(error);
  port.close();
}
