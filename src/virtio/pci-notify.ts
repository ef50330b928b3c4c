// The notification area (virtio 1.4 4.1.4.4, 4.1.5.2, 2.9): which queue a write means. With a multiplier each queue has an address of its own and the address says it
// all; with multiplier 0 the value does. The ring position that NOTIFICATION_DATA adds is a driver's hint, which nothing here trusts.

import type { AccessSize, FastDoorbell, Region } from '#core/region';
import type { VirtioControl } from './control.ts';
import { VIRTIO_F_NOTIF_CONFIG_DATA, VIRTIO_F_NOTIFICATION_DATA } from './features.ts';
import { notifyConfigData } from './pci-common.ts';
import type { PciLayout } from './pci-layout.ts';

export class NotifyArea implements Region {
  readonly size: number;
  readonly #multiplier: number;
  readonly #control: VirtioControl;
  /** Called after a notification was served, when interrupts it caused on this thread can go out. */
  readonly #served: () => void;
  #lowByte = 0;

  constructor(control: VirtioControl, layout: PciLayout, served: () => void) {
    this.#control = control;
    this.#multiplier = layout.notifyMultiplier;
    this.size = layout.notifyLength;
    this.#served = served;
  }

  read(): number {
    return 0;
  }

  write(offset: number, size: AccessSize, value: number): void {
    if (this.#multiplier > 0) {
      // The first byte of a doorbell is its notification, so that a split write notifies once.
      if (offset % this.#multiplier === 0) this.#notify(offset / this.#multiplier);
      return;
    }
    if (size === 1) {
      if (offset === 0) this.#lowByte = value & 0xff;
      else if (offset === 1) this.#notify(this.#named(this.#lowByte | ((value & 0xff) << 8)));
      return;
    }
    if (offset === 0) this.#notify(this.#named(value & 0xffff));
  }

  /** The one write of a queue's own width and place; others take the register. */
  doorbell(offset: number, size: AccessSize, value: number): FastDoorbell | undefined {
    const data = this.#control.features.has(VIRTIO_F_NOTIFICATION_DATA);
    if (size !== (data ? 4 : 2)) return undefined;
    const perQueue = this.#multiplier > 0;
    if (perQueue ? offset % this.#multiplier !== 0 : offset !== 0) return undefined;
    // With ring positions in the value, no one value stands for the queue.
    if (!perQueue && data) return undefined;
    const doorbell = this.#control.queues.kickDoorbell(perQueue ? offset / this.#multiplier : this.#named(value & 0xffff));
    return doorbell && { doorbell, match: perQueue ? 'address' : 'value' };
  }

  #named(value: number): number {
    return this.#control.features.has(VIRTIO_F_NOTIF_CONFIG_DATA) ? notifyConfigData(value) : value;
  }

  #notify(index: number): void {
    this.#control.queues.notify(index);
    this.#served();
  }
}
