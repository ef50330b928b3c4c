// nicbox's own virtio-net in this process, over any of its data planes, with everything offered that it has and time that stands still unless told otherwise.

import { GuestMemory } from '#core/guest-memory';
import { Log } from '#core/log';
import { Machine } from '#nicbox/machine';
import type { AccessBytes, Awaitable, Hands, Model, Target, TargetSource, WireOffload } from '../target.ts';
import { DATA_PLANES, type DataPlane, type DataPlaneName, type Wiring } from './data-plane.ts';

const MEMORY = 9 * 2 ** 20;
const RAM_BASE = 2 ** 20;
const MESSAGES = 0xfee0_0000;
/** A unicast address of the locally administered kind. */
const MAC = '52:54:00:c0:ff:ee';

/** What the device is made with: all it can do that a driver may leave out. */
const DEVICE = {
  mac: MAC,
  queuePairs: 4,
  mtu: 1500,
  link: { speed: 10_000, duplex: 'full' },
  rss: { contexts: 4 },
  features: { HASH_REPORT: true, GUEST_UDP_TUNNEL_GSO: true, HOST_UDP_TUNNEL_GSO: true, OUT_NET_HEADER: true, ADMIN_VQ: true },
} as const;

class InprocTarget implements Target {
  readonly ram = { base: RAM_BASE, size: MEMORY - RAM_BASE };
  readonly wireOffloads = true;
  readonly countsMessages = true;
  readonly hands: Hands;
  readonly #machine: Machine;
  readonly #wiring: Wiring;
  readonly #bdf: number;
  #messages: number[] = [];
  #line = false;
  /** End of what the suite has written: it lays memory out from the start, and the device writes there only. */
  #highest = 0;
  readonly #closed: (used: number) => void;

  constructor(memory: SharedArrayBuffer, model: Model, wiring: Wiring, closed: (used: number) => void) {
    this.#wiring = wiring;
    this.#closed = closed;
    const log = new Log('conformance');
    this.#machine = new Machine({
      memory: new GuestMemory([{ base: 0, size: MEMORY, source: memory }]),
      clock: wiring.clock,
      log,
      interrupts: {
        message: ({ addressLow, data }) => {
          if (addressLow === MESSAGES) this.#messages.push(data - 1);
        },
        setIntx: (_line, asserted) => {
          this.#line = asserted;
        },
      },
    });
    const { net, pci } = this.#machine.addVirtioNet(
      { ...DEVICE, backend: wiring.backend },
      { notificationData: model === 'notification-data', transitional: model === 'transitional' },
    );
    // A BAR without an address is not decoded, whatever goes by its number: any place in the window will do, aligned as BARs are.
    this.#bdf = pci.fn.requesterId;
    this.#placeBars();
    this.hands = {
      setLink: (up) => net.setLink(up),
      announce: () => void net.announce(),
    };
  }

  #placeBars(): void {
    const { memory32, io } = this.#machine.platform;
    let at = memory32.base;
    let port = io.base;
    for (let bar = 0; bar < 6; bar++) {
      const register = 0x10 + 4 * bar;
      this.configWrite(register, 4, 0xffff_ffff);
      const low = this.configRead(register, 4);
      if (low === 0) continue;
      if ((low & 1) !== 0) {
        const size = (~(low & ~3) >>> 0) + 1;
        port = Math.ceil(port / size) * size;
        this.configWrite(register, 4, port);
        port += size;
        continue;
      }
      const size = (~(low & ~15) >>> 0) + 1;
      at = Math.ceil(at / size) * size;
      this.configWrite(register, 4, at);
      if ((low & 6) === 4) this.configWrite(0x10 + 4 * ++bar, 4, 0);
      at += size;
    }
  }

  configRead(offset: number, size: AccessBytes): number {
    return this.#machine.configRead(this.#bdf, offset, size);
  }

  configWrite(offset: number, size: AccessBytes, value: number): void {
    this.#machine.configWrite(this.#bdf, offset, size, value);
  }

  barRead(bar: number, offset: number, size: AccessBytes): number {
    return this.#machine.barRead(this.#bdf, bar, offset, size);
  }

  barWrite(bar: number, offset: number, size: AccessBytes, value: number): void {
    this.#machine.barWrite(this.#bdf, bar, offset, size, value);
  }

  memoryRead(address: number, length: number): Uint8Array {
    return this.#bytes(address, length).slice();
  }

  memoryWrite(address: number, bytes: Uint8Array): void {
    this.#highest = Math.max(this.#highest, address + bytes.length);
    this.#bytes(address, bytes.length).set(bytes);
  }

  #bytes(address: number, length: number): Uint8Array {
    const slab = this.#machine.memory.slabAt(address);
    if (slab === undefined || address + length > slab.base + slab.size) throw new RangeError(`no RAM at 0x${address.toString(16)}`);
    return slab.views.u8.subarray(address - slab.base, address - slab.base + length);
  }

  message(n: number): { address: number; data: number } {
    return { address: MESSAGES, data: n + 1 };
  }

  messages(): number[] {
    const messages = this.#messages;
    this.#messages = [];
    return messages;
  }

  intx(): boolean {
    return this.#line;
  }

  send(frame: Uint8Array, offload?: WireOffload): void {
    this.#wiring.cable.put(frame, offload);
  }

  sent(): Uint8Array[] {
    return this.#wiring.cable.take();
  }

  advance(nanos: number): void {
    this.#wiring.clock.advance(nanos);
  }

  settle(): Awaitable<void> {
    const settled = this.#wiring.settle();
    if (settled !== undefined) return settled.then(() => this.#machine.service());
    this.#machine.service();
  }

  async close(): Promise<void> {
    await this.#machine.close();
    await this.#wiring.close();
    this.#closed(this.#highest);
  }
}

const NAMES: Readonly<Record<DataPlaneName, string>> = { inline: 'nicbox, inline', worker: 'nicbox, vhost worker' };

export function inprocSource(name: DataPlaneName = 'inline'): TargetSource {
  let plane: DataPlane | undefined;
  // A buffer of this size costs more than most cases: it is used again, cleared.
  const free: SharedArrayBuffer[] = [];
  return {
    name: NAMES[name],
    open(model) {
      plane ??= DATA_PLANES[name]();
      const memory = free.pop() ?? new SharedArrayBuffer(MEMORY);
      return new InprocTarget(memory, model ?? 'ordinary', plane.wire(DEVICE.queuePairs), (used) => {
        new Uint8Array(memory).fill(0, 0, Math.min(used + 2 ** 16, MEMORY));
        free.push(memory);
      });
    },
    async close() {
      await plane?.close?.();
      plane = undefined;
    },
  };
}
