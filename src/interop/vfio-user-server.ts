// vfio-user servers: a PCI function of ours as a device of another process's virtual machine (QEMU's vfio-user-pci, Cloud Hypervisor, SPDK's client). Each server is one socket
// with one device, on a machine of its own whose memory is whatever the client maps; it has one client at a time, and waits for the next when that goes.

import type { Clock } from '#core/clock';
import { setEventWriter } from '#core/interrupts';
import { Iommu } from '#core/iommu';
import { Log } from '#core/log';
import { Machine } from '#nicbox/machine';
import { PciFunction } from '#pci/function';
import type { FunctionServices } from '#pci/ports';
import { type AccessWatch, bytesThrough, type GuestBytes } from './access-watch.ts';
import { type EventPoll, givePollBack, takePoll, type Watch } from './event-poll.ts';
import { errorName, InteropError } from './interop-error.ts';
import { listenAt, removeSocket } from './listener.ts';
import { MappingError } from './mapped-memory.ts';
import { ARENA_BASE, MemoryArena } from './memory-arena.ts';
import { type Native, openNative } from './native.ts';
import { VfioUserConnection } from './vfio-user-connection.ts';
import { ERR, REQ, VfioUserIrqs } from './vfio-user-irqs.ts';
import { VfioUserMemory } from './vfio-user-memory.ts';
import { VfioUserMigration } from './vfio-user-migration.ts';
import { VfioUserSession } from './vfio-user-session.ts';

/** The module that a pool's threads run when they are to interrupt other processes' guests themselves: `new VhostPool({ entry: DATA_PLANE_WORKER })`. */
export const DATA_PLANE_WORKER = new URL('./data-plane-worker.js', import.meta.url);

/** A function to attach, or whoever puts a device into the machine that is made for it, as `attachToy(machine)` does, and returns its function. */
export type ServedDevice = PciFunction | ((machine: Machine) => PciFunction);

export interface VfioUserOptions {
  /** Path of the UNIX socket to listen on. */
  readonly socket: string;
  /** For logs. Default: the socket's path. */
  readonly name?: string;
  /** Connections come and go as traces, peers' errors as guest errors. */
  readonly log?: Log;
  /** Takes no memory that its owner could cut short, which would end this process: only files that are sealed, or may be, as QEMU's memfd. */
  readonly requireSeals?: boolean;
  /** The device's time. Default: real time. */
  readonly clock?: Clock;
  /** Data planes' threads write the client's event descriptors themselves; they must be of a pool whose entry is DATA_PLANE_WORKER. Default: by way of this thread. */
  readonly directInterrupts?: boolean;
  /** Who watches the driver of this function, if anybody does; made once, with the client's memory as the function reaches it. */
  readonly watch?: (machine: Machine, bdf: number, memory: GuestBytes) => AccessWatch | undefined;
}

export interface VfioUserStatistics {
  readonly path: string;
  readonly device: string;
  /** A client is there and has agreed on a version. */
  readonly connected: boolean;
  /** Clients so far. */
  readonly connections: number;
  /** Connections that ended because the peer broke the protocol. */
  readonly refused: number;
  /** DMA regions with and without a descriptor. */
  readonly regions: { readonly mapped: number; readonly byMessage: number };
  /** Messages to the present client for memory without a descriptor. */
  readonly dmaMessages: number;
  /** VFIO's name of the device's state. */
  readonly state: string;
}

/** A running server. Made by `serveVfioUser`. */
export class VfioUserServer {
  /** Made for the device: its fabric, clock and saved state. */
  readonly machine: Machine;
  readonly fn: PciFunction;
  readonly path: string;
  readonly #native: Native;
  readonly #poll: EventPoll;
  readonly #log: Log;
  readonly #irqs: VfioUserIrqs;
  readonly #memory: VfioUserMemory;
  readonly #migration: VfioUserMigration;
  readonly #session: VfioUserSession;
  #listener = -1;
  #watch: Watch | undefined;
  #connection: VfioUserConnection | undefined;
  #connections = 0;
  #refused = 0;
  #closed: Promise<void> | undefined;

  /** @throws InteropError, and what attaching the device throws */
  constructor(device: ServedDevice, options: VfioUserOptions) {
    const native = openNative();
    this.#native = native;
    setEventWriter((descriptor) => void native.events.writeEvent(descriptor));
    this.path = options.socket;
    this.#log = (options.log ?? new Log()).child(`vfio-user ${options.name ?? this.path}`);
    const arena = makeArena(options.requireSeals);
    const iommu = new Iommu();
    let irqs: VfioUserIrqs | undefined;
    this.machine = new Machine({
      name: options.name ?? this.path,
      memory: arena.memory,
      iommu,
      // It stands for the client's own address space: guests with a virtual IOMMU ask the device for ACCESS_PLATFORM.
      accessPlatform: false,
      log: this.#log,
      // Out of the way: the client decodes addresses, and has memory and message interrupts wherever it likes.
      platform: { ecam: { base: 2 * ARENA_BASE, firstBus: 0, lastBus: 0 } },
      msiWindow: { base: 0, size: 2 ** 53 },
      interrupts: {
        message: (message) => irqs?.message(message),
        setIntx: (_line, asserted) => irqs?.setIntx(asserted),
        ...(options.directInterrupts && { event: (message) => irqs?.eventOf(message) }),
      },
      ...(options.clock && { clock: options.clock }),
    });
    this.#poll = takePoll(native);
    try {
      this.fn = this.#attach(device);
      irqs = new VfioUserIrqs({ native, poll: this.#poll }, this.fn);
      this.#irqs = irqs;
    } catch (error) {
      givePollBack();
      void this.machine.close();
      throw error;
    }
    const domain = iommu.domain();
    iommu.attach(this.fn.requesterId, domain);
    this.#memory = new VfioUserMemory(native, arena, domain, {
      read: (address, into, offset, length) => this.#connection?.readMemory(address, into, offset, length) ?? false,
      write: (address, from, offset, length) => this.#connection?.writeMemory(address, from, offset, length) ?? false,
    });
    (this.fn.services as FunctionServices).dma.remote = this.#memory;
    const { vendorId, deviceId } = this.fn.identity;
    const identity = `${this.fn.name} ${vendorId.toString(16)}:${deviceId.toString(16)}`;
    const { machine, fn } = this;
    const watch = options.watch?.(machine, fn.routingId, bytesThrough(domain, arena.memory));
    this.#migration = new VfioUserMigration({ machine, identity, interrupts: this.#irqs, onLoaded: () => watch?.moved() });
    this.#session = new VfioUserSession({
      machine,
      fn,
      irqs: this.#irqs,
      memory: this.#memory,
      migration: this.#migration,
      log: this.#log,
      watch,
    });
  }

  #attach(device: ServedDevice): PciFunction {
    if (!(device instanceof PciFunction)) return device(this.machine);
    this.machine.attach(device);
    return device;
  }

  /** @throws InteropError when the socket cannot be made; nothing is left then. */
  async open(): Promise<void> {
    try {
      this.#listener = listenAt(this.#native, this.path);
      const watch = this.#poll.add(this.#listener, () => this.#accept());
      if (typeof watch === 'number') throw new InteropError('NICBOX_SOCKET', `cannot wait on ${this.path}: ${errorName(watch)}`);
      this.#watch = watch;
    } catch (error) {
      await this.close();
      throw error;
    }
  }

  get statistics(): VfioUserStatistics {
    return {
      path: this.path,
      device: this.fn.name,
      connected: this.#connection?.agreed ?? false,
      connections: this.#connections,
      refused: this.#refused,
      regions: { mapped: this.#memory.mapped, byMessage: this.#memory.unmapped },
      dmaMessages: this.#connection?.dmaMessages ?? 0,
      state: this.#migration.stateName,
    };
  }

  /** Asks the client to let the device go (REQ: QEMU unplugs it from the guest). Returns whether it listens. */
  requestRelease(): boolean {
    return this.#irqs.notify(REQ);
  }

  /** Tells the client that the device has failed for good (ERR: QEMU stops the machine). Returns whether it listens. */
  reportError(): boolean {
    return this.#irqs.notify(ERR);
  }

  // ---- clients ----

  #accept(): void {
    if (this.#connection !== undefined || this.#closed !== undefined) return;
    const fd = this.#native.sockets.accept(this.#listener);
    // Nobody is there, or went away again.
    if (fd < 0) return;
    this.#connections++;
    this.#log.trace('a client connected');
    const parts = { native: this.#native, poll: this.#poll, log: this.#log };
    const connection = new VfioUserConnection(fd, parts, { carryOut: (message) => this.#session.carryOut(message), close: () => this.#leave() });
    this.#connection = connection;
    void connection.closed.then(({ reason, fault }) => {
      this.#connection = undefined;
      if (fault) {
        this.#refused++;
        this.#log.guestError(`connection closed: ${reason}`);
      } else this.#log.trace(`connection closed: ${reason}`);
      this.#accept();
    });
  }

  /** The client is gone, and its machine with it: the device is as new for the next one. */
  async #leave(): Promise<void> {
    if (this.#memory.logging) this.#memory.stopLogging();
    this.#session.reset();
    this.#memory.unmapAll();
    this.#irqs.close();
  }

  /** Ends the connection, removes the socket, stops the device. Data planes are their owner's to close, afterwards. */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    const connection = this.#connection;
    connection?.close('this side closed it');
    await connection?.closed;
    this.#watch?.remove();
    if (this.#listener >= 0) {
      this.#native.close(this.#listener);
      removeSocket(this.path);
    }
    try {
      await this.machine.close();
    } finally {
      givePollBack();
    }
  }
}

/** For one guest: 64 GiB, less what alignment takes. */
const ARENA_BYTES = 16 * (2 ** 32 - 2 ** 21);

function makeArena(requireSeals?: boolean): MemoryArena {
  try {
    return new MemoryArena(ARENA_BYTES, requireSeals);
  } catch (error) {
    if (error instanceof MappingError) throw new InteropError('NICBOX_NATIVE_CALL', error.message);
    throw error;
  }
}

/**
 * Serves one PCI device to a vfio-user client; resolves when the socket listens.
 * @throws InteropError when the socket cannot be had or the platform is not one; and what attaching the device throws.
 */
export async function serveVfioUser(device: ServedDevice, options: VfioUserOptions): Promise<VfioUserServer> {
  const server = new VfioUserServer(device, options);
  await server.open();
  return server;
}
