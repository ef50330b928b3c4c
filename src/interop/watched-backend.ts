// A data plane under the eyes of somebody who judges drivers: it passes everything on, and says which rings start and stop, and where they lie.

import type { Doorbell } from '#core/doorbell';
import type { Call } from '#core/interrupts';
import { FeatureSet } from '#virtio/features';
import type { VhostBackend, VhostEvent, VhostSession, VringState } from '#virtio/vhost';
import type { QueueSetup, VringPosition } from '#virtio/virtqueue';
import type { GuestBytes } from './access-watch.ts';

/** Who watches rings. It must not throw. */
export interface VringWatch {
  /** A driver is there: the words of its features, and its memory. */
  opened(features: readonly number[], memory: GuestBytes): void;
  started(index: number, setup: QueueSetup, position: VringPosition): void;
  stopped(index: number): void;
}

export class WatchedBackend implements VhostBackend {
  readonly #inner: VhostBackend;
  readonly #watch: VringWatch;

  constructor(inner: VhostBackend, watch: VringWatch) {
    this.#inner = inner;
    this.#watch = watch;
  }

  get name(): string {
    return this.#inner.name;
  }
  get features(): FeatureSet {
    return this.#inner.features;
  }
  get maxQueuePairs(): number {
    return this.#inner.maxQueuePairs;
  }
  get flowFilter(): boolean {
    return this.#inner.flowFilter ?? false;
  }
  lacks(offered: FeatureSet): FeatureSet {
    return this.#inner.lacks?.(offered) ?? new FeatureSet();
  }
  get onEvent(): ((event: VhostEvent) => void) | undefined {
    return this.#inner.onEvent;
  }
  set onEvent(handler: ((event: VhostEvent) => void) | undefined) {
    this.#inner.onEvent = handler;
  }

  open(session: VhostSession): void {
    const { memory } = session.memory;
    this.#watch.opened(session.features.words, (address, length) => {
      const slab = memory.slabAt(address);
      if (slab === undefined || address + length > slab.base + slab.size) return undefined;
      return slab.views.u8.subarray(address - slab.base, address - slab.base + length);
    });
    this.#inner.open(session);
  }

  startVring(index: number, setup: QueueSetup, position: VringPosition, call: Call): void {
    this.#watch.started(index, setup, position);
    this.#inner.startVring(index, setup, position, call);
  }

  stopVring(index: number): void {
    this.#watch.stopped(index);
    this.#inner.stopVring(index);
  }

  vringState(index: number): VringState {
    return this.#inner.vringState(index);
  }
  vringPosition(index: number): VringPosition {
    return this.#inner.vringPosition(index);
  }
  kick(index: number): void {
    this.#inner.kick(index);
  }
  kickDoorbell(index: number): Doorbell | undefined {
    return this.#inner.kickDoorbell(index);
  }
  announceStation(mac: Uint8Array): boolean {
    return this.#inner.announceStation?.(mac) ?? false;
  }
  policyChanged(): void {
    this.#inner.policyChanged();
  }
}
