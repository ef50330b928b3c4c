// What a person at a hot-plug slot can do: press the button, put a device in, pull it out, or ask for it and wait until the guest has turned the slot off.
// PCIe 4.0 6.7. The registers are the port's (express-slot.ts); the tree is the fabric's.

import { type Express, expressOf } from './express.ts';
import { SlotEvent, type SlotRegisters } from './express-slot.ts';
import type { PciFunction } from './function.ts';

/** The part of the fabric that plugging needs. */
export interface PlugSide {
  attach(under: PciFunction, device: PciFunction | readonly (PciFunction | undefined)[]): void;
  detach(fn: PciFunction): void;
}

export class HotPlugSlot {
  readonly port: PciFunction;
  readonly #fabric: PlugSide;
  readonly #express: Express;
  readonly #slot: SlotRegisters;
  #onRemoved: (() => void) | undefined;

  /** @throws TypeError when `port` has no hot-plug slot. */
  constructor(fabric: PlugSide, port: PciFunction) {
    this.#fabric = fabric;
    this.port = port;
    const express = expressOf(port);
    if (express?.slot === undefined) throw new TypeError(`${port.name} has no slot: give its Express capability \`slot\``);
    this.#express = express;
    this.#slot = express.slot;
    this.#slot.onCommand = () => this.#commanded();
  }

  get occupied(): boolean {
    return this.#slot.present;
  }

  /** The guest has turned the slot on (or there is no power controller to turn it off). */
  get powered(): boolean {
    return this.#slot.powered;
  }

  get indicators(): { readonly power: number; readonly attention: number } {
    return { power: this.#slot.powerIndicator, attention: this.#slot.attentionIndicator };
  }

  /** @throws TypeError when the slot has no button. */
  pressAttention(): void {
    if (!this.#slot.options.attentionButton) throw new TypeError(`${this.port.name}: the slot has no attention button`);
    this.#express.hot(() => this.#slot.event(SlotEvent.attentionButton));
  }

  /** The latch over the slot is opened or closed. @throws TypeError when nothing senses it. */
  setLatch(position: 'open' | 'closed'): void {
    if (!this.#slot.options.mrlSensor) throw new TypeError(`${this.port.name}: the slot has no MRL sensor`);
    this.#express.hot(() => this.#slot.setLatch(position === 'open'));
  }

  /** The power controller found a fault. @throws TypeError when there is none. */
  powerFault(): void {
    if (!this.#slot.options.powerController) throw new TypeError(`${this.port.name}: the slot has no power controller`);
    this.#express.hot(() => this.#slot.event(SlotEvent.powerFault));
  }

  /** Puts a device into the empty slot: presence changes, and the link trains as soon as the slot has power. Errors as Fabric.attach. */
  insert(device: PciFunction | readonly (PciFunction | undefined)[]): void {
    if (this.occupied) throw new TypeError(`${this.port.name}: the slot is occupied`);
    this.#express.hot(() => this.#fabric.attach(this.port, device));
  }

  /** Pulls the device out without asking: the link goes down at once. @throws TypeError when the slot is empty. */
  removeByForce(): void {
    const device = this.port.secondaryBus?.functions[0];
    if (device === undefined) throw new TypeError(`${this.port.name}: the slot is empty`);
    this.#onRemoved = undefined;
    this.#express.hot(() => this.#fabric.detach(device));
  }

  /**
   * Asks the guest to let the device go (a press of the button), and takes it out once the guest has switched power and its indicator off; `onRemoved` is then
   * called, inside the guest's write. @throws TypeError when the slot is empty, has no button, or nothing by which the guest could say that it is done.
   */
  requestRemoval(onRemoved?: () => void): void {
    if (!this.occupied) throw new TypeError(`${this.port.name}: the slot is empty`);
    const { powerController, powerIndicator } = this.#slot.options;
    if (!powerController && !powerIndicator) throw new TypeError(`${this.port.name}: no power controller or indicator tells when removal is safe`);
    this.pressAttention();
    this.#onRemoved = onRemoved ?? (() => undefined);
    this.#commanded();
  }

  /** A removal that was asked for is no longer wanted; the guest may still turn the slot off. */
  cancelRemoval(): void {
    this.#onRemoved = undefined;
  }

  get removalPending(): boolean {
    return this.#onRemoved !== undefined;
  }

  #commanded(): void {
    const { powerController, powerIndicator } = this.#slot.options;
    const off = (!powerController || !this.#slot.powered) && (!powerIndicator || this.#slot.powerIndicator === 3);
    if (this.#onRemoved === undefined || !off || !this.occupied) return;
    const done = this.#onRemoved;
    this.removeByForce();
    done();
  }
}
