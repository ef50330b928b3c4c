// PCI functions of a machine for guests that are user-mode Linux kernels: each on a vhost-user socket, as their PCI-over-virtio device expects it. Configuration space, BARs, MSI-X tables,
// bus mastering and SR-IOV are the machine's own; the functions' DMA goes through the memory that the guest shares. A socket outlives its guests.

import { BellLoop } from '#core/bell-loop';
import type { GuestMemory } from '#core/guest-memory';
import { setEventWriter } from '#core/interrupts';
import { Iommu } from '#core/iommu';
import { Log } from '#core/log';
import type { Machine } from '#nicbox/machine';
import type { HostInterrupts, MachineOptions } from '#nicbox/machine-options';
import { FeatureSet, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_VERSION_1 } from '#virtio/features';
import type { AccessWatch, GuestBytes } from './access-watch.ts';
import { EventPoll } from './event-poll.ts';
import type { SessionState } from './front-session.ts';
import { InteropError } from './interop-error.ts';
import { MemoryArena } from './memory-arena.ts';
import { openNative } from './native.ts';
import { PcidevFunction, type PcidevStatistics } from './pcidev-function.ts';
import * as wire from './vhost-user-protocol.ts';
import { VhostUserSocket } from './vhost-user-socket.ts';

/** The kernel has as many places for such devices. */
const MOST_SLOTS = 8;
const OFFERED = FeatureSet.of(VIRTIO_F_VERSION_1, VIRTIO_F_INDIRECT_DESC, wire.VHOST_USER_F_PROTOCOL_FEATURES);
const PROTOCOL_FEATURES = [wire.PROTOCOL_F_REPLY_ACK, wire.PROTOCOL_F_BACKEND_REQ, wire.PROTOCOL_F_CONFIG];

export interface UmlPciOptions {
  /**
   * Paths of UNIX sockets, at most 8. Socket i is the function at device i of the root bus, function 0, whether it is there yet or not: where none answers, reads are all ones, so
   * that sockets of virtual functions may wait for VF Enable. A guest has to be given its sockets in the same order.
   */
  readonly sockets: readonly string[];
  /** Offers kicks and calls by messages, which the guest's time-travel modes need. */
  readonly inBand?: boolean;
  /** Guests come and go as traces, what they do wrong as guest errors. */
  readonly log?: Log;
  /** Called for each socket: who is to be told of what the guest's driver does there, if anyone. */
  readonly watch?: (bdf: number, memory: GuestBytes) => AccessWatch | undefined;
}

export interface UmlPciSocketStatistics extends PcidevStatistics {
  readonly path: string;
  readonly session: SessionState | undefined;
  readonly connections: number;
  /** Connections that ended because the peer broke the protocol. */
  readonly refused: number;
}

/** Interrupts of a machine whose functions other processes drive, taken by whoever serves it. */
class RemoteInterrupts implements HostInterrupts {
  readonly functions = new Map<number, PcidevFunction>();

  message({ data }: { readonly data: number }, requester: number): void {
    this.functions.get(requester)?.message(data);
  }

  setIntx(): void {
    // Each function has a wire of its own: setPin.
  }

  setPin(bdf: number, pin: number, asserted: boolean): void {
    this.functions.get(bdf)?.setPin(pin, asserted);
  }
}

/** What a machine that was made for this has behind its memory. */
interface Remote {
  readonly arena: MemoryArena;
  readonly iommu: Iommu;
  readonly interrupts: RemoteInterrupts;
}

const remotes = new WeakMap<GuestMemory, Remote>();

/**
 * What a machine has to be made of whose functions user-mode Linux drives: `new Machine({ ...umlPciMachine(), name })`. @param bytes of address space for guests' memory (default nearly
 * 4 GiB): each socket takes as much as its guest has. @throws InteropError, RangeError, MappingError
 */
export function umlPciMachine(bytes?: number): Pick<MachineOptions, 'memory' | 'iommu' | 'interrupts' | 'platform'> {
  const remote: Remote = { arena: new MemoryArena(bytes), iommu: new Iommu(), interrupts: new RemoteInterrupts() };
  const { memory } = remote.arena;
  remotes.set(memory, remote);
  return { memory, iommu: remote.iommu, interrupts: remote.interrupts, platform: { msiAddress: MSI_ADDRESS } };
}

/** Where the kernel aims message interrupts (seen in MSI-X tables). */
const MSI_ADDRESS = 0xa0000;

/** Made by `serveUmlPci`. */
export class UmlPciServer {
  readonly #poll: EventPoll;
  readonly #bells = new BellLoop();
  readonly #interrupts: RemoteInterrupts;
  readonly #places: { readonly socket: VhostUserSocket; readonly fn: PcidevFunction; readonly bdf: number }[] = [];
  #closed: Promise<void> | undefined;

  /** @throws InteropError */
  constructor(machine: Machine, options: UmlPciOptions) {
    const { sockets, inBand = false } = options;
    const remote = remotes.get(machine.memory);
    if (remote === undefined)
      throw new InteropError('NICBOX_UML_PCI_OPTION', `${machine.name} has memory and interrupts of its own: make it with 'new Machine(umlPciMachine())'`);
    const { arena, iommu, interrupts } = remote;
    if (interrupts.functions.size > 0) throw new InteropError('NICBOX_UML_PCI_OPTION', `${machine.name} is being served already`);
    if (sockets.length < 1 || sockets.length > MOST_SLOTS || new Set(sockets).size !== sockets.length)
      throw new InteropError('NICBOX_UML_PCI_OPTION', `${sockets.length} sockets: give 1 to ${MOST_SLOTS} different paths`);
    this.#interrupts = interrupts;
    const native = openNative();
    setEventWriter((descriptor) => void native.events.writeEvent(descriptor));
    const log = (options.log ?? new Log()).child('uml-pci');
    this.#poll = new EventPoll(native);
    const { doorbell: relay } = this.#bells.doorbell(() => {
      for (const { socket } of this.#places) socket.relayCalls();
    });
    sockets.forEach((path, i) => {
      const bdf = i << 3;
      const own = log.child(`uml-pci ${path}`);
      const fn = new PcidevFunction({ machine, arena, iommu, bdf, log: own, watch: options.watch });
      const socket = new VhostUserSocket({
        native,
        poll: this.#poll,
        relay,
        offered: OFFERED,
        protocolFeatures: PROTOCOL_FEATURES,
        inBand,
        client: false,
        path,
        backend: fn,
        mac: undefined,
        mtu: undefined,
        addressSource: arena,
        onGone: () => fn.powerCycle(),
        log: own,
      });
      interrupts.functions.set(bdf, fn);
      this.#places.push({ socket, fn, bdf });
    });
  }

  /** @throws InteropError when a socket cannot be made; nothing is left then. */
  async open(): Promise<void> {
    try {
      for (const { socket } of this.#places) socket.open();
    } catch (error) {
      await this.close();
      throw error;
    }
  }

  get statistics(): readonly UmlPciSocketStatistics[] {
    return this.#places.map(({ socket, fn }) => ({
      path: socket.path,
      session: socket.session,
      connections: socket.connections,
      refused: socket.refused,
      ...fn.statistics,
    }));
  }

  /** Ends every connection and removes the sockets. The machine is its owner's. */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    await Promise.all(this.#places.map(({ socket }) => socket.close()));
    for (const { fn } of this.#places) fn.close();
    this.#interrupts.functions.clear();
    this.#poll.close();
    this.#bells.close();
  }
}

/** Serves functions of a machine to user-mode Linux kernels; resolves when every socket listens. @throws InteropError */
export async function serveUmlPci(machine: Machine, options: UmlPciOptions): Promise<UmlPciServer> {
  const server = new UmlPciServer(machine, options);
  await server.open();
  return server;
}
