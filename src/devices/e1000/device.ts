// The Intel 8254x as a PCI function: registers in a memory BAR and through an I/O window, power management with wake-up, MSI; a port of its own on a network segment. Wires the parts; each does its own work.

import type { Nanos } from '#core/clock';
import type { Bell } from '#core/doorbell';
import { RegisterFile } from '#core/register-file';
import { RestoreError, seal } from '#core/saved';
import { MicrowireEeprom, sealEeprom } from '#devices/intel/eeprom';
import { IoWindow } from '#devices/intel/io-window';
import { Link } from '#devices/intel/link';
import { Statistics } from '#devices/intel/statistics';
import { Unplugged } from '#devices/intel/unplugged';
import { WakeUp } from '#devices/intel/wake-up';
import { PortCounters } from '#net/counters';
import { PciFunction } from '#pci/function';
import { Msi } from '#pci/msi';
import { PowerManagement } from '#pci/pm';
import type { FunctionServices } from '#pci/ports';
import { Engine } from './engine.ts';
import {
  EngineState,
  EVENT_MAGIC,
  EVENT_PAUSE,
  EVENT_RECEIVED,
  EVENT_SENT_DELAYED,
  EVENT_TAKEN,
  EVENT_WOKEN,
  FLAG_ASLEEP,
  FLAG_LINK,
  FLAG_LOOPBACK,
  FLAG_LOSSY,
  FLAG_PAUSED,
  FLAG_RUNTS,
  FLAG_SEND_XOFF,
  FLAG_SEND_XON,
  FLAG_STILL,
} from './engine-state.ts';
import { Interrupts } from './interrupts.ts';
import { boardEeprom, CSB_SUBSYSTEM_ID, E1000_MODELS, type E1000Model, type E1000ModelName, INTEL } from './models.ts';
import { checkEeprom, E1000OptionError, type E1000Options, requireMac } from './options.ts';
import { localPort, type PortSide, remotePort } from './port-side.ts';
import { type HookHost, registerHooks } from './register-hooks.ts';
import { RegisterSpace } from './register-space.ts';
import { AT, E1000_REGISTERS, ICR_LSC, ICR_MDAC, ICR_PHYINT, ICR_RXT0, ICR_TXDW, PACKET_BUFFER, REGISTER_SPACE } from './registers.ts';
import { checkE1000, type E1000State, PART, VERSION } from './saved-e1000.ts';

const SENDS = FLAG_SEND_XOFF | FLAG_SEND_XON;
const NEGOTIATION: Nanos = 500e6;
/** The decoded size of the I/O BAR. */
const IO_BAR = 64;
const CAUSES = 0x00ff_ffff;
/** The link of an 8254x (link.ts). */
const LINK_PART = {
  at: AT,
  flags: { link: FLAG_LINK, loopback: FLAG_LOOPBACK, paused: FLAG_PAUSED },
  causes: { changed: ICR_LSC, managed: ICR_MDAC, phy: ICR_PHYINT },
};

/** What exists while the device is attached. */
interface Live {
  readonly services: FunctionServices;
  readonly interrupts: Interrupts;
  readonly link: Link;
  readonly engine: Engine;
  readonly port: PortSide;
}

export class E1000 {
  readonly name: string;
  readonly model: E1000ModelName;
  readonly mac: Uint8Array;
  readonly fn: PciFunction;
  readonly registers: RegisterFile<typeof E1000_REGISTERS>;
  /** Frames, bytes and drops of its port. */
  readonly counters = new PortCounters();
  readonly #options: E1000Options;
  readonly #parts: E1000Model;
  readonly #state = new EngineState();
  readonly #statistics: Statistics;
  readonly #eeprom: MicrowireEeprom;
  readonly #space: RegisterSpace;
  readonly #io: IoWindow;
  readonly #pm = new PowerManagement({ pmeFrom: ['d0', 'd3hot', 'd3cold'], onMove: (state) => this.#state.setFlag(FLAG_ASLEEP, state !== 0) });
  readonly #wakeUp: WakeUp;
  #cable: boolean;
  #live: Live | undefined;

  /** @throws E1000OptionError */
  constructor(options: E1000Options) {
    const modelName = options.model ?? '82540EM';
    if (!Object.hasOwn(E1000_MODELS, modelName)) throw new E1000OptionError(`model ${modelName}: one of ${Object.keys(E1000_MODELS).join(', ')}`);
    this.#options = options;
    this.#parts = E1000_MODELS[modelName];
    this.model = modelName;
    if (options.segment !== undefined && 'openPort' in options.segment && options.bell === undefined)
      throw new E1000OptionError('a port on another thread needs a bell that this thread listens to: add the device with Machine.addE1000');
    this.mac = requireMac(options.mac);
    this.name = options.name ?? `e1000 ${options.mac}`;
    this.#cable = options.segment !== undefined;
    const subsystemId = options.sharedBlock ? CSB_SUBSYSTEM_ID : this.#parts.subsystemId;
    const words = checkEeprom(options.eeprom) ?? boardEeprom(this.#parts, subsystemId, this.mac);
    for (let i = 0; i < 3; i++) words[i] = (this.mac[2 * i] as number) | ((this.mac[2 * i + 1] as number) << 8);
    sealEeprom(words);
    this.#eeprom = new MicrowireEeprom(words);
    this.#statistics = new Statistics(this.#state.statistics);
    this.registers = new RegisterFile(E1000_REGISTERS, { state: this.#state.registers, size: PACKET_BUFFER, hooks: registerHooks(this.#hookHost()) });
    this.#state.setFlag(FLAG_RUNTS, options.shortFrames === 'as-is');
    this.#state.setFlag(FLAG_LOSSY, options.fullRing === 'drop');
    this.#space = new RegisterSpace(this.registers, {
      change: (write) => this.#change(write),
      tailDoorbell: () => (this.registers.get('CSBAL') !== 0 && this.#live?.engine.blockOn === true ? this.#live.port.doorbell : undefined),
    });
    this.#io = new IoWindow(this.#space, REGISTER_SPACE);
    this.fn = new PciFunction({
      name: 'e1000',
      identity: {
        vendorId: INTEL,
        deviceId: this.#parts.deviceId,
        revision: this.#parts.revision,
        classCode: 0x02_0000,
        subsystemVendorId: INTEL,
        subsystemId,
        interruptPin: 1,
        pcieType: options.pcieType ?? 'conventional',
      },
      bars: [
        { index: 0, kind: 'memory32', region: this.#space },
        { index: 2, kind: 'io', region: this.#io, size: IO_BAR },
      ],
      // Where the parts have them (8254x 4.1.1).
      capabilities: [
        { capability: this.#pm, offset: 0xdc },
        { capability: new Msi({ vectors: 1, maskable: false }), offset: 0xf0 },
      ],
      onAttach: (services) => this.#attach(services),
      onDetach: () => this.#detach(),
      onReset: (kind) => this.#change(() => this.#reset(kind === 'conventional' ? 'cold' : 'warm')),
      onMastering: (granted) => {
        if (granted) this.#wake();
      },
    });
    this.#wakeUp = new WakeUp({ words: this.#state.registers, at: AT, pm: this.#pm, fn: this.fn });
    this.#loadAddress();
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
    const state = this.#state;
    const { segment, bell, negotiation = NEGOTIATION } = this.#options;
    const interrupts = new Interrupts(
      {
        clock: services.clock,
        setLine: (asserted) => {
          services.interrupts.setLine(asserted);
          if (!asserted) return;
          services.interrupts.raise(0);
          if (this.#live?.port.remote) state.rose();
        },
        restoreLine: (asserted) => services.interrupts.setLine(asserted),
        flushTransmit: () => this.#change(() => this.#live?.engine.flushTransmit()),
      },
      state.registers,
    );
    const engine = new Engine({
      name: this.name,
      state,
      dma: services.dma,
      counters: this.counters,
      hasLow: this.#parts.hasLow,
      signal: (events) => this.#signal(events),
      wake: () => this.#wake(),
    });
    const remote = segment !== undefined && 'openPort' in segment;
    const link = new Link({
      clock: services.clock,
      part: LINK_PART,
      state,
      phyId: this.#parts.phyId,
      negotiation,
      cable: this.#cable,
      served: !remote,
      raise: (causes) => interrupts.raise(causes),
      wake: () => this.#wake(),
      changed: () => this.#wakeUp.linkChanged(),
    });
    const { dma } = services;
    const { hasLow } = this.#parts;
    const port = remote
      ? remotePort({ host: segment, engine, state, dma, hasLow, bell: bell as Bell, lost: (again) => this.#lost(again) })
      : localPort(segment ?? new Unplugged(services.clock), engine);
    this.#live = { services, interrupts, link, engine, port };
    this.service();
  }

  #detach(): void {
    const live = this.#live;
    this.#live = undefined;
    if (live === undefined) return;
    live.interrupts.reset();
    live.link.stop();
    live.link.phy.cable = false;
    live.port.close();
  }

  #wake(): void {
    this.#live?.port.wake();
  }

  #change(write: () => void): void {
    if (this.#live === undefined) write();
    else this.#live.port.change(write);
  }

  /** Delivers what a worker that serves the port has to say. Machine calls it when `bell` was rung, and after each access. */
  service(): boolean {
    const events = this.#live?.port.takeEvents() ?? 0;
    if (events !== 0) this.#signal(events);
    return events !== 0;
  }

  /** The worker died. It may have served a driver without telling it; and where none takes its place, nobody is at the other end of the cable. */
  #lost(again: boolean): void {
    if (!again) this.cable = false;
    this.#live?.interrupts.raise(ICR_TXDW | ICR_RXT0);
    this.#wake();
  }

  /** Leaves the segment for good: nothing is sent or received any more. */
  release(): void {
    this.#live?.port.close();
  }

  /** CTRL.RST and the resets of the function. What outlives the warm kind is in the table. */
  #reset(kind: 'cold' | 'warm'): void {
    this.registers.reset(kind);
    this.#loadAddress();
    this.#statistics.clearAll();
    this.#state.setFlag(SENDS, false);
    this.#state.setFlag(FLAG_ASLEEP, this.#pm.powerState !== 0);
    this.#io.address = 0;
    this.#eeprom.drive(false, false, false);
    this.#state.changed();
    const live = this.#live;
    if (live === undefined) return;
    // What the worker had to say of the time before.
    this.#forgetEvents(live);
    live.port.doorbell?.revoke();
    live.engine.reset();
    live.interrupts.reset();
    if (kind === 'cold') live.link.phy.reset();
    live.link.reset();
    // A link that went down with SLU is not news.
    live.interrupts.clear(CAUSES);
  }

  /** 8254x 13.5.2: the first receive address comes from the EEPROM. */
  #loadAddress(): void {
    const [w0, w1, w2] = this.#eeprom.words as unknown as [number, number, number];
    this.registers.set('RAL', (w0 | (w1 << 16)) >>> 0);
    this.registers.set('RAH', (w2 | 0x8000_0000) >>> 0);
  }

  // ---- between the parts ----

  /** Of what the worker had to say one thing outlives resets: that it is there. */
  #forgetEvents(live: Live): void {
    if ((live.port.takeEvents() & EVENT_TAKEN) !== 0) live.link.phy.served = true;
  }

  #signal(events: number): void {
    const live = this.#live;
    if (live === undefined) return;
    if ((events & (EVENT_WOKEN | EVENT_MAGIC)) !== 0) this.#wakeUp.woken({ status: this.#state.takeWoken(), magic: (events & EVENT_MAGIC) !== 0 });
    if ((events & EVENT_TAKEN) !== 0) live.link.phy.served = true;
    if ((events & EVENT_PAUSE) !== 0) live.link.paused();
    if ((events & EVENT_SENT_DELAYED) !== 0) live.interrupts.sentDelayed();
    const causes = events & CAUSES;
    if ((events & EVENT_RECEIVED) !== 0) live.interrupts.received(causes);
    else live.interrupts.raise(causes);
  }

  #hookHost(): HookHost {
    const device = this;
    return {
      get registers() {
        return device.registers;
      },
      state: this.#state,
      statistics: this.#statistics,
      eeprom: this.#eeprom,
      arbitratesEeprom: this.#parts.arbitratesEeprom,
      get interrupts() {
        return device.#live?.interrupts;
      },
      get link() {
        return device.#live?.link;
      },
      service: () => this.service(),
      wake: () => this.#wake(),
      reset: () => this.#reset('warm'),
      get wakeUp() {
        return device.#wakeUp;
      },
      wroteBlock: () => this.#wroteBlock(),
    };
  }

  /** CSBAL, the low half, is written last and takes both. A part without the extension has no such registers. */
  #wroteBlock(): void {
    if (!this.#options.sharedBlock) {
      this.registers.set('CSBAL', 0);
      this.registers.set('CSBAH', 0);
      return;
    }
    this.#state.changed();
    // Guest threads that rang in place of writing a tail.
    this.#live?.port.doorbell?.revoke();
    this.#wake();
  }

  // ---- saved state ----

  /** Frames stand still: a machine that is being saved. */
  pause(): void {
    this.#change(() => this.#state.setFlag(FLAG_STILL, true));
    this.service();
  }

  resume(): void {
    this.#state.setFlag(FLAG_STILL, false);
    this.#wake();
  }

  save(): unknown {
    const live = this.#requireLive();
    return seal(PART, VERSION, {
      model: this.model,
      registers: this.registers.save(),
      statistics: this.#statistics.save(),
      eeprom: this.#eeprom.save(),
      packetBuffer: this.#space.packetBuffer.slice(),
      ioAddress: this.#io.address,
      link: live.link.save(),
      interrupts: live.interrupts.save(),
      transmit: live.engine.transmit.save(),
      sends: this.#state.flags & SENDS,
    } satisfies E1000State);
  }

  /** @throws RestoreError, having changed nothing */
  restore(saved: unknown): void {
    const live = this.#requireLive();
    const taker = { model: this.model, eeprom: this.#eeprom, statistics: this.#statistics, link: live.link, sends: SENDS };
    const state = checkE1000(saved, taker);
    this.#change(() => {
      this.registers.restore(state.registers);
      this.#statistics.restore(state.statistics);
      this.#state.setFlag(SENDS, false);
      this.#state.setFlag(state.sends, true);
      this.#state.setFlag(FLAG_ASLEEP, this.#pm.powerState !== 0);
      this.#state.changed();
      this.#forgetEvents(live);
      live.engine.reset();
      live.engine.transmit.restore(state.transmit);
    });
    live.port.doorbell?.revoke();
    this.#eeprom.restore(state.eeprom);
    this.#space.packetBuffer.set(state.packetBuffer);
    this.#io.address = state.ioAddress;
    live.link.restore(state.link);
    live.interrupts.restore(state.interrupts);
  }

  #requireLive(): Live {
    if (this.#live === undefined) throw new RestoreError(`${this.name} is not attached to a machine`);
    return this.#live;
  }
}
