// What of an 82576's port there is while it is attached to a machine, which brings its clock, its memory and its interrupts: made and joined here.

import type { Nanos } from '#core/clock';
import { Link } from '#devices/intel/link';
import { IGP_PHY } from '#devices/intel/phy';
import { count } from '#devices/intel/statistics';
import { Unplugged } from '#devices/intel/unplugged';
import type { WakeUp } from '#devices/intel/wake-up';
import type { PortCounters } from '#net/counters';
import type { PortHost } from '#net/port';
import type { Msix } from '#pci/msix';
import type { FunctionServices } from '#pci/ports';
import { Engine } from './engine.ts';
import { Interrupts } from './interrupts.ts';
import type { IgbOptions } from './options.ts';
import { retract } from './pending-bits.ts';
import type { Pins } from './pins.ts';
import { FLAG_LINK, FLAG_LOOPBACK, FLAG_PAUSED, type PortState } from './port-state.ts';
import type { LiveParts } from './register-hooks.ts';
import { AT, ICR_GPHY, ICR_LSC, ICR_MDAC } from './registers.ts';
import { Sleep } from './sleep.ts';
import { COUNT } from './statistics.ts';
import { TcpTimer } from './tcp-timer.ts';
import { TimeEvents } from './time-events.ts';
import { TimeSync } from './time-sync.ts';
import type { VirtualFunctions } from './virtual-functions.ts';

const NEGOTIATION: Nanos = 500e6;
/** IGP03 of the 82576, revision 1. */
const PHY_ID = [0x02a8, 0x0391] as const;
/** The link of an 82576 (link.ts). */
const LINK_PART = {
  at: AT,
  flags: { link: FLAG_LINK, loopback: FLAG_LOOPBACK, paused: FLAG_PAUSED },
  causes: { changed: ICR_LSC, managed: ICR_MDAC, phy: ICR_GPHY },
  phyKind: IGP_PHY,
};

export interface Live extends LiveParts {
  readonly services: FunctionServices;
  readonly host: PortHost;
}

export interface LiveHost {
  readonly name: string;
  readonly services: FunctionServices;
  readonly options: IgbOptions;
  readonly state: PortState;
  readonly counters: PortCounters;
  readonly virtual: VirtualFunctions;
  readonly msix: Msix;
  readonly pins: Pins;
  readonly wakeUp: WakeUp;
  readonly cable: boolean;
  /** The port has something to do. */
  wake(): void;
}

/** All but the port's place on its segment, which is `host`. */
export function makeLive(parts: LiveHost): Live {
  const { services, state, virtual, pins, wakeUp } = parts;
  const { clock } = services;
  const { registers } = state;
  const { segment, negotiation = NEGOTIATION } = parts.options;
  const interrupts = new Interrupts(
    {
      clock,
      setLine: (asserted) => {
        services.interrupts.setLine(asserted);
        if (asserted) services.interrupts.raise(0);
      },
      restoreLine: (asserted) => services.interrupts.setLine(asserted),
      send: (vector) => {
        if (!virtual.sendVector(vector)) services.interrupts.raise(vector);
      },
      // Each pending bit is in the table of the function that has the vector.
      retract: (vectors) => retract(parts.msix, virtual.retract(vectors)),
      get virtualVectors() {
        return virtual.vectors;
      },
      quiet: (queues) => engine.quiet(queues),
      counted: () => count(state.statistics, COUNT.IAC),
    },
    registers,
  );
  const time = new TimeSync(registers, clock);
  const timeEvents = new TimeEvents(registers, time, pins, clock);
  const engine = new Engine({
    name: parts.name,
    clock,
    state,
    dma: services.dma,
    counters: parts.counters,
    time,
    pools: virtual.switch,
    sleep: new Sleep(registers, wakeUp),
    mayTransmit: (queue) => virtual.transmits(queue),
    isQuiet: (queue) => interrupts.isQuiet(queue),
    signal: (received, sent, urgent, causes) => interrupts.queues(received, sent, urgent, causes),
    paused: () => link.paused(),
    wake: () => parts.wake(),
  });
  const link = new Link({
    clock,
    part: LINK_PART,
    state,
    phyId: PHY_ID,
    negotiation,
    cable: parts.cable,
    raise: (causes) => interrupts.raise(causes),
    wake: () => parts.wake(),
    changed: () => wakeUp.linkChanged(),
  });
  const tcpTimer = new TcpTimer(registers, clock, () => interrupts.tcpTimer());
  return { services, interrupts, link, engine, time, timeEvents, tcpTimer, host: segment ?? new Unplugged(clock) };
}
