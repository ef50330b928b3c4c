// Uplinks joined to one (LAG, IEEE 802.1AX): which member a frame leaves by. By a hash of its addresses (and ports) over the members that are up, or by the primary while it is up and another one when it is not.
// To rules and to the bridge the group is its first uplink, whichever member a frame comes in by. Without a group every uplink is a port of its own.

import type { FrameKey } from './frame-key.ts';
import { CONFIG_LAG, CONFIG_LAG_PRIMARY, LAG_BACKUP, LAG_HASH_L34, LAG_OFF, PORT_FLAGS, PORT_LINK_UP, PORT_WORDS, type SwitchTables } from './layout.ts';

export class LinkGroup {
  readonly #tables: SwitchTables;
  readonly #uplinks: number;
  readonly #carrier: (uplink: number) => boolean;

  /** @param carrier whether an uplink is attached, and its link up */
  constructor(tables: SwitchTables, carrier: (uplink: number) => boolean) {
    this.#tables = tables;
    this.#uplinks = tables.share.uplinks;
    this.#carrier = carrier;
  }

  get active(): boolean {
    return this.#tables.config[CONFIG_LAG] !== LAG_OFF;
  }

  /** The port that an uplink counts as. */
  port(uplink: number): number {
    return this.active ? 0 : uplink;
  }

  /** Of an active-backup group only the active member's frames count: the others may be copies. */
  receives(uplink: number): boolean {
    return this.#tables.config[CONFIG_LAG] !== LAG_BACKUP || this.#backup() === uplink;
  }

  /** The uplink that a frame for `uplink` leaves by; -1: none is up. */
  pick(uplink: number, key: FrameKey): number {
    const mode = this.#tables.config[CONFIG_LAG];
    if (mode === LAG_OFF) return uplink;
    if (mode === LAG_BACKUP) return this.#backup();
    let up = 0;
    for (let i = 0; i < this.#uplinks; i++) if (this.#usable(i)) up++;
    if (up === 0) return -1;
    // Scaled to the members: no modulo of a power of two that a weak bit could spoil.
    let choice = Math.floor((((mode === LAG_HASH_L34 ? key.flowHash() : key.addressHash()) >>> 0) / 2 ** 32) * up);
    for (let i = 0; i < this.#uplinks; i++) if (this.#usable(i) && choice-- === 0) return i;
    return -1;
  }

  #backup(): number {
    const primary = this.#tables.config[CONFIG_LAG_PRIMARY] as number;
    if (this.#usable(primary)) return primary;
    for (let i = 0; i < this.#uplinks; i++) if (this.#usable(i)) return i;
    return -1;
  }

  #usable(uplink: number): boolean {
    return ((this.#tables.port[uplink * PORT_WORDS + PORT_FLAGS] as number) & PORT_LINK_UP) !== 0 && this.#carrier(uplink);
  }
}
