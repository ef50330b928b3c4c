// A physical function with virtual functions in a machine, driven register by register: SR-IOV capability, common configuration, rings, administration commands. Offsets and numbers are typed
// from PCIe 4.0 9.3.3 and virtio 1.4 2.12, 2.14, 4.1.4, not taken from the device.

import { InlineSegment } from '#backends/inline-backend';
import { type Clock, SimClock } from '#core/clock';
import { GuestMemory } from '#core/guest-memory';
import type { AccessSize } from '#core/region';
import type { VirtioNet } from '#devices/virtio-net/device';
import type { NetSriovOptions, NetVfs } from '#devices/virtio-net/virtual-functions';
import { LearningSwitch } from '#net/learning-switch';
import { Segment } from '#net/segment';
import { Machine } from '#nicbox/machine';
import { rootPort } from '#pci/bridges';
import { FeatureSet } from '#virtio/features';
import type { VhostBackend } from '#virtio/vhost';
import { PackedDriver } from '../virtio/driver-packed.ts';
import { SplitDriver } from '../virtio/driver-split.ts';

const RAM = 16 * 2 ** 20;
export const [OK, ENXIO, EAGAIN, ENOMEM, EBUSY, EEXIST, EINVAL, ENOSPC] = [0, 6, 11, 12, 16, 17, 22, 28] as const;
export const [Q_OPCODE, Q_FIELD, Q_GROUP, Q_MEMBER] = [2, 3, 4, 5] as const;
export const SRIOV_OPCODES = [0, 1, 2, 3, 4, 5, 6, 0xa, 0xb, 0xc, 0xd, 0xe, 0xf, 0x10, 0x11];
export const SELF = 0;
export const SRIOV = 1;

const PF_BAR = 2 ** 40;
const PF_MSIX = 0xc000_0000;
const VF_BAR = 2 ** 40 + 2 ** 30;
const VF_MSIX = 0xd000_0000;

export const le = (value: number, bytes: number): number[] => Array.from({ length: bytes }, (_, i) => Math.floor(value / 2 ** (8 * i)) & 0xff);
export const number = (bytes: readonly number[]): number => bytes.reduce((sum, byte, i) => sum + byte * 2 ** (8 * i), 0);
export const bits = (...set: readonly number[]): number[] => {
  const bytes = new Array<number>(8 * (Math.floor(Math.max(0, ...set) / 64) + 1)).fill(0);
  for (const n of set) bytes[n >> 3] = (bytes[n >> 3] as number) | (1 << (n & 7));
  return bytes;
};

export interface Part {
  readonly type: number;
  readonly optional: boolean;
  readonly selector: number[];
  readonly value: number[];
}

export const part = (type: number, selector: readonly number[], value: readonly number[], flags = 0, length = value.length): number[] => [
  ...le(type, 2),
  flags,
  0,
  ...selector,
  ...new Array(8 - selector.length).fill(0),
  ...le(length, 4),
  ...value,
];

export function parse(bytes: readonly number[], values = true): Part[] {
  const parts: Part[] = [];
  for (let at = 0; at + 16 <= bytes.length; ) {
    const length = number(bytes.slice(at + 12, at + 16));
    const type = number(bytes.slice(at, at + 2));
    // A result is filled up with zeros to a multiple of eight bytes.
    if (type === 0) break;
    const value = values ? bytes.slice(at + 16, at + 16 + length) : [];
    parts.push({ type, optional: (bytes[at + 2] as number) === 1, selector: bytes.slice(at + 4, at + 12), value });
    at += 16 + (values ? length : 0);
  }
  return parts;
}

export class Fn {
  readonly machine: Machine;
  readonly bdf: number;
  readonly caps = new Map<number, number>();
  readonly base: number;
  readonly msixBase: number;

  constructor(machine: Machine, bdf: number, base: number, msixBase: number) {
    this.machine = machine;
    this.bdf = bdf;
    this.base = base;
    this.msixBase = msixBase;
    for (let at = this.config(0x34, 1); at !== 0; at = this.config(at + 1, 1))
      this.caps.set(this.config(at, 1) === 9 ? this.config(at + 3, 1) : 0x100 + this.config(at, 1), at);
  }

  config(offset: number, size: AccessSize): number {
    return this.machine.configRead(this.bdf, offset, size);
  }

  setConfig(offset: number, size: AccessSize, value: number): void {
    this.machine.configWrite(this.bdf, offset, size, value);
  }

  extended(id: number): number {
    for (let at = 0x100; at !== 0; at = this.config(at, 4) >>> 20) if ((this.config(at, 4) & 0xffff) === id) return at;
    return 0;
  }

  get(field: number, size: AccessSize): number {
    return this.machine.mmioRead(this.base + field, size);
  }

  set(field: number, size: AccessSize, value: number): void {
    this.machine.mmioWrite(this.base + field, size, value);
  }

  get status(): number {
    return this.get(20, 1);
  }

  set status(value: number) {
    this.set(20, 1, value);
  }

  get mac(): number[] {
    return [0, 1, 2, 3, 4, 5].map((i) => this.get(0x2000 + i, 1));
  }

  offered(): FeatureSet {
    return new FeatureSet(
      [0, 1, 2, 3].map((selector) => {
        this.set(0, 4, selector);
        return this.get(4, 4);
      }),
    );
  }

  negotiate(features: FeatureSet): void {
    this.status = 0;
    this.status = 1;
    this.status = 3;
    features.words.forEach((word, selector) => {
      this.set(8, 4, selector);
      this.set(12, 4, word);
    });
    this.status = 11;
    if ((this.status & 8) === 0) throw new Error('features refused');
  }

  queue(index: number, memory: number, size: number, vector = 0xffff): void {
    this.set(22, 2, index);
    this.set(24, 2, size);
    this.set(26, 2, vector);
    for (const [at, address] of [
      [32, memory],
      [40, memory + 0x1000],
      [48, memory + 0x2000],
    ] as const) {
      this.set(at, 4, address);
      this.set(at + 4, 4, 0);
    }
    this.set(28, 2, 1);
  }

  kick(index: number): void {
    this.set(0x3000 + 4 * index, 2, index);
  }

  programVector(entry: number, vector: number): void {
    const cap = this.caps.get(0x111) as number;
    this.setConfig(cap + 2, 2, 0x8000);
    for (const [at, value] of [
      [0, 0xfee0_0000],
      [4, 0],
      [8, vector],
      [12, 0],
    ] as const)
      this.machine.mmioWrite(this.msixBase + 16 * entry + at, 4, value);
  }

  reset(): void {
    const express = this.caps.get(0x110) as number;
    this.setConfig(express + 8, 2, this.config(express + 8, 2) | 0x8000);
  }
}

export interface Reply {
  readonly status: number;
  readonly qualifier: number;
  readonly result: number[];
  readonly used: number;
}

export type RingDriver = SplitDriver | PackedDriver;

function ring(ram: SharedArrayBuffer, memory: number, size: number, packed: boolean, features: FeatureSet): RingDriver {
  const options = { eventIdx: features.has(29), inOrder: packed && features.has(35) };
  return packed
    ? new PackedDriver(ram, { size, ring: memory, driver: memory + 0x1000, device: memory + 0x2000 }, options)
    : new SplitDriver(ram, { size, desc: memory, avail: memory + 0x1000, used: memory + 0x2000 }, options);
}

export interface HostOptions extends Partial<NetSriovOptions> {
  readonly memory?: GuestMemory;
  readonly port?: boolean;
  /** The PF's data plane; with `backend`, of the caller's making. */
  readonly pfBackend?: VhostBackend;
  readonly clock?: Clock;
}

const ADMIN_AREA = 0x1_0000;
const ADMIN_DATA = 0x2_0000;
const ADMIN_ROOM = 0x2_0000;
const SPLIT_ONLY = FeatureSet.of(34, 35);

export class Host {
  readonly simulated = new SimClock();
  readonly memory: GuestMemory;
  readonly ram: SharedArrayBuffer;
  readonly machine: Machine;
  readonly segment = new InlineSegment(new Segment(new LearningSwitch()));
  readonly net: VirtioNet;
  readonly vfs: NetVfs;
  readonly pf: Fn;
  readonly sriov: number;
  #admin: RingDriver | undefined;
  #adminIndex = 0;
  #vfStride: readonly [number, number] = [0, 0];

  constructor(options: HostOptions = {}) {
    const { memory, port = false, pfBackend, clock, ...sriov } = options;
    this.memory = memory ?? new GuestMemory([{ base: 0, size: RAM }]);
    this.ram = (this.memory.slabs[0] as (typeof this.memory.slabs)[0]).views.u8.buffer as SharedArrayBuffer;
    this.machine = new Machine({ memory: this.memory, clock: clock ?? this.simulated });
    const under = port ? rootPort() : undefined;
    if (under) this.machine.attach(under, { deviceNumber: 1 });
    const { net, vfs } = this.machine.addVirtioNet(
      {
        mac: '52:54:00:00:00:01',
        backend: pfBackend ?? this.segment.port('pf'),
        sriov: { totalVfs: 4, backend: (vf) => this.segment.port(`vf${vf}`, options.maxQueuePairs ?? options.queuePairs ?? 1), ...sriov },
      },
      under ? { under } : { deviceNumber: 1 },
    );
    this.net = net;
    this.vfs = vfs;
    if (under) {
      // Buses 1 and 2 below the port, memory windows open, ARI forwarding on.
      this.machine.configWrite(0x08, 0x18, 4, 0x0002_0100);
      this.machine.configWrite(0x08, 0x20, 4, 0xdff0_c000);
      this.machine.configWrite(0x08, 0x24, 4, 0xfff1_0001);
      this.machine.configWrite(0x08, 0x28, 4, PF_BAR / 2 ** 32);
      this.machine.configWrite(0x08, 0x2c, 4, PF_BAR / 2 ** 32);
      this.machine.configWrite(0x08, 4, 2, 6);
      const port = new Fn(this.machine, 0x08, 0, 0);
      const express = port.caps.get(0x110) as number;
      port.setConfig(express + 0x28, 2, 0x20);
    }
    this.pf = new Fn(this.machine, port ? 0x100 : 0x08, PF_BAR, PF_MSIX);
    this.pf.setConfig(0x10, 4, 0);
    this.pf.setConfig(0x14, 4, PF_BAR / 2 ** 32);
    this.pf.setConfig(0x18, 4, PF_MSIX);
    this.pf.setConfig(4, 2, 6);
    this.sriov = this.pf.extended(0x10);
  }

  bytes(at: number, length: number): Uint8Array {
    return new Uint8Array(this.ram, at, length);
  }

  /** The PF's driver: features, and the administration queue. */
  startPf(): this {
    const features = this.pf.offered().without(SPLIT_ONLY);
    this.pf.negotiate(features);
    this.#adminIndex = this.pf.get(60, 2);
    this.bytes(ADMIN_AREA, 0x4000).fill(0);
    this.pf.queue(this.#adminIndex, ADMIN_AREA, 16);
    this.pf.status = 15;
    this.#admin = ring(this.ram, ADMIN_AREA, 16, false, features);
    return this;
  }

  /** @param hierarchy ARI Capable Hierarchy, for functions one after the other */
  enable(count: number, hierarchy = false): Fn[] {
    const { pf, sriov } = this;
    if (hierarchy) pf.setConfig(sriov + 8, 2, 16);
    const bar = 36 + (this.hasBar0 ? 0 : 16);
    const sized = (at: number): number => {
      pf.setConfig(sriov + at, 4, 0xffff_ffff);
      return (~(pf.config(sriov + at, 4) & ~15) + 1) >>> 0;
    };
    this.#vfStride = [sized(bar), sized(36 + 8)];
    pf.setConfig(sriov + bar, 4, VF_BAR % 2 ** 32);
    pf.setConfig(sriov + bar + 4, 4, Math.floor(VF_BAR / 2 ** 32));
    pf.setConfig(sriov + 36 + 8, 4, VF_MSIX);
    pf.setConfig(sriov + 16, 2, count);
    pf.setConfig(sriov + 8, 2, (hierarchy ? 16 : 0) | 8 | 1);
    return Array.from({ length: count }, (_, vf) => this.vf(vf));
  }

  disable(): void {
    this.pf.setConfig(this.sriov + 8, 2, this.pf.config(this.sriov + 8, 2) & 16);
  }

  get hasBar0(): boolean {
    this.pf.setConfig(this.sriov + 36, 4, 0xffff_ffff);
    return this.pf.config(this.sriov + 36, 4) !== 0;
  }

  vf(vf: number): Fn {
    const { pf, sriov } = this;
    const bdf = pf.bdf + pf.config(sriov + 20, 2) + vf * pf.config(sriov + 22, 2);
    const fn = new Fn(this.machine, bdf, VF_BAR + vf * this.#vfStride[0], VF_MSIX + vf * this.#vfStride[1]);
    fn.setConfig(4, 2, 4);
    return fn;
  }

  // ---- administration ----

  post(opcode: number, group: number, member: number, data: readonly number[] = [], room = 0x1_8000): void {
    const admin = this.#admin as RingDriver;
    const readable = [...le(opcode, 2), ...le(group, 2), ...new Array(12).fill(0), ...le(member, 8), ...data];
    this.bytes(ADMIN_DATA, readable.length).set(readable);
    this.bytes(ADMIN_DATA + ADMIN_ROOM, 8 + room).fill(0xee);
    admin.add(1, [
      { address: ADMIN_DATA, length: readable.length },
      ...(8 + room > 0 ? [{ address: ADMIN_DATA + ADMIN_ROOM, length: 8 + room, write: true }] : []),
    ]);
    admin.expose();
    this.pf.kick(this.#adminIndex);
  }

  /** What came back, or undefined while the device is at it. */
  reply(): Reply | undefined {
    const [done] = (this.#admin as RingDriver).reap();
    if (done === undefined) return undefined;
    const got = [...this.bytes(ADMIN_DATA + ADMIN_ROOM, done.length)];
    return { status: number(got.slice(0, 2)), qualifier: number(got.slice(2, 4)), result: got.slice(8), used: done.length };
  }

  admin(opcode: number, group: number, member: number, data: readonly number[] = [], room = 0x1_8000): Reply {
    this.post(opcode, group, member, data, room);
    const reply = this.reply();
    if (reply === undefined) throw new Error(`administration command ${opcode} has not come back`);
    return reply;
  }

  /** Uses every command of both groups, and sets the device parts capability. */
  useAll(limits: readonly [number, number] = [4, 4]): this {
    const selfOpcodes = this.admin(0, SELF, 0).result;
    for (const [group, list] of [
      [SELF, selfOpcodes],
      [SRIOV, this.admin(0, SRIOV, 0).result],
    ] as const)
      if (this.admin(1, group, 0, list).status !== OK) throw new Error('LIST_USE failed');
    if (this.admin(9, SELF, 0, [...le(0, 8), ...limits]).status !== OK) throw new Error('no device parts capability');
    return this;
  }

  object(member: number, id: number, kind: 'get' | 'set'): Reply {
    return this.admin(0xa, SRIOV, member, [...le(0, 4), ...le(id, 4), ...le(0, 8), kind === 'get' ? 0 : 1, 0, 0, 0, 0, 0, 0, 0]);
  }

  mode(member: number, stopped: boolean): Reply {
    return this.admin(0x11, SRIOV, member, [stopped ? 1 : 0]);
  }

  /** All parts, through object `id`. */
  parts(member: number, id = 0): number[] {
    const { status, result } = this.admin(0xf, SRIOV, member, [...le(0, 4), ...le(id, 4), 1, 0, 0, 0, 0, 0, 0, 0]);
    if (status !== OK) throw new Error(`DEV_PARTS_GET: ${status}`);
    const length = parse(result).reduce((sum, { value }) => sum + 16 + value.length, 0);
    return result.slice(0, length);
  }

  setParts(member: number, parts: readonly number[], id = 0): Reply {
    return this.admin(0x10, SRIOV, member, [...le(0, 4), ...le(id, 4), ...parts]);
  }

  vectors(): number[] {
    const taken: number[] = [];
    this.machine.service();
    for (let vector = this.machine.vectors.take(); vector >= 0; vector = this.machine.vectors.take()) taken.push(vector);
    return taken;
  }
}

const HEADER = 12;
const BUFFER = 2048;
const CONTROL_SIZE = 16;

/** A VF's driver: one queue pair and the control queue, all memory from `at` on. */
export class Station {
  fn: Fn;
  readonly ram: SharedArrayBuffer;
  readonly at: number;
  readonly receive: RingDriver;
  readonly transmit: RingDriver;
  readonly control: RingDriver;
  readonly features: FeatureSet;
  readonly controlIndex: number;
  #sent = 0;
  #posted = 0;

  constructor(
    host: Host,
    fn: Fn,
    at: number,
    options: { readonly packed?: boolean; readonly size?: number; readonly buffers?: number; readonly vectors?: boolean } = {},
  ) {
    const { packed = false, size = 64, buffers = 16, vectors = false } = options;
    this.fn = fn;
    this.ram = host.ram;
    this.at = at;
    const offered = fn.offered();
    this.features = packed ? offered : offered.without(SPLIT_ONLY);
    fn.negotiate(this.features);
    this.controlIndex = fn.get(18, 2) - 1;
    host.bytes(at, 0x10000).fill(0);
    if (vectors) for (const entry of [0, 1, 2]) fn.programVector(entry, 0x40 + entry);
    if (vectors) fn.set(16, 2, 2);
    fn.queue(0, at, size, vectors ? 0 : 0xffff);
    fn.queue(1, at + 0x4000, size, vectors ? 1 : 0xffff);
    fn.queue(this.controlIndex, at + 0x8000, CONTROL_SIZE);
    this.receive = ring(host.ram, at, size, packed, this.features);
    this.transmit = ring(host.ram, at + 0x4000, size, packed, this.features);
    this.control = ring(host.ram, at + 0x8000, CONTROL_SIZE, packed, this.features);
    fn.status = 15;
    this.refill(buffers);
  }

  #bytes(at: number, length: number): Uint8Array {
    return new Uint8Array(this.ram, at, length);
  }

  refill(count: number): void {
    for (let i = 0; i < count; i++) {
      const slot = this.#posted++ % 32;
      this.receive.add(slot, [{ address: this.at + 0x1_0000 + slot * BUFFER, length: BUFFER, write: true }]);
    }
    this.receive.expose();
    this.fn.kick(0);
  }

  send(frame: readonly number[], kick = true): void {
    const at = this.at + 0x2_0000 + (this.#sent++ % 32) * BUFFER;
    this.#bytes(at, HEADER).fill(0);
    this.#bytes(at + HEADER, frame.length).set(frame);
    this.transmit.reap();
    this.transmit.add(this.#sent % 32, [{ address: at, length: HEADER + frame.length }]);
    this.transmit.expose();
    if (kick) this.fn.kick(1);
  }

  received(): number[][] {
    const done = this.receive.reap();
    const frames = done.map(({ cookie, length }) => [...this.#bytes(this.at + 0x1_0000 + cookie * BUFFER + HEADER, length - HEADER)]);
    if (done.length > 0) this.refill(done.length);
    return frames;
  }

  command(bytes: readonly number[]): number {
    const at = this.at + 0x3_0000;
    this.#bytes(at, bytes.length).set(bytes);
    this.#bytes(at + 0x8000, 1).fill(0xee);
    this.control.add(7, [
      { address: at, length: bytes.length },
      { address: at + 0x8000, length: 1, write: true },
    ]);
    this.control.expose();
    this.fn.kick(this.controlIndex);
    this.control.reap();
    return this.#bytes(at + 0x8000, 1)[0] as number;
  }
}

export function frame(to: readonly number[], from: readonly number[], tag: number, length = 64): number[] {
  return [...to, ...from, 0x88, 0xb5, ...le(tag, 4), ...new Array(length - 18).fill(7)];
}
