// The devices of one machine, as far as it looks after them: what their data planes relay, their standing still (one pause, save or restore at a time), and their leaving.

import type { PciFunction } from '#pci/function';
import { MachineError } from './machine-options.ts';
import type { MachinePart } from './machine-state.ts';

/** How long data planes may take to stop, in milliseconds: a turn of theirs is a few hundred frames. */
const QUIET_LIMIT = 10_000;

/** A device whose relayed interrupts and state the machine looks after. */
export interface Resident {
  readonly fn: PciFunction;
  readonly part: MachinePart | undefined;
  /** False while its data plane still stops. */
  readonly stopped?: () => boolean;
  /** Delivers what its data plane relayed to this thread. */
  readonly service?: () => unknown;
  /** The device is gone, or the machine closed. */
  readonly leave?: () => void;
}

export class Residents {
  #all: Resident[] = [];
  #turn: Promise<unknown> = Promise.resolve();
  readonly #requireOpen: () => void;

  /** @param requireOpen throws once the machine is closed. */
  constructor(requireOpen: () => void) {
    this.#requireOpen = requireOpen;
  }

  add(...residents: Resident[]): void {
    this.#all.push(...residents);
  }

  service(): void {
    for (const { service } of this.#all) service?.();
  }

  /** Lets go of those whose function is attached nowhere any more. */
  forgetDetached(): void {
    for (const resident of this.#all) if (resident.fn.attachment === undefined) resident.leave?.();
    this.#all = this.#all.filter((resident) => resident.fn.attachment !== undefined);
  }

  /** The functions that have a part to save. */
  get told(): Set<PciFunction> {
    return new Set(this.#all.flatMap(({ fn, part }) => (part ? [fn] : [])));
  }

  /** By name, which says where a part is: so the order in which devices were added, and others left, does not matter. */
  get parts(): MachinePart[] {
    const parts = this.#all.flatMap(({ part }) => (part ? [part] : []));
    return parts.sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
  }

  /** Stops every data plane, unseen by the guest, until `resume`. @throws MachineError when one does not stop; then all go on. */
  pause(): Promise<void> {
    return this.#inTurn(() => this.#pause());
  }

  resume(): void {
    for (const part of this.parts) part.resume?.();
  }

  /** Does `action` while everything stands still; goes on afterwards unless told not to, and in any case if it failed. @throws MachineError and what `action` throws. */
  paused<T>(stay: 'paused' | 'running' | undefined, action: () => T): Promise<T> {
    return this.#inTurn(async () => {
      await this.#pause();
      let staying = false;
      try {
        const result = await whenSettled(action);
        staying = stay === 'paused';
        return result;
      } finally {
        if (!staying) this.resume();
      }
    });
  }

  /** Waits for every data plane to stop, which was asked of it before. False when one has not in time. */
  stopped(): Promise<boolean> {
    return until(() => this.#all.every(({ stopped }) => stopped?.() ?? true));
  }

  leave(): void {
    for (const { leave } of this.#all) leave?.();
  }

  /** Pauses, saves and restores asked for at once: one after the other, as each ends in a state of its own. */
  #inTurn<T>(action: () => Promise<T>): Promise<T> {
    const result = this.#turn.then(action);
    this.#turn = result.catch(() => {});
    return result;
  }

  async #pause(): Promise<void> {
    this.#requireOpen();
    for (const { part } of this.#all) part?.pause?.();
    const moving = (): string[] => this.parts.filter((part) => part.paused === false).map((part) => part.name);
    if (await until(() => moving().length === 0)) return;
    const names = moving().join(', ');
    this.resume();
    throw notQuiet(`${names}: the data plane has not stopped within ${QUIET_LIMIT} ms: close or replace its backend`);
  }
}

export const notStopped = (machine: string): MachineError => notQuiet(`${machine}: a data plane has not stopped within ${QUIET_LIMIT} ms of closing`);

const notQuiet = (message: string): MachineError => new MachineError('NICBOX_NOT_QUIET', message);

/** A device may be in the middle of a reset, which ends by itself. */
async function whenSettled<T>(action: () => T): Promise<T> {
  let result: { readonly value: T } | undefined;
  let busy: unknown;
  const settled = await until(() => {
    try {
      result = { value: action() };
    } catch (error) {
      if ((error as { code?: unknown }).code !== 'NICBOX_BUSY') throw error;
      busy = error;
    }
    return result !== undefined;
  });
  if (settled && result !== undefined) return result.value;
  throw notQuiet(`a device does not come to rest: ${(busy as Error).message}`);
}

/** Looks, letting the event loop run in between, until `condition` holds; false when it took too long. */
async function until(condition: () => boolean): Promise<boolean> {
  const deadline = performance.now() + QUIET_LIMIT;
  while (!condition()) {
    if (performance.now() > deadline) return false;
    await new Promise((resolve) => setTimeout(resolve, 0));
  }
  return true;
}
