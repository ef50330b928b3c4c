// The common configuration structure (virtio 1.4 4.1.4.3) as a table of fields (register-fields.ts).

import type { AccessSize, Region } from '#core/region';
import type { VirtioControl } from './control.ts';
import { VIRTIO_F_ADMIN_VQ, VIRTIO_F_NOTIF_CONFIG_DATA } from './features.ts';
import { COMMON_LENGTH, VIRTIO_MSI_NO_VECTOR } from './pci-layout.ts';
import { type Field, RegisterFields } from './register-fields.ts';

/** What queue `index` is called in notifications once NOTIF_CONFIG_DATA is negotiated: anything the device can tell queues apart by. */
export function notifyConfigData(index: number): number {
  return index ^ 0xa500;
}

export interface VectorRegisters {
  configVector: number;
  queueVector(index: number): number;
  setQueueVector(index: number, vector: number): void;
}

export class CommonConfig implements Region {
  readonly size = COMMON_LENGTH;
  readonly #registers: RegisterFields;
  #deviceFeatureSelect = 0;
  #driverFeatureSelect = 0;
  #queueSelect = 0;

  constructor(control: VirtioControl, vectors: VectorRegisters, notifyPerQueue: boolean) {
    const queue = (): number => this.#queueSelect;
    this.#registers = new RegisterFields(COMMON_LENGTH, [
      { offset: 0, size: 4, read: () => this.#deviceFeatureSelect, write: (v) => (this.#deviceFeatureSelect = v) },
      { offset: 4, size: 4, read: () => control.negotiation.offeredWord(this.#deviceFeatureSelect) },
      { offset: 8, size: 4, read: () => this.#driverFeatureSelect, write: (v) => (this.#driverFeatureSelect = v) },
      {
        offset: 12,
        size: 4,
        read: () => control.negotiation.acknowledgedWord(this.#driverFeatureSelect),
        write: (v) => control.writeDriverFeatures(this.#driverFeatureSelect, v),
      },
      {
        offset: 16,
        size: 2,
        read: () => vectors.configVector,
        // virtio 1.4 3.4.2 (device SHOULD): while suspended only the status is written.
        write: (v) => {
          if (!control.suspended) vectors.configVector = v;
        },
      },
      { offset: 18, size: 2, read: () => control.queues.administration.first },
      { offset: 20, size: 1, read: () => control.readStatus(), write: (v) => control.writeStatus(v) },
      { offset: 21, size: 1, read: () => control.generation },
      { offset: 22, size: 2, read: queue, write: (v) => (this.#queueSelect = v) },
      // virtio 1.4 4.1.4.3.1 (device MUST): 0 for a queue that is not there.
      { offset: 24, size: 2, read: () => control.queues.at(queue())?.size ?? 0, write: (v) => control.queues.writeSize(queue(), v) },
      {
        offset: 26,
        size: 2,
        read: () => (control.queues.at(queue()) ? vectors.queueVector(queue()) : VIRTIO_MSI_NO_VECTOR),
        write: (v) => {
          if (control.queues.at(queue()) && !control.suspended) vectors.setQueueVector(queue(), v);
        },
      },
      // virtio 1.4 4.1.4.3.2 (driver MUST NOT write 0): only 1 means something.
      { offset: 28, size: 2, read: () => (control.queues.at(queue())?.enabled ? 1 : 0), write: (v) => v === 1 && control.queues.enable(queue()) },
      { offset: 30, size: 2, read: () => (notifyPerQueue && control.queues.at(queue()) ? queue() : 0) },
      ...[0, 1, 2, 3, 4, 5].map(
        (word): Field => ({
          offset: 32 + 4 * word,
          size: 4,
          read: () => control.queues.at(queue())?.addresses[word] ?? 0,
          write: (v) => {
            const writable = control.queues.writable(queue());
            if (writable) writable.addresses[word] = v;
          },
        }),
      ),
      {
        offset: 56,
        size: 2,
        read: () => (control.features.has(VIRTIO_F_NOTIF_CONFIG_DATA) && control.queues.at(queue()) ? notifyConfigData(queue()) : 0),
      },
      { offset: 58, size: 2, read: () => (control.queues.resetting(queue()) ? 1 : 0), write: (v) => v === 1 && control.queues.reset(queue()) },
      // virtio 1.4 4.1.4.3: valid, and not 0, once VIRTIO_F_ADMIN_VQ is negotiated; the queues lie behind num_queues.
      { offset: 60, size: 2, read: () => (control.features.has(VIRTIO_F_ADMIN_VQ) ? control.queues.administration.first : 0) },
      { offset: 62, size: 2, read: () => (control.features.has(VIRTIO_F_ADMIN_VQ) ? control.queues.administration.count : 0) },
    ]);
  }

  read(offset: number, size: AccessSize): number {
    return this.#registers.read(offset, size);
  }

  write(offset: number, size: AccessSize, value: number): void {
    this.#registers.write(offset, size, value);
  }

  /** Selectors back to 0; the control plane resets the rest. */
  clear(): void {
    this.selectors = { deviceFeature: 0, driverFeature: 0, queue: 0 };
    this.#registers.clear();
  }

  get selectors(): { deviceFeature: number; driverFeature: number; queue: number } {
    return { deviceFeature: this.#deviceFeatureSelect, driverFeature: this.#driverFeatureSelect, queue: this.#queueSelect };
  }

  set selectors(selectors: { readonly deviceFeature: number; readonly driverFeature: number; readonly queue: number }) {
    this.#deviceFeatureSelect = selectors.deviceFeature;
    this.#driverFeatureSelect = selectors.driverFeature;
    this.#queueSelect = selectors.queue;
  }
}
