// What configuration space shows of what changes at run time (virtio 1.4 5.1.4): the address, the link, the request to announce. It stands still while the driver has the device suspended
// (3.4.2, device MUST NOT) or its group's owner has it stopped, and catches up afterwards.

import type { VirtioHost } from '#virtio/device';
import type { NetConfig } from './config.ts';

/** Behind: not, silently, or with a notification due. */
export type Behind = 'no' | 'moved' | 'changed';

export interface ShownState {
  readonly mac: Uint8Array;
  readonly linkUp: boolean;
  /** The driver was asked to announce itself. */
  readonly announcing: boolean;
  /** What configuration space shows of the two above: older, while it stands still. */
  readonly shown: { readonly linkUp: boolean; readonly announce: boolean };
  readonly behind: Behind;
}

export class ShownConfig {
  /** In use: the permanent address, or what the driver set. */
  mac: Uint8Array;
  linkUp: boolean;
  /** The driver has been asked to announce itself and has not acknowledged yet. */
  announcing = false;
  /** The owner of its group has the device stopped. */
  frozen = false;
  host: VirtioHost | undefined;
  readonly #config: NetConfig;
  #behind: Behind = 'no';

  constructor(config: NetConfig, mac: Uint8Array, linkUp: boolean) {
    this.#config = config;
    this.mac = mac;
    this.linkUp = linkUp;
    this.#write();
  }

  read(offset: number, size: number): number {
    return this.#config.read(offset, size);
  }

  /** Brings configuration space up to date, and notifies if the driver is to know. */
  show(notify: boolean): void {
    if (this.host?.suspended || this.frozen) {
      if (notify) this.#behind = 'changed';
      else if (this.#behind === 'no') this.#behind = 'moved';
      return;
    }
    this.#write();
    if (notify) this.host?.configChanged();
    else this.host?.configMoved();
  }

  /** It may move again. */
  catchUp(): void {
    if (this.#behind !== 'no') this.show(this.#behind === 'changed');
  }

  /** A reset, which nothing holds up. */
  restart(mac: Uint8Array): void {
    this.mac = mac;
    this.announcing = false;
    this.#write();
    this.host?.configMoved();
  }

  #write(): void {
    this.#behind = 'no';
    this.#config.mac = this.mac;
    this.#config.linkUp = this.linkUp;
    this.#config.announce = this.announcing;
  }

  save(): ShownState {
    return { mac: this.mac.slice(), linkUp: this.linkUp, announcing: this.announcing, shown: this.#config.shown, behind: this.#behind };
  }

  /** `state` has been checked. */
  load(state: ShownState): void {
    this.mac = state.mac;
    this.linkUp = state.linkUp;
    this.announcing = state.announcing;
    this.#write();
    this.#config.linkUp = state.shown.linkUp;
    this.#config.announce = state.shown.announce;
    this.#behind = state.behind;
  }
}
