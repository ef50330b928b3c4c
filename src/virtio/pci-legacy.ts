// The legacy interface of a transitional device (virtio 1.4 4.1.4.10): the register block in an I/O BAR 0, with the device configuration right behind it. Guests are little-endian
// here. A queue is one page number: its parts lie one after the other, the used ring on the next page (2.7.2).

import type { AccessSize, Region } from '#core/region';
import type { LegacyArea } from './admin-sriov.ts';
import type { VirtioControl } from './control.ts';
import type { VectorRegisters } from './pci-common.ts';
import { LEGACY_HEADER_BYTES } from './pci-layout.ts';
import { type Field, RegisterFields } from './register-fields.ts';

/** Without MSI-X. With it two vector registers come in between, and the device configuration moves. */
const HEADER = 20;
const PAGE = 4096;
/** Lengths of the fields, from offset 0 on. */
const COMMON_FIELDS: readonly number[] = [4, 4, 4, 2, 2, 2, 1, 1, 2, 2];

export interface LegacyInterrupts extends VectorRegisters {
  readonly msix: boolean;
  readonly isrRegion: Region;
}

export class LegacyRegisters implements Region {
  readonly size: number;
  readonly #control: VirtioControl;
  readonly #interrupts: LegacyInterrupts;
  readonly #header: RegisterFields;
  /** queue_select. */
  queue = 0;

  /** @param served called after a notification was served, when interrupts it caused on this thread can go out. */
  constructor(control: VirtioControl, interrupts: LegacyInterrupts, served: () => void) {
    this.#control = control;
    this.#interrupts = interrupts;
    this.size = LEGACY_HEADER_BYTES + control.device.configSize;
    const present = () => control.queues.at(this.queue);
    const fields: Field[] = [
      { offset: 0, size: 4, read: () => control.negotiation.legacyWord },
      { offset: 4, size: 4, read: () => control.negotiation.acknowledgedWord(0), write: (v) => control.writeLegacyFeatures(v) },
      { offset: 8, size: 4, read: () => this.#pageNumber(), write: (v) => this.#place(v) },
      // (driver MUST): taken as it is given.
      { offset: 12, size: 2, read: () => present()?.size ?? 0 },
      { offset: 14, size: 2, read: () => this.queue, write: (v) => (this.queue = v) },
      {
        offset: 16,
        size: 2,
        read: () => 0,
        write: (v) => {
          control.notifyLegacy(v);
          served();
        },
      },
      { offset: 18, size: 1, read: () => control.readStatus(), write: (v) => control.writeLegacyStatus(v) },
      { offset: 19, size: 1, read: () => interrupts.isrRegion.read(0, 1) },
      {
        offset: 20,
        size: 2,
        read: () => interrupts.configVector,
        write: (v) => {
          if (control.legacy) interrupts.configVector = v;
        },
      },
      {
        offset: 22,
        size: 2,
        read: () => interrupts.queueVector(this.queue),
        write: (v) => control.legacy && present() && interrupts.setQueueVector(this.queue, v),
      },
    ];
    this.#header = new RegisterFields(LEGACY_HEADER_BYTES, fields);
  }

  #pageNumber(): number {
    const record = this.#control.queues.at(this.queue);
    return record?.enabled ? Math.floor(record.setup.descriptorArea / PAGE) : 0;
  }

  #place(page: number): void {
    const record = this.#control.queues.at(this.queue);
    if (record === undefined) return;
    const { size } = record;
    const descriptors = page * PAGE;
    const driver = descriptors + 16 * size;
    // flags, idx, ring, used_event; then the padding.
    const device = Math.ceil((driver + 6 + 2 * size) / PAGE) * PAGE;
    this.#control.placeLegacyQueue(this.queue, page === 0 ? undefined : [descriptors, driver, device]);
  }

  get #length(): number {
    return this.#interrupts.msix ? LEGACY_HEADER_BYTES : HEADER;
  }

  /** (device MUST): the device configuration may be accessed with any width. */
  read(offset: number, size: AccessSize): number {
    const header = this.#length;
    const { configSize } = this.#control.device;
    if (offset >= header && offset + size <= header + configSize) return this.#control.readConfig(offset - header, size);
    if (offset + size <= header) return this.#header.read(offset, size);
    let value = 0;
    for (let i = 0; i < size; i++) {
      const at = offset + i;
      const byte = at < header ? this.#header.read(at, 1) : at < header + configSize ? this.#control.readConfig(at - header, 1) : 0;
      value += byte * 2 ** (8 * i);
    }
    return value;
  }

  write(offset: number, size: AccessSize, value: number): void {
    const header = this.#length;
    if (offset + size <= header) {
      this.#header.write(offset, size, value);
      return;
    }
    for (let i = 0; i < size; i++) {
      const at = offset + i;
      const byte = Math.floor(value / 2 ** (8 * i)) & 0xff;
      if (at < header) this.#header.write(at, 1, byte);
      else if (at < header + this.#control.device.configSize && this.#control.legacy) this.#control.writeConfig(at - header, 1, byte);
    }
  }

  // ---- by command of its group's owner: virtio 1.4 2.12.1.1 ----

  /** Bytes of one field, or part of it; undefined for anything else. Without MSI-X the structure ends before the vectors. */
  readField(area: LegacyArea, offset: number, length: number): Uint8Array | undefined {
    if (!this.#isOneField(area, offset, length)) return undefined;
    const at = area === 'common' ? offset : offset + this.#length;
    if (length === 2 || length === 4) {
      const value = this.read(at, length);
      return Uint8Array.from({ length }, (_, i) => Math.floor(value / 2 ** (8 * i)) & 0xff);
    }
    return Uint8Array.from({ length }, (_, i) => this.read(at + i, 1));
  }

  /** False for what is not within one field. */
  writeField(area: LegacyArea, offset: number, data: Uint8Array): boolean {
    const { length } = data;
    if (!this.#isOneField(area, offset, length)) return false;
    const at = area === 'common' ? offset : offset + this.#length;
    if (length === 2 || length === 4)
      this.write(
        at,
        length,
        data.reduce((sum, byte, i) => sum + byte * 2 ** (8 * i), 0),
      );
    else for (let i = 0; i < length; i++) this.write(at + i, 1, data[i] as number);
    return true;
  }

  #isOneField(area: LegacyArea, offset: number, length: number): boolean {
    const fields = area === 'common' ? COMMON_FIELDS : (this.#control.device.configFields ?? []);
    const most = area === 'common' ? this.#length : this.#control.device.configSize;
    let start = 0;
    for (const size of fields) {
      if (offset < start + size) return length > 0 && offset + length <= Math.min(start + size, most);
      start += size;
    }
    return false;
  }

  clear(): void {
    this.queue = 0;
    this.#header.clear();
  }
}
