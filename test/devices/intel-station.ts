// What driving an e1000 and an igb by hand has in common: registers at the same offsets, bits in the same places, a machine with one of them at 00:01.0, a cable with a plain port at its other end. Offsets and bits are typed here from
// the manuals, not taken from the devices.

import { InlineSegment } from '#backends/inline-backend';
import { SimClock } from '#core/clock';
import { DirectLink } from '#net/direct-link';
import { Segment } from '#net/segment';
import { Machine } from '#nicbox/machine';
import type { IntxSink, MsiSink } from '#pci/ports';
import { MemoryPort } from '../net/memory-port.ts';

/** Registers that are where they were in every part. */
export const COMMON = {
  CTRL: 0,
  STATUS: 8,
  EECD: 0x10,
  EERD: 0x14,
  CTRL_EXT: 0x18,
  MDIC: 0x20,
  FCAL: 0x28,
  FCAH: 0x2c,
  FCT: 0x30,
  VET: 0x38,
  RCTL: 0x100,
  FCTTV: 0x170,
  TCTL: 0x400,
  FCRTL: 0x2160,
  FCRTH: 0x2168,
  MPC: 0x4010,
  XONTXC: 0x404c,
  XOFFRXC: 0x4050,
  XOFFTXC: 0x4054,
  PRC64: 0x405c,
  PRC127: 0x4060,
  GPRC: 0x4074,
  BPRC: 0x4078,
  MPRC: 0x407c,
  GPTC: 0x4080,
  GORCL: 0x4088,
  GORCH: 0x408c,
  GOTCL: 0x4090,
  GOTCH: 0x4094,
  RNBC: 0x40a0,
  RUC: 0x40a4,
  ROC: 0x40ac,
  TPR: 0x40d0,
  TPT: 0x40d4,
  MPTC: 0x40f0,
  BPTC: 0x40f4,
  TSCTC: 0x40f8,
  RXCSUM: 0x5000,
  MTA: 0x5200,
  RAL: 0x5400,
  RAH: 0x5404,
  VFTA: 0x5600,
} as const;

export const TXDW = 1;
export const LSC = 4;
export const RXDMT0 = 0x10;
export const EOP = 1;
export const IFCS = 2;
export const IC = 4;
export const RS = 8;
export const VLE = 0x40;
export const RCTL_EN = 2;
export const RCTL_UPE = 8;
export const RCTL_MPE = 0x10;
export const RCTL_LPE = 0x20;
export const RCTL_LBM = 0x40;
export const RCTL_BAM = 0x8000;
export const RCTL_VFE = 0x4_0000;
export const RCTL_SECRC = 0x400_0000;

export const BDF = 0x0008;

/** A machine with one NIC, its BARs 0 and 2 mapped and bus mastering on. */
export class IntelStation<Nic> {
  readonly clock: SimClock;
  readonly machine: Machine;
  readonly nic: Nic;
  line = false;
  /** Times the line rose. */
  rises = 0;
  /** MSI and MSI-X data, in order. */
  readonly messages: number[] = [];
  readonly bytes: Uint8Array;
  readonly view: DataView;
  /** Called inside the access that raised the line: a guest whose handler runs at once. */
  onLine: (() => void) | undefined;
  /** A message interrupt. */
  onMessage: ((data: number) => void) | undefined;

  constructor(add: (machine: Machine) => Nic, clock = new SimClock()) {
    this.clock = clock;
    const sink: IntxSink & MsiSink = {
      message: ({ data }) => {
        this.messages.push(data);
        this.onMessage?.(data);
      },
      setIntx: (_, asserted) => {
        if (asserted && !this.line) this.rises++;
        this.line = asserted;
        if (asserted) this.onLine?.();
      },
    };
    this.machine = new Machine({ memory: 16 * 2 ** 20, clock, interrupts: sink });
    this.nic = add(this.machine);
    this.config(0x10, 4, 0xc000_0000);
    this.config(0x18, 4, 0x1001);
    this.config(4, 2, 7);
    const slab = this.machine.memory.slabs[0] as { views: { u8: Uint8Array } };
    this.bytes = slab.views.u8;
    this.view = new DataView(this.bytes.buffer, this.bytes.byteOffset, this.bytes.byteLength);
  }

  config(offset: number, size: 1 | 2 | 4, value: number): void {
    this.machine.configWrite(BDF, offset, size, value);
  }

  readConfig(offset: number, size: 1 | 2 | 4 = 4): number {
    return this.machine.configRead(BDF, offset, size);
  }

  read(register: number, size: 1 | 2 | 4 = 4): number {
    return this.machine.barRead(BDF, 0, register, size);
  }

  write(register: number, value: number, size: 1 | 2 | 4 = 4): void {
    this.machine.barWrite(BDF, 0, register, size, value >>> 0);
  }

  /** Four words of a descriptor. */
  words(at: number, ...words: [number, number, number, number]): void {
    for (const [i, word] of words.entries()) this.view.setUint32(at + 4 * i, word >>> 0, true);
  }
}

export function link(options: { rounds?: number } = {}): InlineSegment {
  return new InlineSegment(new Segment(new DirectLink()), { defer: () => {}, ...options });
}

export interface Wired<Station> {
  readonly nic: Station;
  readonly peer: MemoryPort;
  readonly segment: InlineSegment;
  readonly inject: (...frames: ArrayLike<number>[]) => void;
  /** What came out at the other end since the last time. */
  readonly outbox: () => Uint8Array[];
}

/** A station with a plain port at the other end of its cable. */
export function wire<Station>(make: (segment: InlineSegment) => Station): Wired<Station> {
  const segment = link();
  const peer = new MemoryPort('peer');
  segment.addPort(peer);
  const nic = make(segment);
  const inject = (...frames: ArrayLike<number>[]): void => {
    for (const frame of frames) peer.outbox.push({ bytes: Uint8Array.from(frame) });
    segment.wake(peer);
  };
  return { nic, peer, segment, inject, outbox: () => peer.inbox.splice(0).map(({ bytes }) => bytes) };
}
