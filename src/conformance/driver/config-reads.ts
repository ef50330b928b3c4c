// How the device configuration is read (virtio 1.4 2.5.1): a field that takes several accesses between two equal generations, and again when they differ.

import { CFG_TYPE } from '../layout.ts';
import type { Findings } from './findings.ts';
import type { Place } from './pci-places.ts';

const MAC_END = 6;

export class ConfigReads {
  readonly #findings: Findings;
  /** The generation that was read right before the fields were. */
  #before: number | undefined;
  #macReads = 0;
  #reads = 0;
  #again = false;

  constructor(findings: Findings) {
    this.#findings = findings;
  }

  /** Any access to the device's structures. */
  access({ type, field, offset }: Place, value: number): void {
    if (type === CFG_TYPE.DEVICE) {
      if (this.#again) this.#reread(true);
      this.#reads++;
      if (offset < MAC_END) this.#macReads++;
      return;
    }
    const generation = field === 'config_generation';
    // The MAC address is the one field wider than a register.
    if (this.#macReads > 1) this.#findings.check('config.2', 'a MAC address read between two reads of config_generation', this.#before !== undefined && generation, true);
    if (generation && this.#reads > 0 && this.#before !== undefined && value !== this.#before) this.#again = true;
    else if (!generation && this.#again) this.#reread(false);
    this.#before = generation ? value : undefined;
    this.#macReads = 0;
    this.#reads = 0;
  }

  #reread(done: boolean): void {
    this.#again = false;
    for (const clause of ['config.1', 'config.2'] as const) this.#findings.check(clause, 'configuration read again after its generation had changed meanwhile', done, true);
  }
}
