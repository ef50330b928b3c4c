// A network device brought up with a control queue that the test drives: commands laid out in any slicing, over a split or a packed ring.

import { FeatureSet } from '#virtio/features';
import { PackedDriver } from '../virtio/driver-packed.ts';
import { type Buffer, SplitDriver } from '../virtio/driver-split.ts';
import { type BenchOptions, VirtioBench } from '../virtio-pci/bench.ts';

const DATA = 0x300000;
const TABLE = 0x2f0000;
const RING_PACKED = 34;

export const OK = 0;
export const ERR = 1;

export interface CommandOptions {
  /** Lengths of the readable descriptors; the rest goes into a last one. */
  readonly slices?: readonly number[];
  readonly indirect?: boolean;
  /** Lengths of the writable descriptors. */
  readonly writable?: readonly number[];
}

export class ControlBench extends VirtioBench {
  readonly index: number;
  readonly driver: SplitDriver | PackedDriver;
  #cookie = 0;
  #data = DATA;

  constructor(options: BenchOptions & { readonly features?: FeatureSet; readonly packed?: boolean; readonly queues?: readonly number[] } = {}) {
    super(options);
    const offered = this.offered();
    const features = options.features ?? (options.packed ? offered : offered.without(FeatureSet.of(RING_PACKED, 35)));
    const pairs = features.has(22) || features.has(60) ? this.net.queuePairs : 1;
    this.index = 2 * pairs;
    const size = 64;
    const { descriptor, driver, device } = VirtioBench.area(this.index);
    const ringOptions = { eventIdx: features.has(29), inOrder: features.has(35) };
    this.driver = features.has(RING_PACKED)
      ? new PackedDriver(this.ram, { size, ring: descriptor, driver, device }, ringOptions)
      : new SplitDriver(this.ram, { size, desc: descriptor, avail: driver, used: device }, ringOptions);
    this.bringUp(features, options.queues ?? [...Array.from({ length: this.index }, (_, i) => i), this.index]);
  }

  get bytes(): Uint8Array {
    return new Uint8Array(this.ram);
  }

  /** Makes a command available and notifies; returns what came back. */
  command(bytes: readonly number[], options: CommandOptions = {}): { ack: number; used: number } {
    const ackAt = this.post(bytes, options);
    this.kickControl();
    const done = this.driver.reap();
    if (done.length !== 1) throw new Error(`${done.length} control buffers came back`);
    return { ack: this.bytes[ackAt] as number, used: (done[0] as { length: number }).length };
  }

  kickControl(): void {
    this.driver.expose();
    this.kick(this.index);
  }

  /** Adds a command to the ring; returns where its first ack byte is. */
  post(bytes: readonly number[], options: CommandOptions = {}, driver = this.driver): number {
    const buffers: Buffer[] = [];
    let at = this.#data;
    this.bytes.set(bytes, at);
    let left = bytes.length;
    for (const slice of [...(options.slices ?? []), Number.POSITIVE_INFINITY]) {
      const length = Math.min(slice, left);
      if (length > 0) buffers.push({ address: at, length });
      at += length;
      left -= length;
    }
    const ackAt = at + 64;
    at = ackAt;
    for (const length of options.writable ?? [1]) {
      this.bytes.fill(0xee, at, at + length);
      buffers.push({ address: at, length, write: true });
      at += length;
    }
    this.#data = at + 64 > DATA + 0xf0000 ? DATA : at + 64;
    const added = options.indirect ? driver.add(this.#cookie++, buffers, TABLE) : driver.add(this.#cookie++, buffers);
    if (!added) throw new Error('control ring full');
    return ackAt;
  }
}

export const u16 = (value: number): number[] => [value & 0xff, value >>> 8];
export const u32 = (value: number): number[] => [...u16(value & 0xffff), ...u16(value >>> 16)];

export interface RssFields {
  readonly types: number;
  readonly table: readonly number[];
  readonly mask?: number;
  readonly unclassified?: number;
  readonly maxTx?: number;
  readonly key?: readonly number[];
  readonly keyLength?: number;
}

/** struct virtio_net_rss_config, byte by byte. */
export const rss = ({ types, table, mask = table.length - 1, unclassified = 0, maxTx = 1, key = RSS_KEY, keyLength = key.length }: RssFields): number[] => [
  ...u32(types),
  ...u16(mask),
  ...u16(unclassified),
  ...table.flatMap(u16),
  ...u16(maxTx),
  keyLength,
  ...key,
];
export const RSS_KEY = Array.from({ length: 40 }, (_, i) => (i * 37 + 11) & 0xff);
