// Who serves a device whose cable hangs in the air: it may still talk to itself, in loopback. A bounded number of rounds inside the access that asks, the rest from the clock.

import type { Clock, Nanos } from '#core/clock';
import { DirectLink } from '#net/direct-link';
import type { NetPort, PortHost } from '#net/port';
import { Segment } from '#net/segment';

const ROUNDS = 8;
/** What is left goes on so much later: time passes, and so do a stepped clock's own steps. */
const PAUSE: Nanos = 10_000;

export class Unplugged implements PortHost {
  readonly #segment: Segment;
  readonly #go: () => void;
  #serving = false;
  #again = false;

  constructor(clock: Clock) {
    this.#segment = new Segment(new DirectLink(), { clock });
    const timer = clock.timer(() => this.#serve());
    this.#go = () => timer.arm(clock.now() + PAUSE);
  }

  addPort(port: NetPort): void {
    this.#segment.addPort(port);
  }

  removePort(): void {
    this.#segment.removePort(0);
  }

  wake(): void {
    this.#segment.wake(0);
    this.#serve();
  }

  #serve(): void {
    if (this.#serving) {
      this.#again = true;
      return;
    }
    this.#serving = true;
    let left = true;
    try {
      for (let round = 0; left && round < ROUNDS; round++) {
        this.#again = false;
        left = this.#segment.service() || this.#segment.rest() || this.#again;
      }
    } finally {
      this.#serving = false;
      if (left) this.#go();
    }
  }
}
