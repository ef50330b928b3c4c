// The experiment's guest, on its own thread: brings up its NIC and, for the paths with virtual functions, one for each container; then measures. All containers take turns on this thread, as on a guest of
// one processor. Nothing is measured by anybody else, so nothing of it takes an exit.

import { readFileSync } from 'node:fs';
import { parentPort, workerData } from 'node:worker_threads';
import { openGuestBus } from '#core/exit-channel';
import { Bridge } from '#guest-sim/bridge';
import { Echo, Ping } from '#guest-sim/echo';
import { Generate } from '#guest-sim/generator';
import { Guest } from '#guest-sim/guest';
import { Histogram } from '#guest-sim/histogram';
import type { Nic } from '#guest-sim/nic';
import type { PciDevice } from '#guest-sim/pci-enumerate';
import { Sink } from '#guest-sim/sink';
import type { Workload } from '#guest-sim/workload';
import type { FromSriovGuest, MeasureRequest, SriovGuestStart } from './sriov-guest.ts';
import { type Cost, FCS, gigabits, LONGEST_REQUEST, type OffloadRow } from './sriov-offload.ts';

const RING = 256;
const ENDLESS = 2 ** 30;
/** Rounds without work before the guest halts, as guest threads have it. */
const IDLE_ROUNDS = 50;
const LONGEST_HALT = 5;
/** Rounds between two looks at the time. */
const ROUNDS = 8;
/** Milliseconds that what is under way may take to arrive. */
const PATIENCE = 20_000;
/** Milliseconds without a frame after which nothing is under way any more, before the first measurement. */
const QUIET = 50;
/** Nanoseconds an answer may take; a machine that has other things to do is not at fault. */
const ANSWER = 10e9;
/** Of the first requests, which a switch that is still coming up loses. */
const FIRST_ANSWER = 50e6;

const start = workerData as SriovGuestStart;
const stopped = new Int32Array(start.stop);
const port = parentPort;
if (!port) throw new Error('sriov-guest-worker runs as a worker thread only');
const tell = (message: FromSriovGuest): void => port.postMessage(message);

interface Container {
  readonly nic: Nic;
  workload: Workload;
}

interface Costs {
  readonly at: number;
  readonly frames: number;
  /** Nanoseconds of this thread's CPU time; null where the system does not say. */
  readonly guest: number | null;
  readonly machine: number | null;
  readonly process: number;
  readonly exits: number;
  readonly interrupts: number;
  readonly kicks: number;
  readonly wakes: number;
}

/** Nanoseconds a thread ran, on Linux (the first field of its schedstat); Node 20 has no call for it. */
function threadTime(thread: string): number | null {
  try {
    const ran = Number(readFileSync(`/proc/${thread}/schedstat`, 'latin1').split(' ')[0]);
    return Number.isFinite(ran) && ran > 0 ? ran : null;
  } catch {
    return null;
  }
}

function cpuOf(before: Costs, after: Costs, frames: number): Cost | null {
  if (before.guest === null || after.guest === null || before.machine === null || after.machine === null) return null;
  const guest = after.guest - before.guest;
  const exits = after.machine - before.machine;
  // Threads and process are not read at the very same moment.
  const rest = Math.max(0, after.process - before.process - guest - exits);
  return { guest: guest / frames, exits: exits / frames, switching: rest / frames };
}

function processTime(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) * 1000;
}

class ContainerGuest {
  readonly #guest: Guest;
  readonly #bridge: Bridge | undefined;
  readonly #containers: readonly Container[];
  /** By pair. */
  readonly #senders: readonly Container[];
  readonly #receivers: readonly Container[];

  constructor({ bus, path, pairs }: SriovGuestStart) {
    const options = { queueSize: RING, interrupts: 'shared' } as const;
    this.#guest = new Guest(openGuestBus(bus), { net: { ...options, sriov: path !== 'bridge', promiscuous: path === 'bridge' }, vectors: 'shared' });
    const { arena } = this.#guest;
    const idle = (): Workload => new Sink({ kind: 'sink', verify: 'none' });
    if (path === 'bridge') {
      const macs = Array.from({ length: 2 * pairs }, (_, i) => Uint8Array.of(0x52, 0x54, 0, 0xbb, i >> 8, i & 0xff));
      this.#bridge = new Bridge(arena, this.#guest.nic, macs, RING);
      this.#guest.tap = this.#bridge;
      this.#containers = this.#bridge.ports.map((nic) => ({ nic, workload: idle() }));
    } else {
      const pf = this.#guest.tree.devices.find((device) => device.sriov !== undefined) as PciDevice;
      const functions = this.#guest.enableVirtualFunctions(pf, 2 * pairs);
      if (functions.length !== 2 * pairs) throw new Error(`${functions.length} of ${2 * pairs} virtual functions answer`);
      this.#containers = functions.map((device) => ({ nic: this.#guest.openNet(device, options), workload: idle() }));
    }
    this.#senders = this.#containers.filter((_, i) => i % 2 === 0);
    this.#receivers = this.#containers.filter((_, i) => i % 2 === 1);
  }

  /** Everybody once. True when any got anywhere. */
  #round(): boolean {
    let busy = this.#guest.step();
    const { bus } = this.#guest;
    for (let i = 0; i < this.#containers.length; i++) {
      const container = this.#containers[i] as Container;
      if (container.nic.poll(container.workload)) busy = true;
      if (!container.workload.done && container.workload.step(container.nic, bus)) busy = true;
    }
    if (this.#bridge && this.#bridged(this.#bridge)) busy = true;
    return busy;
  }

  /** The bridge's turn, and the time that a kernel is said to take for what it did. */
  #bridged(bridge: Bridge): boolean {
    if (start.bridgeCost === 0) return bridge.step();
    const before = bridge.forwarded;
    const moved = bridge.step();
    const end = performance.now() + ((bridge.forwarded - before) * start.bridgeCost) / 1e6;
    while (performance.now() < end);
    return moved;
  }

  /** Runs until it is so, or for so many milliseconds. False: it was never so. @throws Error when a driver gave up, or the experiment is to end */
  #run(milliseconds: number, so?: () => boolean): boolean {
    const end = performance.now() + milliseconds;
    let idle = 0;
    for (;;) {
      for (let i = 0; i < ROUNDS; i++) {
        if (this.#round()) idle = 0;
        else if (++idle > IDLE_ROUNDS) this.#guest.bus.waitForInterrupt(LONGEST_HALT);
      }
      if (so?.()) return true;
      if (performance.now() >= end) return false;
      if (Atomics.load(stopped, 0) !== 0) throw new Error('stopped');
      for (const { nic } of this.#containers) if (nic.broken !== '') throw new Error(`a driver gave up: ${nic.broken}`);
    }
  }

  #received(containers: readonly Container[]): number {
    let frames = 0;
    for (const { workload } of containers) frames += workload.framesReceived;
    return frames;
  }

  /** The switch may not be up yet, and has to learn who is where: asks until everybody has an answer, and lets what came late go by. @throws Error */
  meet(): void {
    this.#serve();
    const pings = this.#ask(60, FIRST_ANSWER);
    if (!this.#run(PATIENCE, () => pings.every((ping) => ping.framesReceived > 0)))
      throw new Error(`${pings.filter((ping) => ping.framesReceived === 0).length} of ${pings.length} pairs had no answer within ${PATIENCE / 1000} s`);
    for (const sender of this.#senders) sender.workload = new Sink({ kind: 'sink', verify: 'none' });
    let before: number;
    do {
      before = this.#received(this.#containers);
      this.#run(QUIET);
    } while (this.#received(this.#containers) !== before);
  }

  #serve(): void {
    const { arena } = this.#guest;
    for (const receiver of this.#receivers) receiver.workload = new Echo({ kind: 'echo' }, arena, receiver.nic);
  }

  #ask(size: number, patience: number): Ping[] {
    const receivers = this.#receivers;
    return this.#senders.map((sender, i) => {
      const destination = [...(receivers[i] as Container).nic.configuration.mac];
      const ping = new Ping({ kind: 'ping', count: ENDLESS, size, destination, patience }, this.#guest.arena, () => this.#guest.bus.now());
      sender.workload = ping;
      return ping;
    });
  }

  #costs(): Costs {
    const { counts } = this.#guest.bus;
    let interrupts = this.#guest.nic.interrupts;
    for (const { nic } of this.#containers) interrupts += nic.interrupts;
    return {
      at: performance.now(),
      frames: this.#received(this.#receivers),
      guest: threadTime('thread-self'),
      // A process's first thread has its number, and is the machine's.
      machine: threadTime(`self/task/${process.pid}`),
      process: processTime(),
      exits: counts.exits,
      interrupts,
      kicks: counts.fastKicks,
      wakes: counts.fastKickWakes,
    };
  }

  /** @throws Error for frames that do not arrive */
  measure({ size, seconds, warmUp }: MeasureRequest): OffloadRow {
    const errors: string[] = [];
    const lost = this.#bridge?.lost ?? 0;
    const { before, after } = this.#stream(size - FCS, seconds, warmUp, errors);
    const roundTrip = size - FCS <= LONGEST_REQUEST ? this.#roundTrips(size - FCS, seconds, warmUp, errors) : null;
    if (this.#bridge && this.#bridge.lost !== lost) errors.push(`the bridge lost ${this.#bridge.lost - lost} frames`);
    const frames = after.frames - before.frames;
    const took = (after.at - before.at) / 1000;
    const each = (cost: number): number => cost / Math.max(frames, 1);
    if (frames === 0) errors.push('nothing arrived');
    return {
      path: start.path,
      size,
      pairs: start.pairs,
      frames,
      seconds: took,
      framesPerSecond: frames / took,
      gigabitsPerSecond: gigabits(frames / took, size),
      cpu: cpuOf(before, after, Math.max(frames, 1)),
      exitsPerFrame: each(after.exits - before.exits),
      interruptsPerFrame: each(after.interrupts - before.interrupts),
      kicksPerFrame: each(after.kicks - before.kicks),
      wakesPerFrame: each(after.wakes - before.wakes),
      roundTrip,
      errors,
    };
  }

  /** Every sender as fast as it can; then all that left has to arrive. */
  #stream(size: number, seconds: number, warmUp: number, errors: string[]): { readonly before: Costs; readonly after: Costs } {
    const { arena } = this.#guest;
    const receivers = this.#receivers;
    const senders = this.#senders;
    const sinks = receivers.map((receiver) => {
      const sink = new Sink({ kind: 'sink', verify: 'sampled' });
      receiver.workload = sink;
      return sink;
    });
    const sources = senders.map((sender, i) => {
      const destination = [...(receivers[i] as Container).nic.configuration.mac];
      const source = new Generate({ kind: 'generate', count: ENDLESS, sizes: [size], destination, checksumOffload: true }, arena);
      sender.workload = source;
      return source;
    });
    this.#run(warmUp * 1000);
    const before = this.#costs();
    this.#run(seconds * 1000);
    const after = this.#costs();
    for (const sender of senders) sender.workload = new Generate({ kind: 'generate', count: 0 }, arena);
    const arrived = (): boolean => senders.every(({ workload }) => workload.done) && sinks.every((sink, i) => sink.framesReceived === sources[i]?.framesSent);
    if (!this.#run(PATIENCE, arrived)) {
      const sent = sources.reduce((sum, source) => sum + source.framesSent, 0);
      throw new Error(`waited ${PATIENCE / 1000} s for ${sent} frames, of which ${this.#received(receivers)} arrived`);
    }
    for (const workload of [...sources, ...sinks]) {
      const { errors: wrong, details } = workload.result();
      errors.push(...wrong);
      if ((details.lost ?? 0) > 0) errors.push(`${details.lost} frames are missing`);
      if ((details.unmarked ?? 0) > 0) errors.push(`${details.unmarked} frames came that nobody sent`);
    }
    return { before, after };
  }

  /** One request at a time in each pair; the last answers have to come as well. */
  #roundTrips(size: number, seconds: number, warmUp: number, errors: string[]): OffloadRow['roundTrip'] {
    this.#serve();
    this.#settle(this.#ask(size, ANSWER), warmUp, errors);
    const pings = this.#ask(size, ANSWER);
    this.#settle(pings, seconds, errors);
    const all = new Histogram();
    for (const ping of pings) all.merge(ping.roundTrips);
    return { p50: all.quantile(0.5), p99: all.quantile(0.99), count: all.count };
  }

  #settle(pings: readonly Ping[], seconds: number, errors: string[]): void {
    this.#run(seconds * 1000);
    // Each has one request out, which somebody else now waits for: a request that was answered is followed by the next.
    const last = this.#senders.map((sender) => {
      const sink = new Sink({ kind: 'sink', verify: 'none' });
      sender.workload = sink;
      return sink;
    });
    const out = pings.map((ping) => ping.framesSent - ping.framesReceived);
    if (!this.#run(PATIENCE, () => last.every((sink, i) => sink.framesReceived === out[i])))
      throw new Error(`waited ${PATIENCE / 1000} s for ${out.reduce((a, b) => a + b, 0)} answers, of which ${this.#received(this.#senders)} arrived`);
    for (const ping of pings) errors.push(...ping.result().errors);
    for (const { workload } of this.#receivers) if ((workload.result().details.refused ?? 0) > 0) errors.push('requests found no room for an answer');
  }

  shutDown(): void {
    for (const { nic } of this.#containers) nic.shutDown();
    this.#guest.nic.shutDown();
  }
}

function failed(error: unknown): void {
  tell({ kind: 'failed', message: error instanceof Error ? error.message : String(error) });
}

try {
  const guest = new ContainerGuest(start);
  guest.meet();
  port.on('message', (request: MeasureRequest | 'close') => {
    try {
      if (request === 'close') {
        guest.shutDown();
        port.close();
      } else tell({ kind: 'measured', row: guest.measure(request) });
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
