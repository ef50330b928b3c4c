// What a driver wrote of one virtqueue: size, areas, enabled, in reset. Untrusted throughout: a transport's registers read and write it, the device gets it as a QueueSetup.

import { isPowerOfTwo } from './device-status.ts';
import type { QueueSetup } from './virtqueue.ts';

export interface SavedQueue {
  readonly size: number;
  readonly enabled: boolean;
  /** Low and high words of the descriptor, driver and device areas. */
  readonly addresses: readonly number[];
}

export class QueueRecord {
  /** 0: there is no such queue. */
  maxSize = 0;
  enabled = false;
  /** A queue reset is under way. */
  resetting = false;
  /** Low and high words of the descriptor, driver and device areas. */
  readonly addresses = new Uint32Array(6);
  #size = 0;

  get size(): number {
    return this.#size;
  }

  /** Sizes no driver may ask for are refused (false): the register goes on showing one that works. */
  writeSize(size: number, powerOfTwo: boolean): boolean {
    if (size === 0 || size > this.maxSize || (powerOfTwo && !isPowerOfTwo(size))) return false;
    this.#size = size;
    return true;
  }

  get setup(): QueueSetup {
    const [dl, dh, al, ah, ul, uh] = this.addresses as unknown as [number, number, number, number, number, number];
    return { size: this.#size, descriptorArea: dl + dh * 2 ** 32, driverArea: al + ah * 2 ** 32, deviceArea: ul + uh * 2 ** 32 };
  }

  /** As after a reset, with another maximum if features changed it. */
  clear(maxSize = this.maxSize): void {
    this.maxSize = maxSize;
    this.#size = maxSize;
    this.enabled = false;
    this.resetting = false;
    this.addresses.fill(0);
  }

  save(): SavedQueue {
    return { size: this.#size, enabled: this.enabled, addresses: [...this.addresses] };
  }

  /** `saved` has been checked. */
  restore(saved: SavedQueue): void {
    this.#size = saved.size;
    this.enabled = saved.enabled;
    this.resetting = false;
    this.addresses.set(saved.addresses);
  }
}
