// A virtio-net device's data rings passed through to a vDPA device: the guest's own rings, served where they lie, with the guest's own doorbell words and interrupts. The control
// plane (configuration space, control queue) stays the emulated device's.

import type { DmaMapping } from '#core/dma-space';
import type { Doorbell } from '#core/doorbell';
import type { Call } from '#core/interrupts';
import type { FeatureSet } from '#virtio/features';
import type { VdpaDevice, VdpaEvent } from '#virtio/vdpa';
import type { VhostBackend, VhostEvent, VhostSession, VringState } from '#virtio/vhost';
import type { QueueSetup, VringPosition } from '#virtio/virtqueue';
import { DeviceDirt, VdpaFront } from './vdpa-front.ts';
import { reachable } from './vdpa-reach.ts';

export class VdpaBackend implements VhostBackend {
  readonly name: string;
  readonly device: VdpaDevice;
  readonly features: FeatureSet;
  readonly maxQueuePairs: number;
  readonly flowFilter: boolean;
  onEvent: ((event: VhostEvent) => void) | undefined;
  /** What concerns the device alone: faults of its translations, changes of its configuration space. */
  onDeviceEvent: ((event: Extract<VdpaEvent, { kind: 'fault' | 'config' }>) => void) | undefined;
  readonly #front: VdpaFront;
  #dirt: DeviceDirt | undefined;
  /** What the device was given last. */
  #mapped: readonly DmaMapping[] = [];
  /** Rings too long for the device. */
  readonly #refused = new Set<number>();
  /** Where rings stood when the device was taken away from here. */
  readonly #positions: VringPosition[] = [];

  constructor(device: VdpaDevice) {
    this.device = device;
    this.name = device.name;
    this.features = device.features;
    this.maxQueuePairs = device.vringCount >>> 1;
    this.flowFilter = device.flowFilter;
    this.#front = new VdpaFront(device, {
      plan: (memory) => {
        // What lies beyond its range faults in the device.
        const mappings = reachable(memory).filter(({ iova, size }) => iova >= device.iovaRange.first && iova + size - 1 <= device.iovaRange.last);
        this.#dirt?.remapped(this.#mapped, mappings);
        this.#mapped = mappings;
        return mappings;
      },
      event: (event) => {
        if (event.kind === 'broken' || event.kind === 'lost') this.onEvent?.(event);
        else this.onDeviceEvent?.(event);
      },
      released: () => {
        this.#dirt?.finish();
        this.#dirt = undefined;
        for (let index = 0; index < device.controlVring; index++) this.#positions[index] = device.vringPosition(index);
      },
    });
  }

  lacks(offered: FeatureSet): FeatureSet {
    return this.#front.lacks(offered);
  }

  open(session: VhostSession): void {
    this.#refused.clear();
    this.#front.open(session, session.features);
    this.#dirt = new DeviceDirt(this.device, session.memory);
  }

  startVring(index: number, setup: QueueSetup, position: VringPosition, call: Call): void {
    const { device } = this;
    if (this.#dirt === undefined) throw new TypeError(`${this.name}: open before startVring`);
    this.#refused.delete(index);
    if (setup.size > device.maxVringSize) {
      this.#refused.add(index);
      this.onEvent?.({ kind: 'broken', index, reason: `a ring of ${setup.size} entries, where the device serves ${device.maxVringSize} at most` });
      return;
    }
    this.#dirt.served = true;
    device.setVringSize(index, setup.size);
    device.setVringAddresses(index, setup);
    device.setVringPosition(index, position);
    device.setVringCall(index, call);
    device.setVringReady(index, true);
  }

  stopVring(index: number): void {
    if (!this.#front.held) return;
    this.device.vringDoorbell(index).revoke();
    this.device.setVringReady(index, false);
  }

  vringState(index: number): VringState {
    if (this.#refused.has(index)) return 'broken';
    return this.#front.held ? this.device.vringState(index) : 'stopped';
  }

  vringPosition(index: number): VringPosition {
    return (this.#front.held ? this.device.vringPosition(index) : this.#positions[index]) ?? { available: 0, used: 0 };
  }

  kick(index: number): void {
    this.device.vringDoorbell(index).ring();
  }

  kickDoorbell(index: number): Doorbell | undefined {
    return this.#front.held ? this.device.vringDoorbell(index) : undefined;
  }

  announceStation(mac: Uint8Array): boolean {
    return this.device.announceStation(mac);
  }

  policyChanged(): void {
    this.#front.policyChanged();
  }
}
