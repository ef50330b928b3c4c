// Feature bits: 128 of them as four 32-bit words (virtio 1.4 2.2; selectors 0..3 of the PCI common configuration).

/** Offered through the legacy interface alone (virtio 1.4 6.3, transitional device MUST). */
export const VIRTIO_F_ANY_LAYOUT = 27;
export const VIRTIO_F_INDIRECT_DESC = 28;
export const VIRTIO_F_EVENT_IDX = 29;
export const VIRTIO_F_VERSION_1 = 32;
export const VIRTIO_F_ACCESS_PLATFORM = 33;
export const VIRTIO_F_RING_PACKED = 34;
export const VIRTIO_F_IN_ORDER = 35;
export const VIRTIO_F_SR_IOV = 37;
export const VIRTIO_F_NOTIFICATION_DATA = 38;
export const VIRTIO_F_NOTIF_CONFIG_DATA = 39;
export const VIRTIO_F_RING_RESET = 40;
export const VIRTIO_F_ADMIN_VQ = 41;
export const VIRTIO_F_SUSPEND = 43;

/** An immutable set of feature bits. */
export class FeatureSet {
  readonly words: readonly [number, number, number, number];

  constructor(words: readonly number[] = []) {
    this.words = [(words[0] ?? 0) >>> 0, (words[1] ?? 0) >>> 0, (words[2] ?? 0) >>> 0, (words[3] ?? 0) >>> 0];
  }

  static of(...bits: readonly number[]): FeatureSet {
    const words = [0, 0, 0, 0];
    for (const bit of bits) words[bit >>> 5] = (words[bit >>> 5] as number) | (1 << (bit & 31));
    return new FeatureSet(words);
  }

  has(bit: number): boolean {
    return (((this.words[bit >>> 5] ?? 0) >>> (bit & 31)) & 1) === 1;
  }

  /** Bits in both. */
  and(other: FeatureSet): FeatureSet {
    return new FeatureSet(this.words.map((w, i) => w & (other.words[i] as number)));
  }

  or(other: FeatureSet): FeatureSet {
    return new FeatureSet(this.words.map((w, i) => w | (other.words[i] as number)));
  }

  /** Bits here that are not in `other`. */
  without(other: FeatureSet): FeatureSet {
    return new FeatureSet(this.words.map((w, i) => w & ~(other.words[i] as number)));
  }

  equals(other: FeatureSet): boolean {
    return this.words.every((w, i) => w === other.words[i]);
  }

  get empty(): boolean {
    return this.words.every((w) => w === 0);
  }

  /** Bit numbers, ascending. */
  bits(): number[] {
    const bits: number[] = [];
    for (let bit = 0; bit < 128; bit++) if (this.has(bit)) bits.push(bit);
    return bits;
  }
}
