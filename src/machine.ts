// One guest's machine: memory, clock, the PCI Express fabric with its devices, an interrupt controller, and the ways a guest reaches all that: on this thread, or
// from a thread of its own through exits. Data planes (src/backends, or the embedder's) are joined to devices by handing them in.

import { BellLoop } from '#core/bell-loop';
import { type Clock, WallClock } from '#core/clock';
import { ExitServer, type ExitTarget, type GuestBusShare } from '#core/exit-channel';
import { type GuestBus, LocalGuestBus, type PlatformDescription } from '#core/guest-bus';
import { GuestMemory } from '#core/guest-memory';
import { IntxLines, PendingVectors } from '#core/interrupts';
import type { Iommu } from '#core/iommu';
import { Log } from '#core/log';
import type { AccessSize } from '#core/region';
import { allocateWords, type SharedWords } from '#core/word-arena';
import { VirtioNet, type VirtioNetOptions } from '#devices/virtio-net/device';
import { Fabric } from '#pci/fabric';
import type { PciFunction } from '#pci/function';
import type { MsiMessage } from '#pci/ports';
import { VirtioPci, type VirtioPciOptions } from '#virtio/pci-transport';

/** An embedder asked for what cannot be. `code` is stable. */
export class MachineError extends Error {
  readonly code = 'NICBOX_MACHINE';
}

export interface MachineOptions {
  /** For logs. */
  readonly name?: string;
  /** RAM, or bytes of it (a multiple of 4 KiB) to lay out as on a PC. */
  readonly memory: GuestMemory | number;
  /** Default: real time. */
  readonly clock?: Clock;
  readonly log?: Log;
  /** Puts every function behind this IOMMU. Default: device addresses are guest-physical. */
  readonly iommu?: Iommu;
}

/** Addresses as on a PC with the PCIe memory-mapped configuration window (q35-like): RAM below 2 GiB and from 4 GiB, the holes for devices. */
const PLATFORM: PlatformDescription = {
  ecam: { base: 0xb000_0000, firstBus: 0, lastBus: 255 },
  memory32: { base: 0xc000_0000, size: 0x3e00_0000 },
  memory64: { base: 2 ** 40, size: 2 ** 40 },
  io: { base: 0x1000, size: 0xf000 },
  msiAddress: 0xfee0_0000,
  intxVectors: [0x20, 0x21, 0x22, 0x23],
};
const MSI_WINDOW = { base: PLATFORM.msiAddress, size: 2 ** 20 };

export interface VirtioNetPlace extends Omit<VirtioPciOptions, 'device' | 'routing'> {
  /** The port or bridge to put it under; absent: the root bus, as a root complex integrated endpoint. */
  readonly under?: PciFunction;
  /** Device number where there are several (default: the first free one). */
  readonly deviceNumber?: number;
}

export class Machine {
  readonly name: string;
  readonly memory: GuestMemory;
  readonly clock: Clock;
  readonly log: Log;
  readonly fabric: Fabric;
  readonly iommu: Iommu | undefined;
  readonly platform: PlatformDescription = PLATFORM;
  /** The guest CPU's pending interrupts. */
  readonly vectors = new PendingVectors();
  readonly lines = new IntxLines();
  /** Serves guest threads' exits and data planes' relayed interrupts on this thread, from construction to `close()`. */
  readonly loop = new BellLoop();
  readonly #generation: SharedWords = allocateWords();
  readonly #generationWord: Int32Array;
  readonly #virtio: VirtioPci[] = [];
  readonly #guests = new Set<ExitServer>();
  readonly #target: ExitTarget;
  #seen = 0;
  #closed = false;

  /** @throws RangeError when the memory is not a multiple of 4 KiB. */
  constructor(options: MachineOptions) {
    this.name = options.name ?? 'machine';
    this.memory = typeof options.memory === 'number' ? GuestMemory.pc(options.memory) : options.memory;
    this.clock = options.clock ?? new WallClock();
    this.log = options.log ?? new Log(this.name);
    this.iommu = options.iommu;
    for (const slab of this.memory.slabs)
      if (slab.base < 2 ** 32 && slab.base + slab.size > PLATFORM.ecam.base)
        throw new MachineError(
          `RAM at 0x${slab.base.toString(16)} reaches into the device range 0x${PLATFORM.ecam.base.toString(16)}..4 GiB: put it below, or from 4 GiB`,
        );
    this.#generationWord = new Int32Array(this.#generation.buffer, this.#generation.index * 4, 1);
    this.fabric = new Fabric({
      memory: this.memory,
      clock: this.clock,
      log: this.log,
      ecam: { base: PLATFORM.ecam.base, firstBus: PLATFORM.ecam.firstBus, buses: PLATFORM.ecam.lastBus - PLATFORM.ecam.firstBus + 1 },
      msiWindow: MSI_WINDOW,
      msi: { message: (message) => void this.vectors.post(message.data & 0xff) },
      intx: {
        setIntx: (line, asserted) => {
          if (this.lines.set(line, asserted)) this.vectors.post(PLATFORM.intxVectors[line & 3] as number);
        },
      },
      ...(options.iommu && { iommu: options.iommu }),
    });
    this.fabric.onDecodeChange(() => void Atomics.add(this.#generationWord, 0, 1));
    this.#target = {
      mmioRead: (address, size) => this.#after(this.fabric.mmioRead(address, size)),
      mmioWrite: (address, size, value) => this.#after(this.fabric.mmioWrite(address, size, value)),
      ioRead: (port, size) => this.#after(this.fabric.ioRead(port, size)),
      ioWrite: (port, size, value) => this.#after(this.fabric.ioWrite(port, size, value)),
      doorbell: (address: number, size: AccessSize, value: number) => this.fabric.doorbell(address, size, value),
    };
  }

  /** Interrupts that data planes relayed go out before the access ends: on this thread nothing else may run for long. */
  #after<T>(result: T): T {
    const ticket = this.loop.bell.ticket;
    if (ticket !== this.#seen) {
      this.#seen = ticket;
      for (const device of this.#virtio) device.service();
    }
    return result;
  }

  // ---- devices ----

  /** Attaches a function (or the functions of a device) under a port, or on the root bus. @throws TypeError, RangeError when it cannot be there. */
  attach(device: PciFunction | readonly (PciFunction | undefined)[], place: { readonly under?: PciFunction; readonly deviceNumber?: number } = {}): void {
    const bus = place.under ?? this.fabric.root;
    this.fabric.attach(bus, device, place.deviceNumber ?? this.#freeDevice(place.under));
  }

  #freeDevice(under: PciFunction | undefined): number {
    const bus = under?.secondaryBus ?? this.fabric.root;
    if (bus.kind === 'link') return 0;
    const used = new Set(bus.functions.map((fn) => fn.devfn >>> 3));
    // Device 0 of the root bus is where a host bridge sits.
    for (let number = bus.kind === 'root' ? 1 : 0; number < 32; number++) if (!used.has(number)) return number;
    throw new MachineError('the bus is full: it has 32 devices');
  }

  /** Makes a virtio network device over `backend` and attaches it. @throws VirtioOptionError and what `attach` throws. */
  addVirtioNet(options: VirtioNetOptions, place: VirtioNetPlace = {}): { readonly net: VirtioNet; readonly pci: VirtioPci } {
    const net = new VirtioNet(options);
    const { under, deviceNumber, ...transport } = place;
    const kind = under === undefined ? 'root-complex-endpoint' : under.secondaryBus?.kind === 'conventional' ? 'conventional' : 'endpoint';
    const pci = new VirtioPci({ pcieType: kind, ...transport, device: net, routing: this.callRouting });
    this.attach(pci.fn, { ...(under && { under }), ...(deviceNumber !== undefined && { deviceNumber }) });
    this.#virtio.push(pci);
    this.loop.add(() => pci.service());
    return { net, pci };
  }

  /** How a virtio device's calls reach this machine's CPU. */
  get callRouting(): VirtioPciOptions['routing'] {
    return {
      bell: this.loop.bell,
      vectors: this.vectors,
      resolve: ({ addressLow, addressHigh, data }: MsiMessage) =>
        addressHigh === 0 && addressLow >= MSI_WINDOW.base && addressLow < MSI_WINDOW.base + MSI_WINDOW.size ? data & 0xff : undefined,
    };
  }

  // ---- guests ----

  /** A bus for a guest on this thread. */
  localBus(): GuestBus {
    return new LocalGuestBus({ platform: PLATFORM, memory: this.memory, vectors: this.vectors, lines: this.lines, target: this.#target, clock: this.clock });
  }

  /** A bus for a guest on a thread of its own: post `share` to it, `openGuestBus(share)` there. @throws TypeError unless RAM is shared memory. */
  threadBus(): { readonly share: GuestBusShare; readonly exits: () => number; close(): void } {
    if (this.#closed) throw new MachineError(`${this.name} is closed`);
    const server = new ExitServer(this.loop, this.#target, {
      platform: PLATFORM,
      memory: this.memory.share(),
      vectors: this.vectors.share(),
      lines: this.lines.buffer,
      generation: this.#generation,
      timeZero: performance.timeOrigin + performance.now() - this.clock.now() / 1e6,
    });
    this.#guests.add(server);
    return {
      share: server.share(),
      exits: () => server.exits,
      close: () => {
        if (this.#guests.delete(server)) server.close();
      },
    };
  }

  /** Platform reset: every function to its power-on state, RAM as it is. */
  reset(): void {
    this.fabric.reset();
  }

  /** Ends service: guest threads' accesses fail from now on, devices stop. Data planes and their threads are their owner's to close, afterwards. Idempotent. */
  async close(): Promise<void> {
    if (this.#closed) return this.loop.done;
    this.#closed = true;
    for (const guest of this.#guests) guest.close();
    this.#guests.clear();
    this.fabric.reset();
    this.loop.close();
    return this.loop.done;
  }
}
