// nicbox's own virtio-net in this process, over any of its data planes, with everything offered that it has and time that stands still unless told otherwise.

import type { SimClock } from '#core/clock';
import { GuestMemory } from '#core/guest-memory';
import { Log } from '#core/log';
import type { VirtioNetOptions } from '#devices/virtio-net/device';
import { Machine } from '#nicbox/machine';
import type { VhostBackend } from '#virtio/vhost';
import type { AccessBytes, Hands, Model, Target, TargetSource, WireOffload } from '../target.ts';
import { DATA_PLANES, type DataPlane, type DataPlaneName, type Wiring } from './data-plane.ts';

const MEMORY = 9 * 2 ** 20;
const RAM_BASE = 2 ** 20;
const MESSAGES = 0xfee0_0000;
const MESSAGE_COUNT = 64;

/** What a device is made with: all it can do that a driver may leave out. */
const DEVICE = {
  // A unicast address of the locally administered kind.
  mac: '52:54:00:c0:ff:ee',
  queuePairs: 4,
  mtu: 1500,
  link: { speed: 10_000, duplex: 'full' },
  rss: { contexts: 4 },
  features: { HASH_REPORT: true, GUEST_UDP_TUNNEL_GSO: true, HOST_UDP_TUNNEL_GSO: true, OUT_NET_HEADER: true, ADMIN_VQ: true },
} as const satisfies Omit<VirtioNetOptions, 'backend'>;

const VFS = 2;
const VF_LAYOUT = { firstOffset: 8, stride: 8 };
const VF_PAIRS = 2;
const VF_MESSAGES = 16;
const SRIOV_ID = 0x10;

class InprocMachine {
  readonly machine: Machine;
  readonly clock: SimClock;
  readonly wirings: Wiring[] = [];
  readonly hands: Hands;
  readonly physical: InprocFunction;
  messages: number[] = [];
  line = false;
  /** End of what the suite has written: it lays memory out from the start, and the device writes there only. */
  highest = 0;
  readonly #virtual: InprocFunction[] = [];
  readonly #plane: DataPlane;
  readonly #closed: (used: number) => void;

  constructor(memory: SharedArrayBuffer, model: Model, plane: DataPlane, closed: (used: number) => void) {
    this.#plane = plane;
    this.#closed = closed;
    this.clock = plane.clock();
    this.machine = new Machine({
      memory: new GuestMemory([{ base: 0, size: MEMORY, source: memory }]),
      clock: this.clock,
      log: new Log('conformance'),
      interrupts: {
        message: ({ addressLow, data }) => {
          if (addressLow === MESSAGES) this.messages.push(data - 1);
        },
        setIntx: (_line, asserted) => {
          this.line = asserted;
        },
      },
    });
    const virtual = model === 'sr-iov' ? Array.from({ length: VFS }, () => this.#wire(VF_PAIRS)) : [];
    const backend = (vf: number): VhostBackend => (virtual[vf] as Wiring).backend;
    const sriov = { totalVfs: VFS, queuePairs: VF_PAIRS, layout: VF_LAYOUT, backend };
    const wiring = this.#wire(DEVICE.queuePairs);
    const { net, pci } = this.machine.addVirtioNet(
      { ...DEVICE, backend: wiring.backend, ...(model === 'sr-iov' && { sriov }) },
      { notificationData: model === 'notification-data', transitional: model === 'transitional' },
    );
    this.hands = {
      setLink: (up) => net.setLink(up),
      announce: () => void net.announce(),
    };
    const { requesterId } = pci.fn;
    this.physical = new InprocFunction(this, requesterId, wiring, { first: 0, count: MESSAGE_COUNT - virtual.length * VF_MESSAGES });
    this.#placeBars();
    for (const [n, line] of virtual.entries()) {
      const first = MESSAGE_COUNT - (VFS - n) * VF_MESSAGES;
      const rid = requesterId + VF_LAYOUT.firstOffset + n * VF_LAYOUT.stride;
      this.#virtual.push(new InprocFunction(this, rid, line, { first, count: VF_MESSAGES }));
    }
  }

  #wire(pairs: number): Wiring {
    const wiring = this.#plane.wire(this.clock, pairs);
    this.wirings.push(wiring);
    return wiring;
  }

  virtual(n: number): InprocFunction {
    const found = this.#virtual[n - 1];
    if (found === undefined) throw new RangeError(`there is no virtual function ${n}`);
    return found;
  }

  get hasVirtual(): boolean {
    return this.#virtual.length > 0;
  }

  /** As firmware does. A BAR without an address is not decoded, whatever goes by its number: any place in the window will do, aligned as BARs are. */
  #placeBars(): void {
    const { memory32, io } = this.machine.platform;
    let at = memory32.base;
    let port = io.base;
    const fn = this.physical;
    const place = (first: number, count: number): void => {
      for (let bar = 0; bar < 6; bar++) {
        const register = first + 4 * bar;
        fn.configWrite(register, 4, 0xffff_ffff);
        const low = fn.configRead(register, 4);
        if (low === 0) continue;
        if ((low & 1) !== 0) {
          const size = (~(low & ~3) >>> 0) + 1;
          port = Math.ceil(port / size) * size;
          fn.configWrite(register, 4, port);
          port += size;
          continue;
        }
        const size = (~(low & ~15) >>> 0) + 1;
        at = Math.ceil(at / size) * size;
        fn.configWrite(register, 4, at);
        if ((low & 6) === 4) fn.configWrite(first + 4 * ++bar, 4, 0);
        at += size * count;
      }
    };
    place(0x10, 1);
    for (let at = 0x100, next = 0; at >= 0x100; at = next) {
      const head = fn.configRead(at, 4);
      next = head >>> 20;
      if ((head & 0xffff) === SRIOV_ID) place(at + 0x24, VFS);
    }
  }

  bytes(address: number, length: number): Uint8Array {
    const slab = this.machine.memory.slabAt(address);
    if (slab === undefined || address + length > slab.base + slab.size) throw new RangeError(`no RAM at 0x${address.toString(16)}`);
    return slab.views.u8.subarray(address - slab.base, address - slab.base + length);
  }

  settle(): void | Promise<void> {
    const settled = this.wirings.map((wiring) => wiring.settle()).filter((one) => one !== undefined);
    if (settled.length > 0) return Promise.all(settled).then(() => this.machine.service());
    this.machine.service();
  }

  async close(): Promise<void> {
    await this.machine.close();
    for (const wiring of this.wirings) await wiring.close();
    this.#closed(this.highest);
  }
}

/** One function of the machine; numbers of its messages are a range of the machine's. */
class InprocFunction implements Target {
  readonly ram = { base: RAM_BASE, size: MEMORY - RAM_BASE };
  readonly wireOffloads = true;
  readonly countsMessages = true;
  readonly extendedConfig = true;
  readonly #at: InprocMachine;
  readonly #bdf: number;
  readonly #wiring: Wiring;
  readonly #range: { readonly first: number; readonly count: number };

  constructor(at: InprocMachine, bdf: number, wiring: Wiring, range: { readonly first: number; readonly count: number }) {
    this.#at = at;
    this.#bdf = bdf;
    this.#wiring = wiring;
    this.#range = range;
  }

  get hands(): Hands {
    return this.#at.physical === this ? this.#at.hands : {};
  }

  get virtualFunction(): ((n: number) => Target) | undefined {
    return this.#at.physical === this && this.#at.hasVirtual ? (n) => this.#at.virtual(n) : undefined;
  }

  configRead(offset: number, size: AccessBytes): number {
    return this.#at.machine.configRead(this.#bdf, offset, size);
  }

  configWrite(offset: number, size: AccessBytes, value: number): void {
    this.#at.machine.configWrite(this.#bdf, offset, size, value);
  }

  barRead(bar: number, offset: number, size: AccessBytes): number {
    return this.#at.machine.barRead(this.#bdf, bar, offset, size);
  }

  barWrite(bar: number, offset: number, size: AccessBytes, value: number): void {
    this.#at.machine.barWrite(this.#bdf, bar, offset, size, value);
  }

  memoryRead(address: number, length: number): Uint8Array {
    return this.#at.bytes(address, length).slice();
  }

  memoryWrite(address: number, bytes: Uint8Array): void {
    this.#at.highest = Math.max(this.#at.highest, address + bytes.length);
    this.#at.bytes(address, bytes.length).set(bytes);
  }

  message(n: number): { address: number; data: number } {
    return { address: MESSAGES, data: this.#range.first + n + 1 };
  }

  messages(): number[] {
    const { first, count } = this.#range;
    const own = (n: number): boolean => n >= first && n < first + count;
    const messages = this.#at.messages.filter(own).map((n) => n - first);
    this.#at.messages = this.#at.messages.filter((n) => !own(n));
    return messages;
  }

  intx(): boolean {
    return this.#at.line;
  }

  send(frame: Uint8Array, offload?: WireOffload): void {
    this.#wiring.cable.put(frame, offload);
  }

  sent(): Uint8Array[] {
    return this.#wiring.cable.take();
  }

  advance(nanos: number): void {
    this.#at.clock.advance(nanos);
  }

  settle(): void | Promise<void> {
    return this.#at.settle();
  }

  close(): Promise<void> {
    return this.#at.close();
  }
}

const NAMES: Readonly<Record<DataPlaneName, string>> = {
  inline: 'nicbox, inline',
  worker: 'nicbox, vhost worker',
  vdpa: 'nicbox, vDPA',
  'vdpa-shadow': 'nicbox, vDPA shadow',
};

export function inprocSource(name: DataPlaneName = 'inline'): TargetSource {
  let plane: DataPlane | undefined;
  // A buffer of this size costs more than most cases: it is used again, cleared.
  const free: SharedArrayBuffer[] = [];
  return {
    name: NAMES[name],
    open(model) {
      plane ??= DATA_PLANES[name]();
      const memory = free.pop() ?? new SharedArrayBuffer(MEMORY);
      const closed = (used: number): void => {
        new Uint8Array(memory).fill(0, 0, Math.min(used + 2 ** 16, MEMORY));
        free.push(memory);
      };
      return new InprocMachine(memory, model ?? 'ordinary', plane, closed).physical;
    },
    async close() {
      await plane?.close?.();
      plane = undefined;
    },
  };
}
