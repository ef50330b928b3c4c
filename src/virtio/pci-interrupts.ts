// Interrupts of a virtio PCI function (virtio 1.4 4.1.4.5, 4.1.5.1.2, 4.1.5.3, 4.1.5.4): ISR status, the vector registers, and for each queue a `Call` that a data plane signals
// from its own thread. A call goes straight to the platform while its MSI-X entry could be sent this moment; otherwise (masked, INTx) through the relay,
// which this thread serves.

import { type Bell, Doorbell } from '#core/doorbell';
import { Call, type PendingVectors } from '#core/interrupts';
import type { AccessSize, Region } from '#core/region';
import type { InterruptPort, MsiMessage } from '#pci/ports';
import type { VectorRegisters } from './pci-common.ts';
import { VIRTIO_ISR_CONFIG, VIRTIO_ISR_QUEUE, VIRTIO_MSI_NO_VECTOR } from './pci-layout.ts';

/** What the platform has to offer for calls that skip the machine's thread. */
export interface CallRouting {
  /** Rung when `serviceRelays` has something to do; the machine's thread waits on it. */
  readonly bell: Bell;
  /** Where direct calls become pending; absent: every call is relayed. */
  readonly vectors?: PendingVectors;
  /** The vector of `vectors` that this message would make pending, or undefined when it would do something else. */
  readonly resolve?: (message: MsiMessage, requester: number) => number | undefined;
  /** The event descriptor (an eventfd) that data planes write in place of sending this message, if one stands for it. */
  readonly event?: (message: MsiMessage, requester: number) => number | undefined;
}

export interface InterruptState {
  readonly isr: number;
  readonly configVector: number;
  readonly queueVectors: readonly number[];
}

export class PciInterrupts implements VectorRegisters {
  readonly isrRegion: Region;
  readonly #calls: readonly Call[];
  readonly #relays: readonly Doorbell[];
  readonly #routing: CallRouting;
  readonly #tableSize: number;
  readonly #requester: () => number;
  readonly #queueVectors: number[];
  #configVector = VIRTIO_MSI_NO_VECTOR;
  #isr = 0;
  /** The bell as it was when the relays were last looked through. */
  #seen: number | undefined;
  #port: InterruptPort | undefined;

  constructor(queueCount: number, tableSize: number, routing: CallRouting, requester: () => number) {
    this.#routing = routing;
    this.#tableSize = tableSize;
    this.#requester = requester;
    this.#queueVectors = new Array<number>(queueCount).fill(VIRTIO_MSI_NO_VECTOR);
    this.#relays = this.#queueVectors.map(() => new Doorbell(routing.bell));
    this.#calls = this.#relays.map((relay) => new Call(relay, routing.vectors ?? null));
    this.isrRegion = {
      size: 4,
      read: (offset: number, _size: AccessSize) => (offset === 0 ? this.#readIsr() : 0),
      write: () => {},
    };
  }

  attach(port: InterruptPort): void {
    this.#port = port;
    port.onRouteChange = () => this.reroute();
    this.reroute();
  }

  detach(): void {
    if (this.#port) this.#port.onRouteChange = undefined;
    this.#port = undefined;
    for (const call of this.#calls) call.routeOff();
  }

  /** MSI-X is on. */
  get msix(): boolean {
    return this.#port?.mode === 'msix';
  }

  call(index: number): Call {
    return this.#calls[index] as Call;
  }

  // ---- vector registers: virtio 1.4 4.1.5.1.2 ----

  get configVector(): number {
    return this.#configVector;
  }

  set configVector(vector: number) {
    this.#configVector = this.#mappable(vector);
  }

  queueVector(index: number): number {
    return this.#queueVectors[index] ?? VIRTIO_MSI_NO_VECTOR;
  }

  setQueueVector(index: number, vector: number): void {
    this.#queueVectors[index] = this.#mappable(vector);
    this.#route(index);
  }

  /** (device MUST): what cannot be mapped reads back as NO_VECTOR. */
  #mappable(vector: number): number {
    return vector < this.#tableSize ? vector : VIRTIO_MSI_NO_VECTOR;
  }

  // ---- raising ----

  #readIsr(): number {
    this.serviceRelays();
    const isr = this.#isr;
    // virtio 1.4 4.1.4.5.1 (device MUST): reading clears, and lowers the line.
    this.#isr = 0;
    this.#updateLine();
    return isr;
  }

  #updateLine(): void {
    // virtio 1.4 4.1.4.5.1 (device MUST): in INTx mode Interrupt Status is the or of the ISR bits.
    if (this.#port) this.#port.setLine(this.#port.mode === 'intx' && this.#isr !== 0);
  }

  notifyConfig(): void {
    // virtio 1.4 4.1.5.4.1 (device MUST): ISR bit 1 first, also with MSI-X.
    this.#isr |= VIRTIO_ISR_CONFIG;
    if (this.#port === undefined) return;
    if (this.#port.mode === 'intx') this.#updateLine();
    else if (this.#configVector !== VIRTIO_MSI_NO_VECTOR) this.#port.raise(this.#configVector);
  }

  /** Delivers calls that came to this thread. Returns whether there were any. */
  serviceRelays(): boolean {
    const ticket = this.#routing.bell.ticket;
    if (ticket === this.#seen) return false;
    this.#seen = ticket;
    let any = false;
    for (let index = 0; index < this.#relays.length; index++) {
      if ((this.#relays[index] as Doorbell).take() === 0) continue;
      any = true;
      this.#deliver(index);
    }
    return any;
  }

  #deliver(index: number): void {
    if (this.#port === undefined) return;
    if (this.#port.mode === 'intx') {
      this.#isr |= VIRTIO_ISR_QUEUE;
      this.#updateLine();
      return;
    }
    const vector = this.#queueVectors[index] as number;
    if (vector !== VIRTIO_MSI_NO_VECTOR) this.#port.raise(vector);
  }

  // ---- routing ----

  /** After anything that decides where an interrupt goes: mode, masks, messages, bus mastering. */
  reroute(): void {
    for (let index = 0; index < this.#calls.length; index++) this.#route(index);
    this.#updateLine();
  }

  #route(index: number): void {
    const call = this.#calls[index] as Call;
    const port = this.#port;
    if (port === undefined) {
      call.routeOff();
      return;
    }
    if (port.mode === 'intx') {
      call.routeRelay();
      return;
    }
    const vector = this.#queueVectors[index] as number;
    // virtio 1.4 4.1.5.3.1 (device MUST NOT): MSI-X on and no vector: no interrupt.
    if (vector === VIRTIO_MSI_NO_VECTOR) {
      call.routeOff();
      return;
    }
    const message = port.message(vector);
    const event = message === null ? undefined : this.#routing.event?.(message, this.#requester());
    if (event !== undefined) {
      call.routeEvent(event);
      return;
    }
    const direct = message === null ? undefined : this.#routing.resolve?.(message, this.#requester());
    if (direct === undefined) call.routeRelay();
    else call.routeDirect(direct);
  }

  // ---- reset and saved state ----

  /** A queue reset takes the queue's vector with it. */
  clearQueue(index: number): void {
    this.setQueueVector(index, VIRTIO_MSI_NO_VECTOR);
    (this.#relays[index] as Doorbell).take();
  }

  /** virtio 1.4 4.1.5.1.2.1 (device MUST): every event is unmapped after a reset; and nothing is left to be raised. */
  clear(): void {
    for (const relay of this.#relays) relay.take();
    this.#configVector = VIRTIO_MSI_NO_VECTOR;
    this.#queueVectors.fill(VIRTIO_MSI_NO_VECTOR);
    this.#isr = 0;
    this.reroute();
  }

  /** Delivers what is under way first, so that no call is lost between here and the restored device. */
  save(): InterruptState {
    this.serviceRelays();
    return { isr: this.#isr, configVector: this.#configVector, queueVectors: [...this.#queueVectors] };
  }

  /** `state` has been checked. */
  restore(state: InterruptState): void {
    this.#isr = state.isr;
    this.#configVector = this.#mappable(state.configVector);
    state.queueVectors.forEach((vector, index) => {
      this.#queueVectors[index] = this.#mappable(vector);
    });
    this.reroute();
  }
}
