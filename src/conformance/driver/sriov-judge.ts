// The SR-IOV capability as the driver of a physical function uses it (virtio 1.4 6, 2.13): virtual functions are enabled once that was negotiated, and stay while there are commands for them.

import { FEATURE, type FeatureBits } from '../features.ts';
import { SRIOV } from '../sriov-bench.ts';
import type { Findings } from './findings.ts';
import type { VirtualFunctions } from './judge.ts';
import type { Peek } from './pci-places.ts';

const FIRST_EXTENDED = 0x100;

export class SriovJudge implements VirtualFunctions {
  readonly #findings: Findings;
  readonly #peek: Peek;
  #at: number | undefined;

  constructor(findings: Findings, peek: Peek) {
    this.#findings = findings;
    this.#peek = peek;
  }

  /** Of the capability; -1 without one. */
  get at(): number {
    this.#at ??= this.#find();
    return this.#at;
  }

  #find(): number {
    for (let at = FIRST_EXTENDED, n = 0; at >= FIRST_EXTENDED && n < 64; n++) {
      const head = this.#peek.config(at, 4);
      if ((head & 0xffff) === SRIOV.ID) return at;
      at = head >>> 20;
    }
    return -1;
  }

  get enabled(): boolean {
    return this.at >= 0 && (this.#peek.config(this.at + SRIOV.CONTROL, 2) & SRIOV.VF_ENABLE) !== 0;
  }

  get count(): number {
    return this.at < 0 ? 0 : this.#peek.config(this.at + SRIOV.NUM_VFS, 2);
  }

  negotiated(offered: FeatureBits, accepted: FeatureBits): void {
    const taken = accepted.has(FEATURE.SR_IOV);
    if (taken || offered.has(FEATURE.SR_IOV))
      this.#findings.check('sriov.2', 'SR_IOV accepted of a device without the capability', taken && this.at < 0, false);
  }

  /** Before a store to configuration space. `negotiated`: SR_IOV and FEATURES_OK; `inFlight`: commands for members. */
  write(offset: number, value: number, negotiated: () => boolean, inFlight: () => number): void {
    if (offset < FIRST_EXTENDED || offset !== this.at + SRIOV.CONTROL) return;
    const enables = (value & SRIOV.VF_ENABLE) !== 0;
    if (enables && !this.enabled) this.#findings.check('sriov.3', 'SR_IOV negotiated before VF Enable is set', negotiated(), true);
    if (!enables && this.enabled) this.#findings.check('sriov.9', 'commands for members in flight when VF Enable is cleared', inFlight(), 0);
  }
}
