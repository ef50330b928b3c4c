// What one path of the experiment runs on in real time: its machines on this thread, a thread that switches for them, and one for their guests.

import { Worker } from 'node:worker_threads';
import { VdpaBackend } from '#backends/vdpa-backend';
import { VdpaNet } from '#backends/vdpa-net';
import { VhostPool } from '#backends/vhost-pool';
import type { Machine } from '#nicbox/machine';
import type { MeasureRequest } from './container-pairs.ts';
import type { FromSriovGuest, SriovGuestStart, ToSriovGuest } from './sriov-guest.ts';
import { embeddedSwitch, machinesFor, type Placement } from './sriov-machines.ts';
import type { Measured, SoftwareSwitch } from './sriov-offload.ts';

/** Path (iii)'s thread stands for a NIC, and a NIC does not sleep. */
const HARDWARE = { minimum: 1e12, maximum: 1e12 };
/** Milliseconds for a thread to end by itself. */
const PATIENCE = 5000;

/** The thread of the experiment's guests, as seen from outside it. */
class SriovGuest {
  readonly #worker: Worker;
  readonly #stop = new Int32Array(new SharedArrayBuffer(4));
  readonly #exited: Promise<void>;
  #waiter: { resolve(message: FromSriovGuest): void; reject(error: Error): void } | undefined;
  #gone: Error | undefined;

  constructor(start: Omit<SriovGuestStart, 'stop'>) {
    this.#worker = new Worker(new URL('./sriov-guest-worker.js', import.meta.url), {
      workerData: { ...start, stop: this.#stop.buffer as SharedArrayBuffer } satisfies SriovGuestStart,
      name: 'guest',
    });
    this.#worker.on('message', (message: FromSriovGuest) => {
      const waiter = this.#waiter;
      this.#waiter = undefined;
      if (message.kind === 'failed') waiter?.reject(new Error(message.message));
      else waiter?.resolve(message);
    });
    this.#worker.on('error', (error) => this.#end(error));
    this.#exited = new Promise((resolve) => {
      this.#worker.on('exit', (code) => {
        this.#end(new Error(`the guest's thread ended with code ${code}`));
        resolve();
      });
    });
  }

  #end(error: Error): void {
    this.#gone ??= error;
    this.#waiter?.reject(this.#gone);
    this.#waiter = undefined;
  }

  #answer(signal: AbortSignal): Promise<FromSriovGuest> {
    const stop = (): void => {
      Atomics.store(this.#stop, 0, 1);
    };
    signal.addEventListener('abort', stop);
    return new Promise<FromSriovGuest>((resolve, reject) => {
      if (this.#gone) reject(this.#gone);
      else this.#waiter = { resolve, reject };
    }).finally(() => signal.removeEventListener('abort', stop));
  }

  /** Up, and every pair has met. @throws Error */
  async ready(signal: AbortSignal): Promise<void> {
    await this.#answer(signal);
  }

  /** @throws Error for frames that do not arrive */
  async measure(request: MeasureRequest, signal: AbortSignal): Promise<Measured> {
    this.#tell(request);
    const message = await this.#answer(signal);
    if (message.kind !== 'measured') throw new Error(`the guest said ${message.kind} when it was to measure`);
    return message.measured;
  }

  #tell(message: ToSriovGuest): void {
    this.#worker.postMessage(message);
  }

  /** The machine must still be serving exits. */
  async close(): Promise<void> {
    if (this.#gone) return;
    Atomics.store(this.#stop, 0, 1);
    this.#tell('close');
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<'late'>((resolve) => {
      timer = setTimeout(() => resolve('late'), PATIENCE);
    });
    if ((await Promise.race([this.#exited, late])) === 'late') await this.#worker.terminate();
    clearTimeout(timer);
  }
}

export interface PathOptions extends Placement {
  readonly software: SoftwareSwitch;
  /** As SriovGuestStart has it. */
  readonly bridgeCost: number;
  /** With FCS. */
  readonly sizes: readonly number[];
  readonly seconds: number;
  /** Before each measurement, and before the first, whose code is still to be compiled. */
  readonly warmUp: number;
  readonly firstWarmUp: number;
  readonly signal: AbortSignal;
}

/** All sizes on one path with so many pairs. @throws AbortError after `signal`; Error for frames that do not arrive */
export async function measureInRealTime(options: PathOptions): Promise<Measured[]> {
  const { path, pairs, software, bridgeCost, sizes, seconds, warmUp, firstWarmUp, signal } = options;
  signal.throwIfAborted();
  const pool = new VhostPool({ threads: 1, ...(path === 'offload' && { poll: HARDWARE }) });
  let machines: readonly Machine[] = [];
  let guest: SriovGuest | undefined;
  try {
    const nic = path === 'offload' ? embeddedSwitch(options) : undefined;
    const segment = pool.worker().segment({ kind: nic?.share ?? software });
    machines = machinesFor(options, { nic, backend: (name) => (nic ? new VdpaBackend(new VdpaNet(segment.port(name))) : segment.port(name)) });
    guest = new SriovGuest({ buses: machines.map((machine) => machine.threadBus().share), path, pairs, bridgeCost });
    await guest.ready(signal);
    const rows: Measured[] = [];
    for (const size of sizes) {
      signal.throwIfAborted();
      rows.push(await guest.measure({ size, seconds, warmUp: rows.length === 0 ? firstWarmUp : warmUp }, signal));
    }
    return rows;
  } catch (error) {
    // What was in the way when it was told to end is not what went wrong.
    signal.throwIfAborted();
    throw error;
  } finally {
    await guest?.close();
    await Promise.allSettled(machines.map((machine) => machine.close()));
    await pool.close();
  }
}
