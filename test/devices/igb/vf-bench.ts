// A machine with one 82576 at 00:01.0, as a hypervisor's driver and those of its VFs reach it: configuration space, BARs, messages. Offsets are typed here from the datasheet.

import { SimClock } from '#core/clock';
import { RegisterFile } from '#core/register-file';
import { AT, IGB_REGISTERS, REGISTER_SPACE } from '#devices/igb/registers';
import { VirtualFunctions } from '#devices/igb/virtual-functions';
import { Machine } from '#nicbox/machine';
import { Aer } from '#pci/aer';
import { Express } from '#pci/express';
import { PciFunction } from '#pci/function';
import { Msix, msixBar } from '#pci/msix';

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
export const PFRSTD = 1 << 14;
export const VMMB = 1 << 8;
/** MSI-X data of VF n's vector j, as `openVf` programs it. */
export const messageOf = (n: number, j: number): number => 0x100 + 16 * n + j;

export interface Message {
  readonly requester: number;
  readonly data: number;
}

/** A physical function that is nothing but its registers: what the virtual side needs of one. */
function shell(clock: SimClock) {
  const words = new Uint32Array(Object.values(IGB_REGISTERS).reduce((n, spec) => n + ('aliasOf' in spec ? 0 : 'count' in spec ? spec.count : 1), 0));
  const causes: number[] = [];
  const queueResets: number[] = [];
  const memory = new Map<number, unknown>();
  const vfs: VirtualFunctions = new VirtualFunctions({
    host: {
      get registers() {
        return registers;
      },
      raise: (bits) => {
        causes.push(bits);
        words[AT.ICR] = (words[AT.ICR] as number) | bits;
      },
      raiseExtended: (vectors) => {
        for (let v = 0; v < 25; v++) if (((vectors >> v) & 1) !== 0) vfs.sendVector(v);
      },
      readExtended: (name) => words[AT[name === 'EICS' ? 'EICR' : name === 'EIMC' ? 'EIMS' : name]] as number,
      writeExtended: (name, mask, value) => {
        const bits = value & mask;
        if (name === 'EICS') words[AT.EICR] = (words[AT.EICR] as number) | bits;
        else if (name === 'EIMS') words[AT.EIMS] = (words[AT.EIMS] as number) | bits;
        else if (name === 'EIMC') words[AT.EIMS] = (words[AT.EIMS] as number) & ~bits;
        else if (name === 'EICR') words[AT.EICR] = (words[AT.EICR] as number) & ~bits;
        else words[AT[name]] = ((words[AT[name]] as number) & ~mask) | bits;
      },
      resetQueue: (queue) => {
        queueResets.push(queue);
        for (const name of ['RDBAL', 'RDBAH', 'RDLEN', 'RDH', 'RDT', 'RXDCTL', 'TDBAL', 'TDBAH', 'TDLEN', 'TDH', 'TDT', 'TXDCTL'] as const)
          words[AT[name] + queue] = 0;
      },
      attachQueues: (pool, dma) => memory.set(pool, dma),
      changed: () => {},
    },
    words,
    now: () => clock.now(),
    name: 'igb',
    revision: 1,
    subsystemId: 0xa03c,
    pcieType: 'root-complex-endpoint',
  });
  const registers: RegisterFile<typeof IGB_REGISTERS> = new RegisterFile(IGB_REGISTERS, {
    size: REGISTER_SPACE,
    state: words,
    hooks: {
      ...vfs.hooks,
      CTRL: {
        write: (value) => {
          if ((value & CTRL_RST) === 0) return;
          registers.reset('warm');
          vfs.portReset();
        },
      },
      CTRL_EXT: {
        write: (value) => {
          if ((value & PFRSTD) !== 0) vfs.pfReady();
        },
      },
    },
  });
  vfs.portReset();
  const msix = new Msix({ vectors: 10, table: { bar: 3, offset: 0 }, pendingBits: { bar: 3, offset: 0x2000 } });
  const fn = new PciFunction({
    name: 'igb',
    identity: { vendorId: 0x8086, deviceId: 0x10c9, revision: 1, classCode: 0x02_0000, pcieType: 'root-complex-endpoint' },
    bars: [
      { index: 0, kind: 'memory32', region: registers },
      { index: 3, kind: 'memory32', region: msixBar(msix, 3, undefined, 0x4000) },
    ],
    capabilities: [
      { capability: msix, offset: 0x70 },
      { capability: new Express(), offset: 0xa0 },
      { capability: new Aer(), offset: 0x100 },
      { capability: vfs.capability, offset: SRIOV },
    ],
  });
  return { fn, words, vfs, causes, queueResets, memory };
}

export class Bench {
  readonly clock = new SimClock();
  readonly machine: Machine;
  readonly messages: Message[] = [];
  readonly parts: ReturnType<typeof shell>;
  /** Called inside the access that sent the message. */
  onMessage: ((message: Message) => void) | undefined;

  constructor() {
    this.machine = new Machine({
      memory: 32 * 2 ** 20,
      clock: this.clock,
      interrupts: {
        message: ({ data }, requester) => {
          this.messages.push({ requester, data });
          this.onMessage?.({ requester, data });
        },
        setIntx: () => {},
      },
    });
    this.parts = shell(this.clock);
    this.machine.attach(this.parts.fn, { deviceNumber: 1 });
    this.config(PF, 0x10, 4, 0xc000_0000);
    this.config(PF, 0x1c, 4, 0xc010_0000);
    this.config(PF, 4, 2, 6);
    // VF BARs 0 and 3: 16 KiB each, eight in a row.
    this.config(PF, SRIOV + 0x24, 4, 0xd000_0000);
    this.config(PF, SRIOV + 0x30, 4, 0xd010_0000);
  }

  /** The PF's registers as they are stored. */
  get registers(): Uint32Array {
    return this.parts.words;
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
