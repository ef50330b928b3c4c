// One guest's machine: memory, clock, the PCI Express fabric with its devices, an interrupt controller, and the ways a guest reaches all that: through this object on
// this thread, or from a thread of its own through exits. An emulator with its own CPU, interrupt controller and clock hands those in and calls the accessors; data
// planes (src/backends, or the embedder's) are joined to devices by handing them in.

import { BellLoop } from '#core/bell-loop';
import { type Clock, WallClock } from '#core/clock';
import type { DirtyLog } from '#core/dirty-log';
import { ExitServer, type ExitTarget, type GuestBusShare } from '#core/exit-channel';
import { type GuestBus, LocalGuestBus, type PlatformDescription } from '#core/guest-bus';
import { GuestMemory } from '#core/guest-memory';
import { IntxLines, PendingVectors } from '#core/interrupts';
import type { Iommu } from '#core/iommu';
import { Log } from '#core/log';
import type { AccessSize, FastDoorbell } from '#core/region';
import type { Envelope } from '#core/saved';
import { allocateWords, type SharedWords } from '#core/word-arena';
import { E1000 } from '#devices/e1000/device';
import type { E1000Options } from '#devices/e1000/options';
import { Igb } from '#devices/igb/device';
import type { IgbOptions } from '#devices/igb/options';
import type { VirtioNet } from '#devices/virtio-net/device';
import type { NetVfs } from '#devices/virtio-net/virtual-functions';
import type { AddressSpace, Decoded } from '#pci/decode';
import { Fabric } from '#pci/fabric';
import type { PciFunction } from '#pci/function';
import type { MsiMessage } from '#pci/ports';
import type { VirtioPci, VirtioPciOptions } from '#virtio/pci-transport';
import {
  checkRamLayout,
  type DevicePlace,
  type HostInterrupts,
  MachineError,
  type MachineOptions,
  MSI_WINDOW_SIZE,
  PC_PLATFORM,
  type VirtioNetPlace,
} from './machine-options.ts';
import { notStopped, Residents } from './machine-residents.ts';
import { type MachinePart, type MachineState, placeOf, restoreMachine, saveMachine } from './machine-state.ts';
import { type MachineNetOptions, makeFunction, type NetSite, residentOf, residentsOf } from './machine-virtio.ts';

export type { MachineOptions, VirtioNetPlace } from './machine-options.ts';

export class Machine {
  readonly name: string;
  readonly memory: GuestMemory;
  readonly clock: Clock;
  readonly log: Log;
  readonly fabric: Fabric;
  readonly iommu: Iommu | undefined;
  /** What firmware would tell a guest. Plain cloneable data. */
  readonly platform: PlatformDescription;
  /** The guest CPU's pending interrupts and INTx levels, unless the host has its own. */
  readonly vectors = new PendingVectors();
  readonly lines = new IntxLines();
  /** Serves guest threads' exits and data planes' relayed interrupts on this thread, from construction to `close()`. */
  readonly loop = new BellLoop();
  readonly #hostInterrupts: HostInterrupts | undefined;
  readonly #ownClock: WallClock | undefined;
  readonly #generation: SharedWords = allocateWords();
  readonly #generationWord: Int32Array;
  readonly #residents = new Residents(() => this.#requireOpen());
  readonly #guests = new Set<ExitServer>();
  readonly #target: ExitTarget;
  readonly #insists: boolean;
  #seen = 0;
  #closing: Promise<void> | undefined;

  /** @throws RangeError when the memory is not a multiple of 4 KiB, MachineError when it lies where devices are. */
  constructor(options: MachineOptions) {
    this.name = options.name ?? 'machine';
    this.memory = typeof options.memory === 'number' ? GuestMemory.pc(options.memory) : options.memory;
    if (options.clock === undefined) this.#ownClock = new WallClock();
    this.clock = options.clock ?? (this.#ownClock as WallClock);
    this.log = options.log ?? new Log(this.name);
    this.iommu = options.iommu;
    this.#insists = options.accessPlatform ?? true;
    this.platform = { ...PC_PLATFORM, ...options.platform };
    this.#hostInterrupts = options.interrupts;
    const { ecam, msiAddress } = this.platform;
    checkRamLayout(this.memory, this.platform);
    this.#generationWord = new Int32Array(this.#generation.buffer, this.#generation.index * 4, 1);
    const sinks: HostInterrupts = options.interrupts ?? {
      message: (message) => void this.vectors.post(message.data & 0xff),
      setIntx: (line, asserted) => {
        if (this.lines.set(line, asserted)) this.vectors.post(this.platform.intxVectors[line & 3] as number);
      },
    };
    this.fabric = new Fabric({
      memory: this.memory,
      clock: this.clock,
      log: this.log,
      ecam: { base: ecam.base, firstBus: ecam.firstBus, buses: ecam.lastBus - ecam.firstBus + 1 },
      msiWindow: options.msiWindow ?? { base: msiAddress, size: MSI_WINDOW_SIZE },
      msi: sinks,
      intx: sinks,
      ...(options.iommu && { iommu: options.iommu }),
    });
    this.fabric.onDecodeChange(() => void Atomics.add(this.#generationWord, 0, 1));
    this.#target = this;
  }

  // ---- a CPU's accesses, on this thread. Nothing here throws, whatever a guest does ----

  /** By address. 8 bytes are two accesses of 4, low half first; hosts may split further. Absent: all ones. */
  mmioRead(address: number, size: AccessSize | 8): number {
    return this.#after(this.fabric.mmioRead(address, size));
  }

  mmioWrite(address: number, size: AccessSize | 8, value: number): void {
    this.#after(this.fabric.mmioWrite(address, size, value));
  }

  ioRead(port: number, size: AccessSize): number {
    return this.#after(this.fabric.ioRead(port, size));
  }

  ioWrite(port: number, size: AccessSize, value: number): void {
    this.#after(this.fabric.ioWrite(port, size, value));
  }

  /** By bus, device and function number (16 bits), offset 0..4095. Absent: all ones. */
  configRead(bdf: number, offset: number, size: AccessSize): number {
    return this.#after(this.fabric.configRead(bdf, offset, size));
  }

  configWrite(bdf: number, offset: number, size: AccessSize, value: number): void {
    this.#after(this.fabric.configWrite(bdf, offset, size, value));
  }

  /** By function and BAR (6: the expansion ROM), for hosts that decode addresses themselves; memory and I/O BARs alike. */
  barRead(bdf: number, bar: number, offset: number, size: AccessSize | 8): number {
    return this.#after(this.fabric.barRead(bdf, bar, offset, size));
  }

  barWrite(bdf: number, bar: number, offset: number, size: AccessSize | 8, value: number): void {
    this.#after(this.fabric.barWrite(bdf, bar, offset, size, value));
  }

  /** The doorbell that a write stands for, for hosts whose CPUs are other threads. */
  doorbell(address: number, size: AccessSize, value: number): FastDoorbell | undefined {
    return this.fabric.doorbell(address, size, value);
  }

  /** What decodes now; look again after `onDecodeChange`. */
  decoded(): Decoded[] {
    return this.fabric.decoded();
  }

  /** Calls `listener` inside the access that changed what addresses mean. Returns a function that stops it. */
  onDecodeChange(listener: () => void): () => void {
    return this.fabric.onDecodeChange(listener);
  }

  /** Who answers at an address, for hosts that hand over one big window. */
  lookup(space: AddressSpace, address: number): { readonly bdf: number; readonly bar: number; readonly offset: number } | undefined {
    return this.fabric.lookup(space, address);
  }

  /** Delivers interrupts that data planes on other threads relayed. Every access does so already; a host that computes for long without one calls it. */
  service(): void {
    this.#after(undefined);
  }

  #after<T>(result: T): T {
    const ticket = this.loop.bell.ticket;
    if (ticket !== this.#seen) {
      this.#seen = ticket;
      this.#residents.service();
    }
    return result;
  }

  // ---- devices ----

  /** Attaches a function (or the functions of a device) under a port, or on the root bus. @throws TypeError, RangeError, MachineError when it cannot be there. */
  attach(device: PciFunction | readonly (PciFunction | undefined)[], place: DevicePlace = {}): void {
    this.#requireOpen();
    const bus = place.under ?? this.fabric.root;
    this.fabric.attach(bus, device, place.deviceNumber ?? this.#freeDevice(place.under));
    const [fn] = (Array.isArray(device) ? device : [device]) as [PciFunction];
    if (place.part) this.#residents.add({ fn, part: place.part });
  }

  /** Takes a device and all below it away: a surprise removal. */
  detach(fn: PciFunction): void {
    this.fabric.detach(fn);
    this.#residents.forgetDetached();
  }

  #freeDevice(under: PciFunction | undefined): number {
    const bus = under?.secondaryBus ?? this.fabric.root;
    if (bus.kind === 'link') return 0;
    const used = new Set(bus.functions.map((fn) => fn.devfn >>> 3));
    // Device 0 of the root bus is where a host bridge sits.
    for (let number = bus.kind === 'root' ? 1 : 0; number < 32; number++) if (!used.has(number)) return number;
    throw new MachineError('NICBOX_BUS_FULL', 'the bus has 32 devices: put further ones below a port or bridge');
  }

  /**
   * Makes a virtio network device over `backend` and attaches it; with `sriov` a physical function, whose virtual functions `vfs` has. Behind an IOMMU it offers ACCESS_PLATFORM and
   * insists on it, unless told otherwise. @throws VirtioOptionError and what `attach` throws.
   */
  addVirtioNet<T extends MachineNetOptions>(
    options: T,
    place: VirtioNetPlace = {},
  ): { readonly net: VirtioNet; readonly pci: VirtioPci; readonly vfs: T extends { readonly sriov: object } ? NetVfs : NetVfs | undefined } {
    this.#requireOpen();
    const { under, deviceNumber, ...transport } = place;
    const kind = under === undefined ? 'root-complex-endpoint' : under.secondaryBus?.kind === 'conventional' ? 'conventional' : 'endpoint';
    const site = this.#netSite;
    const { net, pci, vfs } = makeFunction(options, { pcieType: kind, ...transport }, site);
    this.attach(pci.fn, { ...(under && { under }), ...(deviceNumber !== undefined && { deviceNumber }) });
    this.#residents.add(residentOf({ net, pci }, site), ...(vfs ? residentsOf(vfs, pci.fn, site) : []));
    return { net, pci, vfs: vfs as NetVfs };
  }

  get #netSite(): NetSite {
    return { routing: this.callRouting, insists: this.iommu !== undefined && this.#insists, loop: (service) => this.loop.add(service) };
  }

  /** Makes an Intel 8254x, a port of its own on `options.segment` (of this thread, or a worker's), and attaches it. @throws E1000OptionError and what `attach` throws. */
  addE1000(options: E1000Options, place: Omit<DevicePlace, 'part'> = {}): E1000 {
    this.#requireOpen();
    const device = new E1000({ ...options, bell: this.loop.bell });
    this.attach(device.fn, place);
    const part: MachinePart = {
      name: `${device.model} ${options.mac} at ${placeOf(device.fn)}`,
      save: () => device.save(),
      restore: (state) => device.restore(state),
      pause: () => device.pause(),
      paused: true,
      resume: () => device.resume(),
    };
    const deaf = this.loop.add(() => device.service());
    const leave = (): void => {
      deaf();
      device.release();
    };
    this.#residents.add({ fn: device.fn, part, service: () => device.service(), leave });
    return device;
  }

  /** Makes one port of an Intel 82576, a port of its own on `options.segment` of this thread, and attaches it. @throws IgbOptionError and what `attach` throws. */
  addIgb(options: IgbOptions, place: Omit<DevicePlace, 'part'> = {}): Igb {
    return this.#addIgbs([options], place)[0] as Igb;
  }

  /** Both ports of one 82576, as functions 0 and 1 of one device. @throws IgbOptionError and what `attach` throws. */
  addIgbPair(first: IgbOptions, second: IgbOptions, place: Omit<DevicePlace, 'part'> = {}): readonly [Igb, Igb] {
    return this.#addIgbs([first, second], place) as [Igb, Igb];
  }

  #addIgbs(options: readonly IgbOptions[], place: Omit<DevicePlace, 'part'>): Igb[] {
    this.#requireOpen();
    const pcieType = place.under === undefined ? 'root-complex-endpoint' : 'endpoint';
    const ports = options.length as 1 | 2;
    const devices = options.map((option, port) => new Igb({ pcieType, ...option, port: port as 0 | 1, ports }));
    this.attach(
      devices.map(({ fn }) => fn),
      place,
    );
    for (const device of devices) {
      const part: MachinePart = {
        name: `igb ${device.name} at ${placeOf(device.fn)}`,
        save: () => device.save(),
        restore: (state) => device.restore(state),
        pause: () => device.pause(),
        paused: true,
        resume: () => device.resume(),
      };
      this.#residents.add({ fn: device.fn, part, leave: () => device.release() });
    }
    return devices;
  }

  /** How a virtio device's calls reach this machine's CPU. */
  get callRouting(): VirtioPciOptions['routing'] {
    const { msiAddress } = this.platform;
    const direct = ({ addressLow, addressHigh, data }: MsiMessage): number | undefined =>
      addressHigh === 0 && addressLow >= msiAddress && addressLow < msiAddress + MSI_WINDOW_SIZE ? data & 0xff : undefined;
    const host = this.#hostInterrupts;
    if (host?.event) return { bell: this.loop.bell, event: (message, requester) => host.event?.(message, requester) };
    return host ? { bell: this.loop.bell } : { bell: this.loop.bell, vectors: this.vectors, resolve: direct };
  }

  // ---- guests ----

  /** A bus for a guest on this thread. */
  localBus(): GuestBus {
    const { platform, memory, vectors, lines, clock } = this;
    return new LocalGuestBus({ platform, memory, vectors, lines, target: this.#target, clock });
  }

  /** A bus for a guest on a thread of its own: post `share` to it, `openGuestBus(share)` there. @throws TypeError unless RAM is shared memory. */
  threadBus(): { readonly share: GuestBusShare; readonly exits: () => number; close(): void } {
    this.#requireOpen();
    const server = new ExitServer(this.loop, this.#target, {
      platform: this.platform,
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

  // ---- standing still, saved state, dirty pages ----

  /** Pages that devices wrote since `start` or the last `take`, on any thread. */
  get dirty(): DirtyLog {
    return this.memory.dirty;
  }

  /** Stops every data plane where it is, unseen by the guest, until `resume`. @throws MachineError when one does not stop; then all go on. */
  pause(): Promise<void> {
    return this.#residents.pause();
  }

  resume(): void {
    this.#residents.resume();
  }

  /** Whether every device has told what else there is to save of it: without that a saved state is not whole. */
  get saveable(): boolean {
    const { told } = this.#residents;
    // The part of a device's function 0 is the device's.
    return this.fabric.functions().every((fn) => told.has(fn) || fn.bridge !== undefined || fn.virtual || (fn.devfn & 7) !== 0);
  }

  /**
   * The machine's state as a plain cloneable record. Pauses for it, and goes on afterwards unless told to stay paused (for a move: nothing may change any more). RAM is in it only
   * if asked for; the CPUs are the embedder's, and must stand still if so. @throws MachineError
   */
  save(options: { readonly memory?: boolean; readonly stay?: 'paused' | 'running' } = {}): Promise<Envelope<MachineState>> {
    return this.#residents.paused(options.stay, () => saveMachine(this.#stateful, { memory: options.memory ?? false }));
  }

  /**
   * Takes a saved state over, and goes on from there, or stays paused: what shares a link with it may have to be restored first, as frames to a device that is not up are
   * dropped. The machine must be built as the saved one was, in whatever order. @throws RestoreError, with everything as it was and going on.
   */
  restore(saved: unknown, options: { readonly stay?: 'paused' | 'running' } = {}): Promise<void> {
    return this.#residents.paused(options.stay, () => restoreMachine(this.#stateful, saved));
  }

  get #stateful(): Parameters<typeof saveMachine>[0] {
    return { memory: this.memory, fabric: this.fabric, vectors: this.vectors, parts: this.#residents.parts };
  }

  /** Platform reset: every function to its power-on state and no interrupt pending; RAM as it is. One function: `fabric.resetFunction`; below a port: `fabric.resetBelow`. */
  reset(): void {
    this.fabric.reset();
    this.#residents.service();
    this.vectors.load([]);
  }

  #requireOpen(): void {
    if (this.#closing) throw new MachineError('NICBOX_CLOSED', `${this.name} is closed: make a new machine`);
  }

  /**
   * Ends service: guest threads' accesses fail from now on, devices stop, no timer or waiting is left. Data planes and their threads are their owner's to close,
   * afterwards. Idempotent.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    for (const guest of this.#guests) guest.close();
    this.#guests.clear();
    this.fabric.reset();
    const stopped = await this.#residents.stopped();
    this.#ownClock?.close();
    this.loop.close();
    await this.loop.done;
    this.#residents.leave();
    if (!stopped) throw notStopped(this.name);
  }
}
