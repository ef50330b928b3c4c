// One port of an Intel 82576 as a PCI function: registers in a memory BAR and through an I/O window, MSI-X, MSI and INTx, power management, a port of its own on a network segment. Wires the parts; each does its own work.

import type { Nanos } from '#core/clock';
import type { AccessSize, Region } from '#core/region';
import { RegisterFile, type RegisterSpec, registerWords } from '#core/register-file';
import { RestoreError, seal } from '#core/saved';
import { IoWindow } from '#devices/intel/io-window';
import { parseMac } from '#devices/intel/mac';
import { Statistics } from '#devices/intel/statistics';
import { Unplugged } from '#devices/intel/unplugged';
import { PortCounters } from '#net/counters';
import type { PortHost } from '#net/port';
import { Aer } from '#pci/aer';
import { Ari } from '#pci/ari';
import { Express } from '#pci/express';
import { type PcieType, PciFunction, type PlacedCapability } from '#pci/function';
import { Msi } from '#pci/msi';
import { Msix, msixBar } from '#pci/msix';
import { PowerManagement } from '#pci/pm';
import type { FunctionServices, ResetKind } from '#pci/ports';
import { SerialNumber } from '#pci/serial-number';
import type { VfLayout } from '#pci/sriov';
import { Engine } from './engine.ts';
import { Interrupts } from './interrupts.ts';
import { Link } from './link.ts';
import { boardNvm } from './nvm.ts';
import { FLAG_LOSSY, FLAG_SEND_XOFF, FLAG_SEND_XON, FLAG_STILL, PortState } from './port-state.ts';
import { type LiveParts, registerHooks } from './register-hooks.ts';
import { IGB_REGISTERS, POOLS, QUEUES, REGISTER_SPACE } from './registers.ts';
import { checkIgb, type IgbState, PART, VERSION } from './saved-igb.ts';
import { COUNT } from './statistics.ts';
import { TcpTimer } from './tcp-timer.ts';
import { TimeSync } from './time-sync.ts';
import { INTEL, VF_DEVICE_ID } from './vf.ts';
import { VirtualFunctions } from './virtual-functions.ts';

export interface IgbOptions {
  /** Six bytes, as "52:54:00:12:34:56". */
  readonly mac: string;
  /** The segment of this thread that the cable goes to. Without one the cable hangs in the air. */
  readonly segment?: PortHost;
  readonly name?: string;
  /** Which of the part's two ports this function is (STATUS.LAN_ID), default 0; and how many ports the device has, each a function of its own: port 1 is function 1. Default 1. */
  readonly port?: 0 | 1;
  readonly ports?: 1 | 2;
  /** How long autonegotiation takes; default 500 ms. */
  readonly negotiation?: Nanos;
  /** What a frame does that finds no buffer in a queue that does not drop (SRRCTL.DROP_EN): hold (default), it waits at its source; drop: it is lost and counted (MPC), as on a wire. */
  readonly fullRing?: 'hold' | 'drop';
  /** Virtual functions there can be (the NVM's IOV Control), 0 to 8: default 8. With 0 the function has no SR-IOV capability. */
  readonly vfs?: number;
  /** Where VFs are: first VF offset 80h and stride 2 as the part has them, unless a bus needs it otherwise. */
  readonly vfLayout?: VfLayout;
  /** Frames between pools: switch (default), inside the port; reflective-relay, by way of the neighbour, which sends them back (802.1Qbg). */
  readonly between?: 'switch' | 'reflective-relay';
  /** Default 'endpoint'; 'root-complex-endpoint' on the root bus. */
  readonly pcieType?: PcieType;
}

/** An embedder asked for an igb that cannot be. `code` is stable. */
export class IgbOptionError extends TypeError {
  readonly code = 'NICBOX_IGB_OPTION';
}

const IGB_DEVICE_ID = 0x10c9;
/** A dual port server adapter's. */
const SUBSYSTEM_ID = 0xa03c;
const REVISION = 1;
const VECTORS = 10;
const NEGOTIATION: Nanos = 500e6;
const FLASH_BAR_BYTES = 0x2_0000;
const IO_BAR_BYTES = 32;
const MSIX_BAR_BYTES = 0x4000;
const PENDING_BITS = 0x2000;
const QUEUE_ENABLE = 1 << 25;
const SENDS = FLAG_SEND_XOFF | FLAG_SEND_XON;
const QUEUE_REGISTERS = [
  ...(['RDBAL', 'RDBAH', 'RDLEN', 'SRRCTL', 'RDH', 'RXCTL', 'RDT', 'RXDCTL', 'RQDPC'] as const),
  ...(['TDBAL', 'TDBAH', 'TDLEN', 'TDH', 'TXCTL', 'TDT', 'TXDCTL', 'TDWBAL', 'TDWBAH'] as const),
];
const QUEUE_RESETS: Readonly<Record<string, number>> = Object.fromEntries(
  QUEUE_REGISTERS.map((name) => [name, (IGB_REGISTERS[name] as RegisterSpec).reset ?? 0]),
);

interface Live extends LiveParts {
  readonly services: FunctionServices;
  readonly host: PortHost;
}

export class Igb {
  readonly name: string;
  readonly mac: Uint8Array;
  readonly port: number;
  readonly fn: PciFunction;
  readonly registers: RegisterFile<typeof IGB_REGISTERS>;
  /** Frames, bytes and drops of its port. */
  readonly counters = new PortCounters();
  readonly #options: IgbOptions;
  readonly #state: PortState;
  readonly #statistics: Statistics;
  readonly #nvm: Uint16Array;
  readonly #io: IoWindow;
  readonly #virtual: VirtualFunctions;
  #cable: boolean;
  /** While state is restored nothing may move: half of it is not there yet. */
  #still = false;
  #live: Live | undefined;

  /** @throws IgbOptionError */
  constructor(options: IgbOptions) {
    this.#options = options;
    const { port = 0, ports = 1, pcieType = 'endpoint' } = options;
    if (port >= ports) throw new IgbOptionError(`port ${port} of ${ports}: a part with one port has port 0`);
    if (pcieType === 'conventional') throw new IgbOptionError('an 82576 is a PCI Express function');
    const { vfs = POOLS } = options;
    if (!(Number.isInteger(vfs) && vfs >= 0 && vfs <= POOLS)) throw new IgbOptionError(`${vfs} virtual functions: 0 to ${POOLS} is possible`);
    const mac = parseMac(options.mac);
    if (typeof mac === 'string') throw new IgbOptionError(mac);
    this.mac = mac;
    this.port = port;
    this.name = options.name ?? `igb ${options.mac}`;
    this.#cable = options.segment !== undefined;
    this.#nvm = boardNvm(this.mac, IGB_DEVICE_ID, VF_DEVICE_ID, SUBSYSTEM_ID);
    const words = new Uint32Array(registerWords(IGB_REGISTERS));
    this.#state = new PortState(words);
    this.#state.setFlag(FLAG_LOSSY, options.fullRing === 'drop');
    this.#statistics = new Statistics(this.#state.statistics);
    this.#virtual = this.#makeVirtual(words, pcieType);
    this.registers = new RegisterFile(IGB_REGISTERS, { state: words, size: REGISTER_SPACE, hooks: registerHooks(this.#hookHost(), this.#virtual.hooks) });
    this.#virtual.portReset();
    this.#io = new IoWindow(this.registers, REGISTER_SPACE);
    this.fn = this.#makeFunction(pcieType);
    this.#powerUp();
  }

  #makeVirtual(words: Uint32Array, pcieType: PcieType): VirtualFunctions {
    const device = this;
    const { port = 0, vfs = POOLS, vfLayout, between } = this.#options;
    return new VirtualFunctions({
      words,
      now: () => this.#live?.services.clock.now() ?? 0,
      name: this.name,
      revision: REVISION,
      subsystemId: SUBSYSTEM_ID,
      pcieType,
      lowest: port === 0,
      total: vfs,
      layout: vfLayout ?? { firstOffset: 0x80, stride: 2 },
      between: between ?? 'switch',
      host: {
        get registers() {
          return device.registers;
        },
        raise: (causes) => this.#live?.interrupts.raise(causes),
        raiseExtended: (vectors) => this.#live?.interrupts.raiseExtended(vectors),
        readExtended: (name) => this.#live?.interrupts.readExtended(name) ?? 0,
        writeExtended: (name, mask, value) => this.#live?.interrupts.writeExtended(name, mask, value),
        resetQueue: (queue) => this.#resetQueue(queue),
        attachQueues: (pool, dma) => {
          this.#live?.engine.attachQueue(pool, dma);
          this.#live?.engine.attachQueue(pool + POOLS, dma);
        },
        changed: () => this.#changed(),
        queuesChanged: () => this.#queuesChanged(),
      },
    });
  }

  /** Registers that tables are derived from were changed; queues may go on now. */
  #changed(): void {
    this.#state.changed();
    this.#wake();
  }

  /** What a VF does by itself: no table is made anew for it. */
  #queuesChanged(): void {
    this.#state.queuesChanged();
    this.#wake();
  }

  /** A VF's reset: both ways, registers and what is kept. */
  #resetQueue(queue: number): void {
    for (const name of QUEUE_REGISTERS) this.registers.set(name, QUEUE_RESETS[name] as number, queue);
    this.#live?.engine.resetQueue(queue);
  }

  #makeFunction(pcieType: PcieType): PciFunction {
    const { port = 0, ports = 1 } = this.#options;
    const { capability: sriov } = this.#virtual;
    const msix = new Msix({ vectors: VECTORS, table: { bar: 3, offset: 0 }, pendingBits: { bar: 3, offset: PENDING_BITS } });
    // Where the part has them (82576 9.3).
    const capabilities: PlacedCapability[] = [
      { capability: new PowerManagement(), offset: 0x40 },
      { capability: new Msi({ vectors: 1, maskable: true }), offset: 0x50 },
      { capability: msix, offset: 0x70 },
      { capability: new Express({ maxSpeed: 1, maxWidth: 4 }), offset: 0xa0 },
      { capability: new Aer(), offset: 0x100 },
      { capability: SerialNumber.ofMac(this.mac), offset: 0x140 },
      { capability: new Ari(port + 1 < ports ? port + 1 : 0), offset: 0x150 },
      ...(sriov === undefined ? [] : [{ capability: sriov, offset: 0x160 }]),
    ];
    return new PciFunction({
      name: 'igb',
      identity: {
        vendorId: INTEL,
        deviceId: IGB_DEVICE_ID,
        revision: REVISION,
        classCode: 0x02_0000,
        subsystemVendorId: INTEL,
        subsystemId: SUBSYSTEM_ID,
        interruptPin: port + 1,
        pcieType,
      },
      bars: [
        { index: 0, kind: 'memory32', region: this.registers },
        { index: 1, kind: 'memory32', region: new ErasedFlash() },
        { index: 2, kind: 'io', region: this.#io, size: IO_BAR_BYTES },
        { index: 3, kind: 'memory32', region: msixBar(msix, 3, undefined, MSIX_BAR_BYTES) },
      ],
      capabilities,
      onAttach: (services) => this.#attach(services),
      onDetach: () => this.#detach(),
      onReset: (kind) => this.#functionReset(kind),
      onMastering: (granted) => {
        if (granted) this.#wake();
      },
    });
  }

  /** The cable: pulled or put in. A link takes autonegotiation's time to come up. */
  get cable(): boolean {
    return this.#cable;
  }

  set cable(on: boolean) {
    this.#cable = on && this.#options.segment !== undefined;
    if (this.#live !== undefined) this.#live.link.phy.cable = this.#cable;
  }

  // ---- life ----

  #attach(services: FunctionServices): void {
    const { clock } = services;
    const state = this.#state;
    const { segment, negotiation = NEGOTIATION } = this.#options;
    const device = this;
    const interrupts = new Interrupts(
      {
        clock,
        setLine: (asserted) => {
          services.interrupts.setLine(asserted);
          if (asserted) services.interrupts.raise(0);
        },
        restoreLine: (asserted) => services.interrupts.setLine(asserted),
        send: (vector) => {
          if (!this.#virtual.sendVector(vector)) services.interrupts.raise(vector);
        },
        get virtualVectors() {
          return device.#virtual.vectors;
        },
        quiet: (vector) => this.#quiet(vector),
        counted: () => {
          state.statistics[COUNT.IAC] = (state.statistics[COUNT.IAC] as number) + 1;
        },
      },
      state.registers,
    );
    const time = new TimeSync(state.registers, clock);
    const engine = new Engine({
      name: this.name,
      clock,
      state,
      dma: services.dma,
      counters: this.counters,
      time,
      pools: this.#virtual.switch,
      mayTransmit: (queue) => this.#virtual.transmits(queue),
      isQuiet: (queue) => interrupts.isQuiet(queue, true),
      signal: (received, sent, urgent, causes) => interrupts.queues(received, sent, urgent, causes),
      paused: () => this.#live?.link.paused(),
      wake: () => this.#wake(),
    });
    const link = new Link({ clock, state, negotiation, cable: this.#cable, raise: (causes) => interrupts.raise(causes), wake: () => this.#wake() });
    const tcpTimer = new TcpTimer(state.registers, clock, () => interrupts.tcpTimer());
    const host = segment ?? new Unplugged(clock);
    host.addPort(engine);
    this.#live = { services, interrupts, link, engine, time, tcpTimer, host };
  }

  #detach(): void {
    const live = this.#live;
    this.#live = undefined;
    if (live === undefined) return;
    live.interrupts.reset();
    live.tcpTimer.reset();
    live.link.stop();
    live.link.phy.cable = false;
    live.engine.stop();
    live.host.removePort(live.engine);
  }

  /** Leaves the segment for good: nothing is sent or received any more. */
  release(): void {
    this.#live?.host.removePort(this.#live.engine);
  }

  #wake(): void {
    const live = this.#live;
    if (live !== undefined && !this.#still) live.host.wake(live.engine);
  }

  /** The counter of a vector ended. Where all interrupts are one it is everyone's. */
  #quiet(vector: number): void {
    const live = this.#live;
    if (live === undefined) return;
    let queues = 0;
    for (let queue = 0; queue < QUEUES; queue++) {
      const bit = live.interrupts.vectorOf(queue, true);
      if (bit === 1 << vector || vector === 0) queues |= 1 << queue;
    }
    live.engine.quiet(queues);
  }

  /** Resets of the function (82576 4.2): all is as after power on but for what the board holds. */
  #functionReset(kind: ResetKind): void {
    this.#reset('cold');
    if (kind === 'conventional') this.#live?.link.phy.reset();
  }

  /** CTRL.RST is the warm kind; what outlives it is in the table. */
  #reset(kind: 'cold' | 'warm'): void {
    this.registers.reset(kind);
    this.#powerUp();
    this.#statistics.clearAll();
    this.#state.setFlag(SENDS, false);
    if (kind === 'cold') this.#io.address = 0;
    this.#virtual.portReset();
    this.#state.changed();
    const live = this.#live;
    if (live === undefined) return;
    live.engine.reset();
    live.time.reset();
    live.tcpTimer.reset();
    live.interrupts.reset();
    live.link.reset();
    // A link that went down with SLU is not news.
    this.registers.set('ICR', 0);
    live.interrupts.update();
  }

  /** What is not the same in every element of a register: queue 0 is enabled, as in parts that have no other (8.10.9, 8.12.14); the address. */
  #powerUp(): void {
    this.registers.set('RXDCTL', this.registers.get('RXDCTL') | QUEUE_ENABLE);
    this.registers.set('TXDCTL', this.registers.get('TXDCTL') | QUEUE_ENABLE);
    this.#loadAddress();
  }

  /** 82576 6.2.1: the first receive address comes from the NVM. */
  #loadAddress(): void {
    const [w0, w1, w2] = this.#nvm as unknown as [number, number, number];
    this.registers.set('RAL', (w0 | (w1 << 16)) >>> 0);
    this.registers.set('RAH', (w2 | 0x8000_0000) >>> 0);
    this.#state.changed();
  }

  #hookHost(): Parameters<typeof registerHooks>[0] {
    const device = this;
    const { port = 0, ports = 1 } = this.#options;
    return {
      get registers() {
        return device.registers;
      },
      get live() {
        return device.#live;
      },
      state: this.#state,
      statistics: this.#statistics,
      nvm: this.#nvm,
      port,
      ports,
      now: () => this.#live?.services.clock.now() ?? 0,
      wake: () => this.#wake(),
      reset: () => this.#reset('warm'),
      loadAddress: () => this.#loadAddress(),
      pfReady: () => this.#virtual.pfReady(),
    };
  }

  // ---- saved state ----

  /** Frames stand still: a machine that is being saved. */
  pause(): void {
    this.#state.setFlag(FLAG_STILL, true);
  }

  resume(): void {
    this.#state.setFlag(FLAG_STILL, false);
    this.#wake();
  }

  save(): unknown {
    const live = this.#requireLive();
    return seal(PART, VERSION, {
      registers: this.registers.save(),
      statistics: this.#statistics.save(),
      ioAddress: this.#io.address,
      link: live.link.save(),
      interrupts: live.interrupts.save(),
      queues: live.engine.transmitQueues.map((queue) => queue.save()),
      time: live.time.save(),
      tcpTimer: live.tcpTimer.save(),
      sends: this.#state.flags & SENDS,
      virtual: this.#virtual.save(),
    } satisfies IgbState);
  }

  /** @throws RestoreError, having changed nothing */
  restore(saved: unknown): void {
    const live = this.#requireLive();
    const state = checkIgb(saved, { statistics: this.#statistics, phy: live.link.phy, sends: SENDS });
    this.#still = true;
    this.registers.restore(state.registers);
    this.#statistics.restore(state.statistics);
    this.#state.setFlag(SENDS, false);
    this.#state.setFlag(state.sends, true);
    this.#state.changed();
    live.engine.reset();
    // Gives VFs their queues, which are as after a reset then.
    this.#virtual.restore(state.virtual);
    live.engine.transmitQueues.forEach((queue, i) => {
      queue.restore(state.queues[i] as (typeof state.queues)[number]);
    });
    this.#io.address = state.ioAddress;
    live.time.restore(state.time);
    live.tcpTimer.restore(state.tcpTimer);
    live.link.restore(state.link);
    live.interrupts.restore(state.interrupts);
    this.#still = false;
    this.#wake();
  }

  #requireLive(): Live {
    if (this.#live === undefined) throw new RestoreError(`${this.name} is not attached to a machine`);
    return this.#live;
  }
}

/** BAR 1: a flash that is erased, and cannot be written through its window (82576 3.3.3 needs FLA for that, which is not there). */
class ErasedFlash implements Region {
  readonly size = FLASH_BAR_BYTES;

  read(_offset: number, size: AccessSize): number {
    return size === 4 ? 0xffff_ffff : 2 ** (8 * size) - 1;
  }

  write(): void {}
}
