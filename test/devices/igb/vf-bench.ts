// A machine with one 82576 at 00:01.0, as a hypervisor's driver and those of its VFs reach it: configuration space, BARs, messages. Offsets are typed here from the datasheet.

import { SimClock } from '#core/clock';
import type { Iommu } from '#core/iommu';
import type { Igb } from '#devices/igb/device';
import type { IgbOptions } from '#devices/igb/options';
import { Machine } from '#nicbox/machine';

export const PF = 0x0008;
export const SRIOV = 0x160;

/** VF n's bus, device and function number: First VF Offset 80h, stride 2. */
export const vfAt = (n: number): number => PF + 0x80 + 2 * n;

/** The PF's registers. */
export const P = {
  CTRL: 0x0000,
  STATUS: 0x0008,
  CTRL_EXT: 0x0018,
  ICR: 0x1500,
  IMS: 0x1508,
  EIMS: 0x1524,
  EICR: 0x1580,
  EITR: (n: number) => 0x1680 + 4 * n,
  IVAR: (n: number) => 0x1700 + 4 * n,
  VMBMEM: (n: number, dword = 0) => 0x0800 + 0x40 * n + 4 * dword,
  P2VMAILBOX: (n: number) => 0x0c00 + 4 * n,
  MBVFICR: 0x0c80,
  MBVFIMR: 0x0c84,
  VFLRE: 0x0c88,
  VFRE: 0x0c8c,
  VFTE: 0x0c90,
  RDBAL: (q: number) => 0xc000 + 0x40 * q,
  RDLEN: (q: number) => 0xc008 + 0x40 * q,
  RXDCTL: (q: number) => 0xc028 + 0x40 * q,
  TDBAL: (q: number) => 0xe000 + 0x40 * q,
  TXDCTL: (q: number) => 0xe028 + 0x40 * q,
  VTCTRL: (n: number) => 0x1_0000 + 0x100 * n,
} as const;

/** A VF's. */
export const V = {
  CTRL: 0x0000,
  STATUS: 0x0008,
  VMBMEM: 0x0800,
  V2PMAILBOX: 0x0c40,
  VFGPRC: 0x0f10,
  EICS: 0x1520,
  EIMS: 0x1524,
  EIMC: 0x1528,
  EIAC: 0x152c,
  EIAM: 0x1530,
  EICR: 0x1580,
  EITR: (j: number) => 0x1680 + 4 * j,
  IVAR: 0x1700,
  IVAR_MISC: 0x1740,
  RDBAL: (i: number) => 0x2800 + 0x100 * i,
  RDLEN: (i: number) => 0x2808 + 0x100 * i,
  RXDCTL: (i: number) => 0x2828 + 0x100 * i,
  TDBAL: (i: number) => 0x3800 + 0x100 * i,
  TXDCTL: (i: number) => 0x3828 + 0x100 * i,
} as const;

export const CTRL_RST = 1 << 26;
const PFRSTD = 1 << 14;
export const VMMB = 1 << 8;
/** MSI-X data of VF n's vector j, as `openVf` programs it. */
export const messageOf = (n: number, j: number): number => 0x100 + 16 * n + j;

export interface Message {
  readonly requester: number;
  readonly data: number;
}

export interface BenchOptions extends Partial<IgbOptions> {
  readonly clock?: SimClock;
  readonly iommu?: Iommu;
  /** Bytes of RAM. */
  readonly memory?: number;
}

export class Bench {
  readonly clock: SimClock;
  readonly machine: Machine;
  readonly nic: Igb;
  readonly messages: Message[] = [];
  /** Called inside the access that sent the message. */
  onMessage: ((message: Message) => void) | undefined;

  constructor(options: BenchOptions = {}) {
    const { clock = new SimClock(), iommu, memory = 2 ** 20, ...device } = options;
    this.clock = clock;
    this.machine = new Machine({
      memory,
      ...(iommu !== undefined && { iommu }),
      clock: this.clock,
      interrupts: {
        message: ({ data }, requester) => {
          this.messages.push({ requester, data });
          this.onMessage?.({ requester, data });
        },
        setIntx: () => {},
      },
    });
    this.nic = this.machine.addIgb({ mac: '52:54:00:00:00:0a', ...device });
    this.config(PF, 0x10, 4, 0xc000_0000);
    this.config(PF, 0x1c, 4, 0xc010_0000);
    this.config(PF, 4, 2, 6);
    // VF BARs 0 and 3: 16 KiB each, eight in a row.
    this.config(PF, SRIOV + 0x24, 4, 0xd000_0000);
    this.config(PF, SRIOV + 0x30, 4, 0xd010_0000);
  }

  /** The PF's registers as they are stored. */
  get registers(): Uint32Array {
    return this.nic.registers.state;
  }

  config(bdf: number, offset: number, size: 1 | 2 | 4, value: number): void {
    this.machine.configWrite(bdf, offset, size, value);
  }

  read(register: number, size: 1 | 2 | 4 = 4): number {
    return this.machine.barRead(PF, 0, register, size);
  }

  write(register: number, value: number, size: 1 | 2 | 4 = 4): void {
    this.machine.barWrite(PF, 0, register, size, value >>> 0);
  }

  vfRead(n: number, register: number, size: 1 | 2 | 4 = 4): number {
    return this.machine.barRead(vfAt(n), 0, register, size);
  }

  vfWrite(n: number, register: number, value: number, size: 1 | 2 | 4 = 4): void {
    this.machine.barWrite(vfAt(n), 0, register, size, value >>> 0);
  }

  /** NumVFs, then VF Enable with VF MSE; and the PF's driver is ready. */
  enable(count: number): void {
    this.config(PF, SRIOV + 8, 2, 0);
    this.config(PF, SRIOV + 16, 2, count);
    this.config(PF, SRIOV + 8, 2, count > 0 ? 9 : 0);
    this.write(P.CTRL_EXT, PFRSTD);
  }

  /** A VF's driver up to where interrupts work: bus master, MSI-X on with each vector's own message. */
  openVf(n: number): void {
    this.config(vfAt(n), 4, 2, 4);
    for (let j = 0; j < 3; j++) {
      this.machine.barWrite(vfAt(n), 3, 16 * j, 4, 0xfee0_0000);
      this.machine.barWrite(vfAt(n), 3, 16 * j + 4, 4, 0);
      this.machine.barWrite(vfAt(n), 3, 16 * j + 8, 4, messageOf(n, j));
      this.machine.barWrite(vfAt(n), 3, 16 * j + 12, 4, 0);
    }
    this.config(vfAt(n), 0x72, 2, 0x8000);
    this.vfWrite(n, V.EIAC, 7);
    this.vfWrite(n, V.EIMS, 7);
  }

  /** Messages since the last call. */
  heard(): Message[] {
    return this.messages.splice(0);
  }
}
