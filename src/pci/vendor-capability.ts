// A vendor-specific capability (PCIe 4.0 7.9.4): fixed contents, optionally with writable bytes and one dword that is a live window, as virtio's
// configuration access structure needs (virtio 1.4 4.1.4.9: pci_cfg_data).

import { type Capability, type CapabilityArea, EFFECT_NONE } from './capability.ts';

export interface LiveWindow {
  /** Offset of the dword from the capability's start, a multiple of 4. */
  readonly offset: number;
  /** A guest is about to read some of it: returns its dword. May have side effects, once per guest read. Must not throw. */
  read(fields: CapabilityArea): number;
  /** A guest wrote the bytes with ones in `lanes`; `value` is the dword with them in place. Must not throw. */
  write(fields: CapabilityArea, value: number, lanes: number): void;
}

export interface VendorCapabilityOptions {
  /** Contents from offset 3 on (id, next and length come before). */
  readonly body: Uint8Array;
  /** Bits a guest may write, byte for byte of `body`; none if left out. */
  readonly writable?: Uint8Array;
  readonly live?: LiveWindow;
}

const BODY = 3;

export class VendorCapability implements Capability {
  readonly id = 0x09;
  readonly size: number;
  readonly #options: VendorCapabilityOptions;
  #area!: CapabilityArea;
  /** Present only with a live window, so that other functions' reads cost nothing. */
  readonly beforeRead?: (register: number) => void;

  /** @throws RangeError when it does not fit, or the window is not a dword inside it. */
  constructor(options: VendorCapabilityOptions) {
    this.#options = options;
    this.size = BODY + options.body.length;
    if (this.size > 192) throw new RangeError(`a vendor capability of ${this.size} bytes does not fit`);
    const { live } = options;
    if (live === undefined) return;
    if (live.offset % 4 !== 0 || live.offset < 4 || live.offset + 4 > this.size) throw new RangeError(`no window of 4 bytes at offset ${live.offset}`);
    this.beforeRead = (register) => {
      if (register === live.offset) this.#area.set32(register, live.read(this.#area));
    };
  }

  install(area: CapabilityArea): void {
    this.#area = area;
    const { body, writable, live } = this.#options;
    area.set8(2, this.size);
    body.forEach((byte, i) => {
      area.set8(BODY + i, byte);
    });
    writable?.forEach((mask, i) => {
      if (i < body.length) area.permitWrite(BODY + i, 1, mask);
    });
    if (live) area.permitWrite(live.offset, 4, 0xffff_ffff);
  }

  /** The capability's own bytes, for the device that owns it. */
  get fields(): CapabilityArea {
    return this.#area;
  }

  afterWrite(register: number, _old: number, _written: number, lanes: number): number {
    const { live } = this.#options;
    if (live !== undefined && register === live.offset) live.write(this.#area, this.#area.get32(register), lanes);
    return EFFECT_NONE;
  }
}
