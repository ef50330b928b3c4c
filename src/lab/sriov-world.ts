// What one path of the experiment runs on: a machine with one virtio-net physical function, the thread that switches for it, and the guest on a thread of its own.

import { Worker } from 'node:worker_threads';
import { VdpaBackend } from '#backends/vdpa-backend';
import { VdpaNet } from '#backends/vdpa-net';
import { VhostPool } from '#backends/vhost-pool';
import { EmbeddedSwitch } from '#net/embedded-switch/embedded-switch';
import { SwitchVfPorts } from '#net/embedded-switch/vf-ports';
import { Machine } from '#nicbox/machine';
import { rootPort } from '#pci/bridges';
import type { FromSriovGuest, MeasureRequest, SriovGuestStart } from './sriov-guest.ts';
import type { OffloadRow, Path, SoftwareSwitch } from './sriov-offload.ts';

const PF_MAC = '52:54:00:af:00:01';
const MIB = 2 ** 20;
/** Of the guest, and for each container's rings and buffers. */
const GUEST_BYTES = 32 * MIB;
const CONTAINER_BYTES = 2 * MIB;
/** Path (iii)'s thread stands for a NIC, and a NIC does not sleep. */
const HARDWARE = { minimum: 1e12, maximum: 1e12 };
/** Milliseconds for a guest to end by itself. */
const PATIENCE = 5000;

/** The guest of the experiment, as seen from outside it. */
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
  async measure(request: MeasureRequest, signal: AbortSignal): Promise<OffloadRow> {
    this.#worker.postMessage(request);
    const message = await this.#answer(signal);
    if (message.kind !== 'measured') throw new Error(`the guest said ${message.kind} when it was to measure`);
    return message.row;
  }

  /** The machine must still be serving exits. */
  async close(): Promise<void> {
    if (this.#gone) return;
    Atomics.store(this.#stop, 0, 1);
    this.#worker.postMessage('close');
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<'late'>((resolve) => {
      timer = setTimeout(() => resolve('late'), PATIENCE);
    });
    if ((await Promise.race([this.#exited, late])) === 'late') await this.#worker.terminate();
    clearTimeout(timer);
  }
}

export interface PathOptions {
  readonly path: Path;
  readonly pairs: number;
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

/** A machine whose one NIC leads to the path's switch. */
function machineFor({ path, pairs, software }: PathOptions, pool: VhostPool): Machine {
  const containers = 2 * pairs;
  const machine = new Machine({ name: 'guest', memory: GUEST_BYTES + containers * CONTAINER_BYTES });
  const worker = pool.worker();
  const port = rootPort({ express: { slot: { number: 1 } } });
  machine.attach(port);
  if (path === 'offload') {
    const embedded = new EmbeddedSwitch({ functions: containers });
    embedded.configurePort('pf', { mac: PF_MAC });
    const segment = worker.segment({ kind: embedded.share });
    const backend = (name: string): VdpaBackend => new VdpaBackend(new VdpaNet(segment.port(name)));
    const sriov = { totalVfs: containers, backend: (vf: number) => backend(`vf${vf}`), ports: new SwitchVfPorts(embedded) };
    machine.addVirtioNet({ mac: PF_MAC, backend: backend('pf'), sriov }, { under: port });
    return machine;
  }
  const segment = worker.segment({ kind: software });
  const sriov = { totalVfs: containers, backend: (vf: number) => segment.port(`vf${vf}`) };
  machine.addVirtioNet({ mac: PF_MAC, backend: segment.port('pf'), ...(path === 'software' && { sriov }) }, { under: port });
  return machine;
}

/** All sizes on one path with so many pairs. @throws AbortError after `signal`; Error for frames that do not arrive */
export async function measurePath(options: PathOptions): Promise<OffloadRow[]> {
  const { path, pairs, bridgeCost, sizes, seconds, warmUp, firstWarmUp, signal } = options;
  signal.throwIfAborted();
  const pool = new VhostPool({ threads: 1, ...(path === 'offload' && { poll: HARDWARE }) });
  let machine: Machine | undefined;
  let guest: SriovGuest | undefined;
  try {
    machine = machineFor(options, pool);
    guest = new SriovGuest({ bus: machine.threadBus().share, path, pairs, bridgeCost });
    await guest.ready(signal);
    const rows: OffloadRow[] = [];
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
    await machine?.close();
    await pool.close();
  }
}
