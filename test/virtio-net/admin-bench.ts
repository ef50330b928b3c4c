// A driver of the administration virtqueue, typed from virtio 1.4 2.12 and 5.1.9.6: it lays commands out and reads what came back, and knows nothing of the device's code.

import type { VirtioNetOptions } from '#devices/virtio-net/device';
import { FeatureSet } from '#virtio/features';
import { PackedDriver } from '../virtio/driver-packed.ts';
import { SplitDriver } from '../virtio/driver-split.ts';
import { VirtioBench } from '../virtio-pci/bench.ts';
import { type CommandOptions, type ControlBench, u16, u32 } from './control-bench.ts';

export const [LIST_QUERY, LIST_USE, CAP_LIST, CAP_GET, CAP_SET, CREATE, QUERY, MODIFY, DESTROY] = [0, 1, 7, 8, 9, 0xa, 0xb, 0xc, 0xd] as const;
export const ALL_OPCODES = [0, 1, 7, 8, 9, 0xa, 0xb, 0xc, 0xd];
export const [RESOURCES, SELECTORS, ACTIONS] = [0x800, 0x801, 0x802] as const;
export const [GROUP, CLASSIFIER, RULE] = [0x200, 0x201, 0x202] as const;
export const [ENXIO, EBUSY, EEXIST, EINVAL, ENOSPC] = [6, 16, 17, 22, 28] as const;
export const [Q_OPCODE, Q_FIELD, Q_GROUP, Q_MEMBER] = [2, 3, 4, 5] as const;
export const [ETH, IPV4, IPV6, TCP, UDP] = [1, 2, 3, 4, 5] as const;
const LENGTHS: Readonly<Record<number, number>> = { 1: 14, 2: 20, 3: 40, 4: 20, 5: 8 };

export interface AdminReply {
  readonly status: number;
  readonly qualifier: number;
  readonly result: number[];
  readonly used: number;
}

export const bitmap = (...numbers: readonly number[]): number[] => {
  const bits = new Array<number>(8 * (Math.floor(Math.max(0, ...numbers) / 64) + 1)).fill(0);
  for (const n of numbers) bits[n >> 3] = (bits[n >> 3] as number) | (1 << (n & 7));
  return bits;
};
export const object = (type: number, id: number, data: readonly number[] = []): number[] => [...u16(type), 0, 0, ...u32(id), ...new Array(8).fill(0), ...data];
export const resources = (groups: number, classifiers: number, rules: number, perGroup = rules, last = 255, selectors = 3): number[] => [
  ...[groups, classifiers, rules, perGroup].flatMap(u32),
  last,
  selectors,
  0,
  0,
];

export interface Mask {
  readonly type: number;
  readonly flags?: number;
  /** Bytes that are all ones; or the whole mask. */
  readonly on?: readonly number[];
  readonly mask?: readonly number[];
}

export const selectors = (...list: readonly Mask[]): number[] => [
  list.length,
  ...new Array(7).fill(0),
  ...list.flatMap(({ type, flags = 0, on = [], mask }) => {
    const bytes = mask ?? Array.from({ length: LENGTHS[type] as number }, (_, i) => (on.includes(i) ? 0xff : 0));
    return [type, flags, 0, 0, bytes.length, 0, 0, 0, ...bytes];
  }),
];
export const everything = selectors(...[ETH, IPV4, IPV6, TCP, UDP].map((type) => ({ type, flags: 1, mask: new Array(LENGTHS[type]).fill(0xff) as number[] })));
export const actions = (...list: readonly number[]): number[] => [list.length, ...new Array(7).fill(0), ...list];
export const rule = (
  group: number,
  classifier: number,
  priority: number,
  queue: number | 'drop',
  keys: readonly number[],
  more: { action?: number; length?: number } = {},
): number[] => [
  ...u32(group),
  ...u32(classifier),
  priority,
  more.length ?? keys.length,
  more.action ?? (queue === 'drop' ? 1 : 2),
  0,
  ...u16(queue === 'drop' ? 0 : queue),
  0,
  0,
  ...keys,
];

/** Options of a bench whose device has an administration queue. */
export function withAdmin(net: Partial<VirtioNetOptions> = {}): Partial<VirtioNetOptions> {
  return { ...net, features: { ADMIN_VQ: true, ...net.features } };
}

export class AdminDriver {
  readonly index: number;
  readonly driver: SplitDriver | PackedDriver;
  readonly #bench: ControlBench;

  /** Sets its queue up; the device is live, and a queue that is enabled late starts alone. */
  constructor(bench: ControlBench, setUp = true) {
    this.#bench = bench;
    bench.set(0x16, 2, 0);
    this.index = bench.get(60, 2);
    const { descriptor, driver, device } = VirtioBench.area(this.index);
    const features = bench.pci.device.offered;
    const packed = bench.driver instanceof PackedDriver;
    const options = { eventIdx: features.has(29), inOrder: packed && features.has(35) };
    this.driver = packed
      ? new PackedDriver(bench.ram, { size: 64, ring: descriptor, driver, device }, options)
      : new SplitDriver(bench.ram, { size: 64, desc: descriptor, avail: driver, used: device }, options);
    if (setUp) bench.setUpQueue(this.index);
  }

  /** Sends bytes as they are. */
  raw(bytes: readonly number[], options: CommandOptions = {}): AdminReply {
    const writable = options.writable ?? [512];
    const at = this.#bench.post(bytes, { ...options, writable }, this.driver);
    this.driver.expose();
    this.#bench.kick(this.index);
    const done = this.driver.reap();
    if (done.length !== 1) throw new Error(`${done.length} administration buffers came back`);
    const used = (done[0] as { length: number }).length;
    // virtio 1.4 2.13.2 (driver MUST): what is past the used length counts as zero.
    const got = [...this.#bench.bytes.subarray(at, at + used)];
    return { status: (got[0] ?? 0) | ((got[1] ?? 0) << 8), qualifier: (got[2] ?? 0) | ((got[3] ?? 0) << 8), result: got.slice(8), used };
  }

  send(opcode: number, data: readonly number[] = [], options: CommandOptions & { group?: number; member?: number } = {}): AdminReply {
    return this.raw([...u16(opcode), ...u16(options.group ?? 0), ...new Array(12).fill(0), ...u32(options.member ?? 0), ...u32(0), ...data], options);
  }

  /** The status alone. */
  status(opcode: number, data: readonly number[] = []): number {
    return this.send(opcode, data).status;
  }

  use(opcodes: readonly number[] = ALL_OPCODES): void {
    if (this.status(LIST_USE, bitmap(...opcodes)) !== 0) throw new Error('LIST_USE failed');
  }

  /** Uses every command and sets every capability to `limits` and all there is. */
  enable(limits = resources(16, 32, 64)): void {
    this.use();
    for (const [id, data] of [
      [RESOURCES, limits],
      [SELECTORS, everything],
      [ACTIONS, actions(1, 2)],
    ] as const)
      if (this.status(CAP_SET, [...u16(id), 0, 0, 0, 0, 0, 0, ...data]) !== 0) throw new Error(`capability ${id} was refused`);
  }
}

export function capSet(id: number, data: readonly number[]): number[] {
  return [...u16(id), 0, 0, 0, 0, 0, 0, ...data];
}

export const SPLIT_ONLY = FeatureSet.of(34, 35);
