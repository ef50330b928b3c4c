// Feature negotiation (virtio 1.4 2.2): what is offered, what the driver acknowledges of it word by word, and the set the two have settled on. A legacy driver (2.2.3) sees the first
// word only and cannot be refused.

import type { VirtioDevice } from './device.ts';
import { FeatureSet, VIRTIO_F_ANY_LAYOUT, VIRTIO_F_VERSION_1 } from './features.ts';

const NO_FEATURES = new FeatureSet();
const WORDS = 4;

export interface SavedNegotiation {
  readonly offered: readonly number[];
  /** What the driver wrote so far. */
  readonly driver: readonly number[];
  readonly negotiated: readonly number[];
}

export class Negotiation {
  readonly offered: FeatureSet;
  readonly #device: VirtioDevice;
  #acknowledged = new Array<number>(WORDS).fill(0);
  /** The driver acknowledged something past bit 127, where nothing is. */
  #beyond = false;
  #settled = NO_FEATURES;

  constructor(device: VirtioDevice, offered: FeatureSet) {
    this.#device = device;
    this.offered = offered;
  }

  /** Empty before. */
  get settled(): FeatureSet {
    return this.#settled;
  }

  offeredWord(selector: number): number {
    return this.offered.words[selector] ?? 0;
  }

  acknowledgedWord(selector: number): number {
    return this.#acknowledged[selector] ?? 0;
  }

  acknowledge(selector: number, value: number): void {
    if (selector < WORDS) this.#acknowledged[selector] = value >>> 0;
    else this.#beyond = value !== 0;
  }

  /** Settles on what was acknowledged; otherwise why that cannot be. */
  settle(): string | undefined {
    const features = new FeatureSet(this.#acknowledged);
    if (this.#beyond || !features.without(this.offered).empty) return 'bits that are not offered';
    if (!features.has(VIRTIO_F_VERSION_1)) return 'VERSION_1 is not acknowledged';
    const reason = this.#device.refuses(features, false);
    if (reason === undefined) this.#settled = features;
    return reason;
  }

  /** What a legacy driver is offered. */
  get legacyWord(): number {
    return (this.offeredWord(0) | (1 << VIRTIO_F_ANY_LAYOUT)) >>> 0;
  }

  /** Settles on as much as can be of what a legacy driver acknowledged. */
  settleLegacy(value: number): void {
    this.#acknowledged = [value >>> 0, 0, 0, 0];
    this.#settled = acceptableLegacy(value, this.offered, this.#device);
  }

  /** A reset. */
  clear(): void {
    this.#acknowledged.fill(0);
    this.#beyond = false;
    this.#settled = NO_FEATURES;
  }

  save(): SavedNegotiation {
    return { offered: [...this.offered.words], driver: [...this.#acknowledged], negotiated: [...this.#settled.words] };
  }

  /** What has been checked. */
  restore(driver: readonly number[], settled: FeatureSet): void {
    this.#acknowledged = [...driver];
    this.#beyond = false;
    this.#settled = settled;
  }
}

/** Of what a legacy driver acknowledged, as much as goes together. */
export function acceptableLegacy(acknowledged: number, offered: FeatureSet, device: VirtioDevice): FeatureSet {
  const asked = new FeatureSet([acknowledged]).and(offered).bits();
  let features = new FeatureSet();
  for (let before = -1; before !== features.bits().length; ) {
    before = features.bits().length;
    for (const bit of asked) if (device.refuses(features.or(FeatureSet.of(bit)), true) === undefined) features = features.or(FeatureSet.of(bit));
  }
  return features;
}
