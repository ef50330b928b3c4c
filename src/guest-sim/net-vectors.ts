// Which MSI-X entry announces what (virtio 1.4 4.1.5.1.2): one for each queue where there are enough, else one for all queues, else one for everything,
// else the legacy line. Every mapping is read back, since a device may refuse it.

import type { Msix } from './msix.ts';
import { VirtioError, type VirtioTransport } from './virtio-pci.ts';

/** Entry 0 is the configuration's; queue q has entry 1 + q, all queues have entry 1, or everything has entry 0. */
type VectorPlan = 'per-queue' | 'shared' | 'one';

/** What the driver does when an interrupt comes. */
export interface InterruptHandlers {
  receive(pair: number): void;
  transmit(pair: number): void;
  anyQueue(): void;
  configuration(): void;
}

export class NetVectors {
  readonly #transport: VirtioTransport;
  readonly #handlers: InterruptHandlers;
  readonly #msix: Msix;
  #plan: VectorPlan | undefined;

  constructor(transport: VirtioTransport, msix: Msix, handlers: InterruptHandlers) {
    this.#transport = transport;
    this.#msix = msix;
    this.#handlers = handlers;
  }

  /** MSI-X with as many vectors as the device and the CPU give. False: the line is all that is left. */
  map(pairs: number, perQueue: boolean): boolean {
    const { entries } = this.#msix;
    if (perQueue && entries > 2 * pairs && this.#try(pairs, 'per-queue')) return true;
    if (entries >= 2 && this.#try(pairs, 'shared')) return true;
    return this.#try(pairs, 'one');
  }

  #try(pairs: number, plan: VectorPlan): boolean {
    const msix = this.#msix;
    const transport = this.#transport;
    const handlers = this.#handlers;
    msix.begin();
    const everything = (): void => {
      handlers.anyQueue();
      if (plan === 'one') handlers.configuration();
    };
    let ok = msix.route(0, plan === 'one' ? everything : () => handlers.configuration()) && transport.setConfigVector(0);
    if (ok && plan === 'shared') ok = msix.route(1, everything);
    for (let q = 0; ok && q < 2 * pairs; q++) {
      const pair = q >>> 1;
      if (plan === 'per-queue')
        ok = msix.route(1 + q, q % 2 === 0 ? () => handlers.receive(pair) : () => handlers.transmit(pair)) && transport.setQueueVector(q, 1 + q);
      else ok = transport.setQueueVector(q, plan === 'shared' ? 1 : 0);
    }
    if (!ok) {
      msix.disable();
      return false;
    }
    msix.finish();
    this.#plan = plan;
    return true;
  }

  /** A queue reset clears its mapping: sets it again. @throws VirtioError when the device now refuses it. */
  remap(queue: number): void {
    const vector = this.#plan === 'per-queue' ? 1 + queue : this.#plan === 'shared' ? 1 : 0;
    if (!this.#transport.setQueueVector(queue, vector)) throw new VirtioError('ERR_VIRTIO_VECTOR', `queue ${queue} lost its vector in a queue reset`);
  }

  disable(): void {
    this.#msix.disable();
    this.#plan = undefined;
  }
}
