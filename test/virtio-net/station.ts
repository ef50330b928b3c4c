// A network device over a real data plane, with its rings driven by hand through registers.

import type { VirtioNetOptions } from '#devices/virtio-net/device';
import type { FeatureSet } from '#virtio/features';
import type { VhostBackend } from '#virtio/vhost';
import { PackedDriver } from '../virtio/driver-packed.ts';
import { SplitDriver } from '../virtio/driver-split.ts';
import { VirtioBench } from '../virtio-pci/bench.ts';
import { ControlBench } from './control-bench.ts';

const HEADER = 12;
const RECEIVE = 0x300000 - 0x40000;
export const TRANSMIT = 0x300000 - 0x80000;
const BUFFER = 2048;
export const MAC_B = [0x52, 0x54, 0, 0, 0, 0xb];

export interface StationOptions extends Partial<VirtioNetOptions> {
  /** Absent: all that is offered. */
  readonly negotiate?: FeatureSet;
}

/** A device with its rings driven by hand. */
export class Station extends ControlBench {
  receive: SplitDriver | PackedDriver;
  transmit: SplitDriver | PackedDriver;
  #posted = 0;
  #taken = 0;
  #sent = 0;

  constructor(backend: VhostBackend, mac: string, packed: boolean, options: StationOptions = {}) {
    const { negotiate, ...net } = options;
    super({ net: { mac, backend, ...net }, packed, ...(negotiate ? { features: negotiate } : {}) });
    this.receive = this.ring(0, packed);
    this.transmit = this.ring(1, packed);
    this.refill(16);
  }

  ring(index: number, packed: boolean, size = 256): SplitDriver | PackedDriver {
    const { descriptor, driver, device } = VirtioBench.area(index);
    const features = this.pci.device.offered;
    const options = { eventIdx: features.has(29), inOrder: packed && features.has(35) };
    return packed
      ? new PackedDriver(this.ram, { size, ring: descriptor, driver, device }, options)
      : new SplitDriver(this.ram, { size, desc: descriptor, avail: driver, used: device }, options);
  }

  refill(count: number): void {
    for (let i = 0; i < count; i++) {
      const slot = this.#posted++ % 64;
      this.receive.add(slot, [{ address: RECEIVE + slot * BUFFER, length: BUFFER, write: true }]);
    }
    this.receive.expose();
    this.kick(0);
  }

  /** Adds a buffer for each that came back. */
  top(): void {
    if (this.#taken > 0) this.refill(this.#taken);
    this.#taken = 0;
  }

  send(frame: readonly number[]): void {
    this.#put(frame);
    this.kick(1);
    this.transmit.reap();
  }

  /** Makes a frame to the second station available. */
  postFrame(length: number): void {
    this.#put(frameTo(MAC_B, undefined, length));
  }

  /** In a buffer of its own. */
  #put(frame: readonly number[]): void {
    const slot = this.#sent++ % 64;
    const at = TRANSMIT + slot * BUFFER;
    this.bytes.fill(0, at, at + HEADER);
    this.bytes.set(frame, at + HEADER);
    this.transmit.add(slot, [{ address: at, length: HEADER + frame.length }]);
    this.transmit.expose();
  }

  /** Transmit buffers that came back since the last call. */
  reapSent(): number {
    return this.transmit.reap().length;
  }

  /** Frames received since the last call. */
  received(): number[][] {
    const done = this.receive.reap();
    this.#taken += done.length;
    return done.map(({ cookie, length }) => [...this.bytes.subarray(RECEIVE + cookie * BUFFER + HEADER, RECEIVE + cookie * BUFFER + length)]);
  }
}

export function frameTo(destination: readonly number[], tag?: number, length = 64): number[] {
  const type = tag === undefined ? [8, 0] : [0x81, 0, tag >>> 8, tag & 0xff, 8, 0];
  const head = [...destination, 0x52, 0x54, 0, 0, 0, 0xa, ...type];
  return [...head, ...Array.from({ length: length - head.length }, (_, i) => i & 0xff)];
}
