// The device serial number (PCIe 4.0 7.9.3): a 64-bit identifier, usually an EUI-64 made of the MAC address.

import type { Capability, CapabilityArea } from './capability.ts';

export class SerialNumber implements Capability {
  readonly id = 0x03;
  readonly extended = true;
  readonly version = 1;
  readonly size = 12;
  readonly #high: number;
  readonly #low: number;

  /** @param high and @param low the upper and lower 32 bits. */
  constructor(high: number, low: number) {
    this.#high = high;
    this.#low = low;
  }

  /** The EUI-64 of a 48-bit MAC address: FF-FE between its halves (as 82576 6.2.8 and Linux print it: 00-11-22-ff-fe-33-44-55). */
  static ofMac(mac: Uint8Array): SerialNumber {
    const [a = 0, b = 0, c = 0, d = 0, e = 0, f = 0] = mac;
    return new SerialNumber(((a << 24) | (b << 16) | (c << 8) | 0xff) >>> 0, (0xfe000000 | (d << 16) | (e << 8) | f) >>> 0);
  }

  install(area: CapabilityArea): void {
    area.set32(4, this.#low);
    area.set32(8, this.#high);
  }
}
