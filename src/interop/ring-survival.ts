// What of a front end's rings outlives this process: the in-flight area that the front end keeps, and what the process before this one had committed and not carried out.

import type { JournalEntry } from '#backends/turn-journal';
import type { RingSurvival } from '#backends/vhost-net';
import type { VringPosition } from '#virtio/virtqueue';
import type { InflightArea } from './inflight-area.ts';
import { firstPosition, type RingPlace, remainingPosition } from './ring-position.ts';
import type { PortTurns } from './turn-file.ts';

export class RingSurvivals {
  readonly #turns: PortTurns | undefined;
  #area: InflightArea | undefined;
  #committed = new Map<number, JournalEntry>();

  constructor(turns: PortTurns | undefined) {
    this.#turns = turns;
  }

  /** Takes over an area, with every ring at rest; returns the one before, which is the caller's to unmap. */
  use(area: InflightArea): InflightArea | undefined {
    const old = this.#area;
    this.#area = area;
    this.#committed = (area.tag && this.#turns?.take(area.tag)) ?? new Map();
    return old;
  }

  /** The front end knows, from here on, where this ring stands, or wants it to start anew. */
  forget(index: number): void {
    this.#area?.setLive(index, false);
    this.#committed.delete(index);
  }

  /** Of a ring that starts at `position`: what is to be kept up to date from here on. */
  start(index: number, size: number, position: VringPosition): RingSurvival | undefined {
    const inflight = this.#area?.region(index, size);
    if (inflight === undefined) return undefined;
    inflight.start(position.used);
    this.#area?.setLive(index, true);
    return { inflight, staging: this.#area?.staging(index) };
  }

  /** Where a ring starts that nobody here has served; a reason when nobody can say. @throws ProtocolError */
  firstPosition(place: RingPlace): { readonly position: VringPosition | string; readonly remained: boolean } {
    const { index, setup } = place;
    const region = this.#area?.region(index, setup.size);
    if (region === undefined || this.#area?.isLive(index, region) !== true) return { position: firstPosition(place), remained: false };
    const committed = this.#committed.get(index);
    this.#committed.delete(index);
    return { position: remainingPosition(place, { region, staging: this.#area.staging(index), committed }), remained: true };
  }

  /** Every ring has stopped; what the area says stays true. */
  close(): void {
    this.#area?.unmap();
    this.#area = undefined;
  }
}
