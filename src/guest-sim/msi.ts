// MSI with one message as a driver sets it up (PCI 3.0 6.8.1): the platform's message address and a vector of the guest CPU's into the capability, then enable.

import type { GuestBus } from '#core/guest-bus';
import type { VectorSpace } from './msix.ts';
import type { ConfigAccess } from './pci-config.ts';
import { CAP_MSI, CFG, COMMAND_INTX_DISABLE, MSI_64_BIT, MSI_ADDRESS, MSI_CONTROL, MSI_ENABLE, MSI_MULTIPLE } from './pci-constants.ts';
import type { PciDevice } from './pci-enumerate.ts';

export class Msi {
  readonly #bus: GuestBus;
  readonly #config: ConfigAccess;
  readonly #rid: number;
  readonly #at: number;
  readonly #vectors: VectorSpace;
  #vector = -1;

  private constructor(bus: GuestBus, config: ConfigAccess, rid: number, at: number, vectors: VectorSpace) {
    this.#bus = bus;
    this.#config = config;
    this.#rid = rid;
    this.#at = at;
    this.#vectors = vectors;
  }

  /** The function's MSI, or undefined when it has none. */
  static find(bus: GuestBus, config: ConfigAccess, device: PciDevice, vectors: VectorSpace): Msi | undefined {
    const at = device.capabilities.find((c) => c.id === CAP_MSI)?.offset;
    return at === undefined ? undefined : new Msi(bus, config, device.rid, at, vectors);
  }

  /** Messages go to `handler`; the line is off. False when the CPU is out of vectors. */
  enable(handler: () => void): boolean {
    this.#vector = this.#vectors.allocate(handler);
    if (this.#vector < 0) return false;
    const control = this.#read(MSI_CONTROL, 2);
    const address = this.#bus.platform.msiAddress;
    this.#write(MSI_ADDRESS, 4, address % 2 ** 32);
    if ((control & MSI_64_BIT) !== 0) this.#write(MSI_ADDRESS + 4, 4, Math.floor(address / 2 ** 32));
    // The data's place is behind the address, whichever size that is.
    this.#write(MSI_ADDRESS + ((control & MSI_64_BIT) !== 0 ? 8 : 4), 2, this.#vector);
    this.#write(MSI_CONTROL, 2, (control & ~MSI_MULTIPLE) | MSI_ENABLE);
    const command = this.#config.read(this.#rid, CFG.COMMAND, 2);
    this.#config.write(this.#rid, CFG.COMMAND, 2, command | COMMAND_INTX_DISABLE);
    return true;
  }

  /** Back to the line; the vector goes back to the CPU. */
  disable(): void {
    this.#write(MSI_CONTROL, 2, this.#read(MSI_CONTROL, 2) & ~MSI_ENABLE);
    const command = this.#config.read(this.#rid, CFG.COMMAND, 2);
    this.#config.write(this.#rid, CFG.COMMAND, 2, command & ~COMMAND_INTX_DISABLE);
    if (this.#vector >= 0) this.#vectors.release(this.#vector);
    this.#vector = -1;
  }

  #read(register: number, size: 2 | 4): number {
    return this.#config.read(this.#rid, this.#at + register, size);
  }

  #write(register: number, size: 2 | 4, value: number): void {
    this.#config.write(this.#rid, this.#at + register, size, value);
  }
}
