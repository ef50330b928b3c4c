// A whole guest: enumerates its machine, brings its network device up, and runs workloads on it, one non-blocking `step` at a time. The same class runs
// on the machine's thread (a test, the inline backend) and inside a guest's own thread (guest-thread.ts).

import type { GuestBus } from '#core/guest-bus';
import { GuestArena } from './arena.ts';
import { Compare } from './compare.ts';
import { E1000, isE1000 } from './e1000.ts';
import type { E1000Options } from './e1000-options.ts';
import { Echo, Ping } from './echo.ts';
import { Generate } from './generator.ts';
import { Igb, isIgb } from './igb.ts';
import type { IgbOptions, IgbvfOptions } from './igb-options.ts';
import { Igbvf } from './igbvf.ts';
import { Mesh } from './mesh.ts';
import { VectorSpace } from './msix.ts';
import type { VirtioNetOptions } from './net-options.ts';
import type { FrameSink } from './net-receive.ts';
import type { Nic } from './nic.ts';
import { type ConfigAccess, EcamAccess, PortAccess } from './pci-config.ts';
import { enumeratePci, type PciDevice, type PciTree } from './pci-enumerate.ts';
import { type Delay, enableVirtualFunctions, sleepOn } from './pci-sriov.ts';
import { Replay } from './replay.ts';
import { Sink } from './sink.ts';
import { Spread } from './spread.ts';
import { isVirtioNet, VirtioNet } from './virtio-net.ts';
import type { Job, Workload, WorkloadResult } from './workload.ts';

/** How a guest is set up. Plain cloneable data. */
export interface GuestOptions {
  /** Of a guest that was assigned a virtual function: it is a virtio-net's, driven so. */
  readonly net?: VirtioNetOptions;
  /** Drive an e1000 so, in place of a virtio-net. */
  readonly e1000?: E1000Options;
  /** Drive an 82576's physical function so. */
  readonly igb?: IgbOptions;
  /** Of a guest that was assigned a virtual function of an 82576: drive it so. */
  readonly igbvf?: IgbvfOptions;
  /** Which of the functions of that kind to drive, in order of discovery. Default 0. */
  readonly device?: number;
  /** How configuration space is reached. Default 'ecam'. */
  readonly config?: 'ecam' | 'ports';
  /** 'shared': functions may share vectors when the processor has no more. Default 'exclusive': a driver makes do with fewer. */
  readonly vectors?: 'exclusive' | 'shared';
}

/** A virtual function of a host's that a guest on the same thread is given, with memory of its own; interrupts are taken by whichever of them steps next. */
export interface AssignedFunction {
  readonly host: Guest;
  readonly device: PciDevice;
  readonly arena: GuestArena;
  /** Lets time pass, and the host's driver answer. */
  readonly delay: Delay;
}

/** A job's result with what it cost. */
export interface GuestReport extends WorkloadResult {
  readonly seconds: number;
  readonly framesPerSecond: number;
  readonly bytesPerSecond: number;
  /** Notifications the driver sent; how many went without an exit; how many woke a sleeping data plane. */
  readonly kicks: number;
  readonly fastKicks: number;
  readonly fastKickWakes: number;
  /** Accesses the machine's thread served. */
  readonly exits: number;
  readonly interrupts: number;
  /** Times this guest slept. */
  readonly wakes: number;
  /** Frames whose header the driver did not believe. */
  readonly malformed: number;
  /** Why the driver gave its device up; '' when it did not. */
  readonly broken: string;
}

interface Costs {
  readonly at: number;
  readonly kicks: number;
  readonly fastKicks: number;
  readonly fastKickWakes: number;
  readonly exits: number;
  readonly interrupts: number;
  readonly wakes: number;
  readonly malformed: number;
}

const VECTORS = 256;

export class Guest {
  readonly bus: GuestBus;
  readonly config: ConfigAccess;
  readonly arena: GuestArena;
  readonly vectors: VectorSpace;
  readonly tree: PciTree;
  /** The driver that workloads use. */
  readonly nic: Nic;
  #workload: Workload | undefined;
  #before: Costs | undefined;
  #finishedAt = -1;
  /** Ticket of the vectors' bell when they were taken last: it moves after each one that becomes pending. */
  #taken = -1;
  /** Sees every frame before the workload does. */
  tap: FrameSink | undefined;
  readonly #ignore = { receive(): void {} };
  readonly #tapped: FrameSink = {
    receive: (frame) => {
      this.tap?.receive(frame);
      this.#workload?.receive(frame);
    },
    takes: (frame) => this.tap?.takes?.(frame) !== false,
  };

  /** Enumerates and brings the device up. @throws RangeError when there is no such device, VirtioError when it does not come up. */
  constructor(bus: GuestBus, options: GuestOptions = {}, assigned?: AssignedFunction) {
    this.bus = bus;
    if (assigned) {
      const { host, device, delay } = assigned;
      this.config = host.config;
      this.arena = assigned.arena;
      this.vectors = host.vectors;
      this.tree = { root: host.tree.root, devices: [device], unplaced: 0 };
      this.nic = options.net ? this.openNet(device, options.net) : this.openIgbvf(device, options.igbvf, delay);
      return;
    }
    this.config = options.config === 'ports' ? new PortAccess(bus) : new EcamAccess(bus);
    this.arena = new GuestArena(bus.memory);
    this.vectors = new VectorSpace(bus.platform.intxVectors, options.vectors);
    this.tree = enumeratePci(bus, { config: this.config });
    if (options.e1000) this.nic = this.openE1000(this.#pick(isE1000, 'e1000', options), options.e1000);
    else if (options.igb) this.nic = this.openIgb(this.#pick(isIgb, 'igb', options), options.igb);
    else this.nic = this.openNet(this.#pick(isVirtioNet, 'virtio network', options), options.net);
  }

  #pick(is: (device: PciDevice) => boolean, kind: string, { device = 0 }: GuestOptions): PciDevice {
    const found = this.tree.devices.filter(is);
    const picked = found[device];
    if (!picked) throw new RangeError(`the guest found ${found.length} ${kind} functions and was told to drive number ${device}`);
    return picked;
  }

  /** The driver, of a guest that drives a virtio-net. @throws TypeError when it drives something else */
  get net(): VirtioNet {
    if (this.nic instanceof VirtioNet) return this.nic;
    throw new TypeError('this guest drives no virtio network device');
  }

  /** The driver, of a guest that drives an e1000. @throws TypeError when it drives something else */
  get e1000(): E1000 {
    if (this.nic instanceof E1000) return this.nic;
    throw new TypeError('this guest drives no e1000');
  }

  /** The driver, of a guest that drives an 82576's physical function. @throws TypeError when it drives something else */
  get igb(): Igb {
    if (this.nic instanceof Igb) return this.nic;
    throw new TypeError('this guest drives no igb');
  }

  /** The driver, of a guest that drives an 82576's virtual function. @throws TypeError when it drives something else */
  get igbvf(): Igbvf {
    if (this.nic instanceof Igbvf) return this.nic;
    throw new TypeError('this guest drives no igbvf');
  }

  /** Drives an e1000; the frames of one more than the guest's own are the caller's to poll. @throws RangeError, E1000Error */
  openE1000(device: PciDevice, options: E1000Options = {}): E1000 {
    return new E1000({ bus: this.bus, config: this.config, device, arena: this.arena, options });
  }

  /** Drives an 82576's physical function; the frames of one more than the guest's own are the caller's to poll. @throws RangeError, IgbError */
  openIgb(device: PciDevice, options: IgbOptions = {}): Igb {
    return new Igb({ bus: this.bus, config: this.config, device, arena: this.arena, vectors: this.vectors, options });
  }

  /** Drives an 82576's virtual function; the same holds. `delay` lets time pass while its physical function's driver answers. @throws RangeError, IgbError */
  openIgbvf(device: PciDevice, options: IgbvfOptions = {}, delay: Delay = sleepOn(this.bus)): Igbvf {
    return new Igbvf({ bus: this.bus, config: this.config, device, arena: this.arena, vectors: this.vectors, options, delay });
  }

  /** Drives a further function, such as a virtual one; its frames are the caller's to poll. @throws VirtioError */
  openNet(device: PciDevice, options: VirtioNetOptions = {}): VirtioNet {
    return new VirtioNet({ bus: this.bus, config: this.config, device, arena: this.arena, vectors: this.vectors, options });
  }

  /** Enables virtual functions of a physical one. `delay` lets guest time pass: the default sleeps, which only suits a guest whose clock moves meanwhile. */
  enableVirtualFunctions(pf: PciDevice, count: number, delay: Delay = sleepOn(this.bus)): PciDevice[] {
    return enableVirtualFunctions(this.config, pf, count, delay);
  }

  /** Starts a job; it takes the place of the one before. @throws RangeError when the job cannot be done. */
  start(job: Job): Workload {
    const workload = this.#make(job);
    this.#workload = workload;
    this.#finishedAt = -1;
    this.#before = this.#costs();
    return workload;
  }

  #make(job: Job): Workload {
    switch (job.kind) {
      case 'replay':
        return new Replay(job);
      case 'compare':
        return new Compare(job);
      case 'generate':
        return new Generate(job, this.arena);
      case 'sink':
        return new Sink(job);
      case 'spread':
        return new Spread(job, this.nic);
      case 'echo':
        return new Echo(job, this.arena, this.nic);
      case 'mesh':
        return new Mesh(job, this.arena);
      case 'ping':
        return new Ping(job, this.arena, () => this.bus.now());
    }
  }

  get workload(): Workload | undefined {
    return this.#workload;
  }

  /** Calls the handlers of all pending vectors. True when there were any. */
  takeInterrupts(): boolean {
    const { vectors } = this.bus;
    const { ticket } = vectors.bell;
    if (ticket === this.#taken) return false;
    this.#taken = ticket;
    let any = false;
    for (let i = 0; i < VECTORS; i++) {
      const vector = vectors.take();
      if (vector < 0) break;
      this.vectors.handlers[vector]?.();
      any = true;
    }
    return any;
  }

  /** Takes interrupts, polls, and lets the workload send. True: call again at once; false: nothing to do before an interrupt or `nextDue`. Never blocks. */
  step(): boolean {
    const { nic, bus } = this;
    let busy = this.takeInterrupts();
    // A level: served until the line falls, whatever edge was or was not seen.
    if (nic.usesIntx && bus.lines.any) nic.onIntx();
    const workload = this.#workload;
    if (nic.poll(this.tap ? this.#tapped : (workload ?? this.#ignore))) busy = true;
    if (workload && !workload.done) {
      if (workload.step(nic, bus)) busy = true;
    }
    if (workload?.done && this.#finishedAt < 0) this.#finishedAt = performance.now();
    return busy && nic.broken === '';
  }

  /** Milliseconds the guest may sleep if no interrupt comes, at most `most`. */
  sleepTime(most: number): number {
    const due = this.#workload?.nextDue ?? Infinity;
    if (due === Infinity) return most;
    return Math.max(0, Math.min(most, (due - this.bus.now()) / 1e6));
  }

  #costs(): Costs {
    const { counts } = this.bus;
    let malformed = 0;
    for (const queue of this.nic.receive) malformed += queue.malformed;
    return {
      at: performance.now(),
      kicks: this.nic.kicks,
      fastKicks: counts.fastKicks,
      fastKickWakes: counts.fastKickWakes,
      exits: counts.exits,
      interrupts: this.nic.interrupts,
      wakes: counts.halts,
      malformed,
    };
  }

  /** The present job's result so far. @throws Error when no job was started. */
  report(): GuestReport {
    const workload = this.#workload;
    const before = this.#before;
    if (!workload || !before) throw new Error('no job was started on this guest');
    const now = this.#costs();
    const result = workload.result();
    const seconds = ((this.#finishedAt < 0 ? now.at : this.#finishedAt) - before.at) / 1000;
    const rate = (n: number): number => (seconds > 0 ? n / seconds : 0);
    return {
      ...result,
      errors: this.nic.broken === '' ? result.errors : [...result.errors, this.nic.broken],
      seconds,
      framesPerSecond: rate(result.framesSent + result.framesReceived),
      bytesPerSecond: rate(result.bytesSent + result.bytesReceived),
      kicks: now.kicks - before.kicks,
      fastKicks: now.fastKicks - before.fastKicks,
      fastKickWakes: now.fastKickWakes - before.fastKickWakes,
      exits: now.exits - before.exits,
      interrupts: now.interrupts - before.interrupts,
      wakes: now.wakes - before.wakes,
      malformed: now.malformed - before.malformed,
      broken: this.nic.broken,
    };
  }
}
