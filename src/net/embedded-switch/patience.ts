// What functions may keep the wire waiting for. A frame for a port that is full stays at its sender, and what comes behind it stays there as well: from an uplink that is what is for everybody else, and a driver that gives
// a buffer a second would have all others get a frame a second. So each port may hold uplinks up for a tenth of the time (one hold may be longer, and is paid back); beyond that what it does not take is dropped, as on a NIC.

import type { Nanos } from '#core/clock';

const MOST: Nanos = 100e6;
const PART = 0.1;

export class Patience {
  // Of each port: how long it may hold uplinks up now, as of when.
  readonly #left: Float64Array;
  readonly #stamp: Float64Array;
  // Of each uplink: which port holds it up (-1: none), and since when.
  readonly #holder: Int32Array;
  readonly #since: Float64Array;

  constructor(ports: number, uplinks: number) {
    this.#left = new Float64Array(ports).fill(MOST);
    this.#stamp = new Float64Array(ports);
    this.#holder = new Int32Array(uplinks).fill(-1);
    this.#since = new Float64Array(uplinks);
  }

  /** Frames of an uplink are looked at (again): who held it up does so no longer. */
  goesOn(uplink: number, now: Nanos): void {
    const port = this.#holder[uplink] as number;
    if (port < 0) return;
    this.#holder[uplink] = -1;
    this.#fill(port, now);
    this.#left[port] = (this.#left[port] as number) - (now - (this.#since[uplink] as number));
  }

  /** Whether an uplink waits for this port no more. */
  spent(port: number, now: Nanos): boolean {
    this.#fill(port, now);
    return (this.#left[port] as number) <= 0;
  }

  /** The port did not take all that it was offered. */
  held(uplink: number, port: number, now: Nanos): void {
    this.#holder[uplink] = port;
    this.#since[uplink] = now;
  }

  #fill(port: number, now: Nanos): void {
    this.#left[port] = Math.min(MOST, (this.#left[port] as number) + PART * Math.max(0, now - (this.#stamp[port] as number)));
    this.#stamp[port] = now;
  }
}
