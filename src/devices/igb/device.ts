// One port of an Intel 82576 as a PCI function: registers in a memory BAR and through an I/O window, MSI-X, MSI and INTx, power management, a port of its own on a network segment. Wires the parts; each does its own work.

import { RegisterFile, type RegisterSpec, registerWords } from '#core/register-file';
import { RestoreError, seal } from '#core/saved';
import { IoWindow } from '#devices/intel/io-window';
import { SpiEeprom } from '#devices/intel/spi-eeprom';
import { Statistics } from '#devices/intel/statistics';
import { WakeUp } from '#devices/intel/wake-up';
import { PortCounters } from '#net/counters';
import type { PcieType, PciFunction } from '#pci/function';
import { PowerManagement } from '#pci/pm';
import type { FunctionServices, ResetKind } from '#pci/ports';
import { IGB_DEVICE_ID, igbMsix, makeFunction, REVISION, SUBSYSTEM_ID } from './function.ts';
import { type Live, makeLive } from './live.ts';
import { boardNvm, setAddress, wakesByMagic } from './nvm.ts';
import { checkOptions, type IgbOptions } from './options.ts';
import { pendingBits, retract } from './pending-bits.ts';
import { Pins } from './pins.ts';
import { FLAG_ASLEEP, FLAG_LOSSY, FLAG_SEND_XOFF, FLAG_SEND_XON, FLAG_STILL, PortState } from './port-state.ts';
import { registerHooks } from './register-hooks.ts';
import { AT, IGB_REGISTERS, POOLS, REGISTER_SPACE } from './registers.ts';
import { checkIgb, type IgbState, PART, VERSION } from './saved-igb.ts';
import { VF_DEVICE_ID } from './vf.ts';
import { VirtualFunctions } from './virtual-functions.ts';

/** Wake-up registers (8.20), which stand together in the table. */
const WAKE_UP_END = AT.FHFT_EXT + IGB_REGISTERS.FHFT_EXT.count;
const WUC_APME = 1;
const QUEUE_ENABLE = 1 << 25;
const SENDS = FLAG_SEND_XOFF | FLAG_SEND_XON;
const QUEUE_REGISTERS = [
  ...(['RDBAL', 'RDBAH', 'RDLEN', 'SRRCTL', 'RDH', 'RXCTL', 'RDT', 'RXDCTL', 'RQDPC'] as const),
  ...(['TDBAL', 'TDBAH', 'TDLEN', 'TDH', 'TXCTL', 'TDT', 'TXDCTL', 'TDWBAL', 'TDWBAH'] as const),
];
const QUEUE_RESETS: Readonly<Record<string, number>> = Object.fromEntries(
  QUEUE_REGISTERS.map((name) => [name, (IGB_REGISTERS[name] as RegisterSpec).reset ?? 0]),
);

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
  readonly #eeprom: SpiEeprom;
  readonly #pins: Pins;
  readonly #pm = new PowerManagement({ pmeFrom: ['d0', 'd3hot', 'd3cold'], onMove: (state) => this.#state.setFlag(FLAG_ASLEEP, state !== 0) });
  readonly #msix = igbMsix();
  readonly #wakeUp: WakeUp;
  readonly #io: IoWindow;
  readonly #virtual: VirtualFunctions;
  #cable: boolean;
  /** While state is restored nothing may move: half of it is not there yet. */
  #still = false;
  #live: Live | undefined;

  /** @throws IgbOptionError */
  constructor(options: IgbOptions) {
    this.#options = options;
    this.mac = checkOptions(options);
    this.port = options.port ?? 0;
    this.name = options.name ?? `igb ${options.mac}`;
    this.#cable = options.segment !== undefined;
    const nvm = options.nvm?.slice() ?? boardNvm(this.mac, IGB_DEVICE_ID, VF_DEVICE_ID, SUBSYSTEM_ID);
    setAddress(nvm, this.mac);
    this.#eeprom = new SpiEeprom(nvm);
    const words = new Uint32Array(registerWords(IGB_REGISTERS));
    this.#state = new PortState(words);
    this.#state.setFlag(FLAG_LOSSY, options.fullRing === 'drop');
    this.#statistics = new Statistics(this.#state.statistics);
    this.#pins = new Pins({
      words,
      raise: (causes) => this.#live?.interrupts.raise(causes),
      inputChanged: (pin) => this.#live?.timeEvents.inputChanged(pin),
      output: (pin, level) => options.onPin?.(pin, level),
    });
    const { pcieType = 'endpoint' } = options;
    this.#virtual = this.#makeVirtual(words, pcieType);
    this.registers = new RegisterFile(IGB_REGISTERS, { state: words, size: REGISTER_SPACE, hooks: registerHooks(this.#hookHost(), this.#virtual.hooks) });
    this.#virtual.portReset();
    this.#io = new IoWindow(this.registers, REGISTER_SPACE);
    this.fn = this.#makeFunction(pcieType);
    this.#wakeUp = new WakeUp({ words, at: AT, pm: this.#pm, fn: this.fn });
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
    return makeFunction({
      port,
      ports,
      mac: this.mac,
      pcieType,
      pm: this.#pm,
      msix: this.#msix,
      sriov: this.#virtual.capability,
      registers: this.registers,
      io: this.#io,
      onAttach: (services) => this.#attach(services),
      onDetach: () => this.#detach(),
      onReset: (kind) => this.#functionReset(kind),
      onMastering: (granted) => {
        if (granted) this.#wake();
      },
    });
  }

  /** What the NVM holds: the words themselves, which software can write. */
  get nvm(): Uint16Array {
    return this.#eeprom.words;
  }

  /** The board drives software-definable pin 0 to 3, which means something while it is an input. @throws RangeError */
  drivePin(pin: number, level: boolean): void {
    this.#pins.drive(pin, level);
  }

  pinLevel(pin: number): boolean {
    return this.#pins.level(pin);
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
    const live = makeLive({
      name: this.name,
      services,
      options: this.#options,
      state: this.#state,
      counters: this.counters,
      virtual: this.#virtual,
      msix: this.#msix,
      pins: this.#pins,
      wakeUp: this.#wakeUp,
      cable: this.#cable,
      wake: () => this.#wake(),
    });
    live.host.addPort(live.engine);
    this.#live = live;
  }

  #detach(): void {
    const live = this.#live;
    this.#live = undefined;
    if (live === undefined) return;
    live.interrupts.reset();
    live.tcpTimer.reset();
    live.timeEvents.reset();
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

  /** Resets of the function (82576 4.2): all is as after power on but for what the board holds, and what woke the system, which is there to be read when that has had it out of D3. */
  #functionReset(kind: ResetKind): void {
    const { registers } = this.#state;
    const kept = kind === 'conventional' ? undefined : registers.slice(AT.WUC, WAKE_UP_END);
    this.#reset('cold');
    if (kept === undefined) this.#live?.link.phy.reset();
    else registers.set(kept, AT.WUC);
  }

  /** CTRL.RST is the warm kind; what outlives it is in the table. */
  #reset(kind: 'cold' | 'warm'): void {
    this.registers.reset(kind);
    this.#powerUp();
    this.#statistics.clearAll();
    this.#state.setFlag(SENDS, false);
    this.#state.setFlag(FLAG_ASLEEP, this.#pm.powerState !== 0);
    this.#eeprom.drive(false, false, false);
    if (kind === 'cold') this.#io.address = 0;
    this.#virtual.portReset();
    this.#state.changed();
    const live = this.#live;
    if (live === undefined) {
      this.#pins.reset();
      return;
    }
    live.engine.reset();
    live.time.reset();
    live.timeEvents.reset();
    live.tcpTimer.reset();
    live.interrupts.reset();
    live.link.reset();
    // A link that went down with SLU is not news.
    this.registers.set('ICR', 0);
    live.interrupts.update();
    this.#pins.reset();
  }

  /** What is not the same in every element of a register: queue 0 is enabled, as in parts that have no other (8.10.9, 8.12.14); the address; whether APM wakes. */
  #powerUp(): void {
    this.registers.set('RXDCTL', this.registers.get('RXDCTL') | QUEUE_ENABLE);
    this.registers.set('TXDCTL', this.registers.get('TXDCTL') | QUEUE_ENABLE);
    const control = this.registers.get('WUC') & ~WUC_APME;
    this.registers.set('WUC', wakesByMagic(this.nvm, this.#options.port ?? 0) ? control | WUC_APME : control);
    this.#loadAddress();
  }

  /** 82576 6.2.1: the first receive address comes from the NVM. */
  #loadAddress(): void {
    const [w0, w1, w2] = this.nvm as unknown as [number, number, number];
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
      eeprom: this.#eeprom,
      pins: this.#pins,
      get wakeUp() {
        return device.#wakeUp;
      },
      port,
      ports,
      now: () => this.#live?.services.clock.now() ?? 0,
      wake: () => this.#wake(),
      reset: () => this.#reset('warm'),
      loadAddress: () => this.#loadAddress(),
      pfReady: () => this.#virtual.pfReady(),
      pending: () => pendingBits(this.#msix),
      retract: (vectors) => retract(this.#msix, vectors),
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
      timeEvents: live.timeEvents.save(),
      pins: this.#pins.save(),
      eeprom: this.#eeprom.save(),
      tcpTimer: live.tcpTimer.save(),
      sends: this.#state.flags & SENDS,
      virtual: this.#virtual.save(),
    } satisfies IgbState);
  }

  /** @throws RestoreError, having changed nothing */
  restore(saved: unknown): void {
    const live = this.#requireLive();
    const state = checkIgb(saved, { statistics: this.#statistics, eeprom: this.#eeprom, link: live.link, sends: SENDS });
    this.#still = true;
    this.registers.restore(state.registers);
    this.#statistics.restore(state.statistics);
    this.#state.setFlag(SENDS, false);
    this.#state.setFlag(state.sends, true);
    this.#state.setFlag(FLAG_ASLEEP, this.#pm.powerState !== 0);
    this.#eeprom.restore(state.eeprom);
    this.#state.changed();
    live.engine.reset();
    // Gives VFs their queues, which are as after a reset then.
    this.#virtual.restore(state.virtual);
    live.engine.transmitQueues.forEach((queue, i) => {
      queue.restore(state.queues[i] as (typeof state.queues)[number]);
    });
    this.#io.address = state.ioAddress;
    live.time.restore(state.time);
    this.#pins.restore(state.pins);
    live.timeEvents.restore(state.timeEvents);
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
