// BAR 0 of a virtual function (82576 8.26): 16 KiB in which a VF finds its own two queues, three vectors, mailbox and counters, at the addresses an 82575's driver would look. Each is a register of the
// PF's at another offset; there is no other way from here to anywhere, so what is not listed reads 0 and takes no write.

import type { AccessSize, Region } from '#core/region';
import type { Msix } from '#pci/msix';
import { MAILBOX_DWORDS, type Mailboxes } from './mailbox.ts';
import { pendingBits, retract } from './pending-bits.ts';
import { IGB_REGISTERS } from './registers.ts';

/** The size of BAR 0. */
const VF_REGISTER_SPACE = 0x4000;

const NOTHING = -1;
const MAILBOX_MEMORY = 0x0800;
const MAILBOX = 0x0c40;
const STATUS = 0x0008;
/** MSI-X pending bits, cleared by ones (8.26, PBACL). */
const PBACL = 0x0f04;
/** Duplex, link, LAN id, TXOFF, speed: of the port. How many VFs it has is not a VF's to know. */
const STATUS_SHOWN = 0x0000_00df;

type Offset = { readonly offset: number; readonly stride?: number };

/** [offset here, the PF's register of each VF] */
const OF_EACH_VF: readonly (readonly [number, Offset])[] = [
  [0x0000, IGB_REGISTERS.VTCTRL],
  [0x1520, IGB_REGISTERS.VTEICS],
  [0x1524, IGB_REGISTERS.VTEIMS],
  [0x1528, IGB_REGISTERS.VTEIMC],
  [0x152c, IGB_REGISTERS.VTEIAC],
  [0x1530, IGB_REGISTERS.VTEIAM],
  [0x1580, IGB_REGISTERS.VTEICR],
  [0x1700, IGB_REGISTERS.VTIVAR],
  [0x1740, IGB_REGISTERS.VTIVAR_MISC],
  [0x0f0c, IGB_REGISTERS.PSRTYPE],
  [0x0f10, IGB_REGISTERS.PVFGPRC],
  [0x0f14, IGB_REGISTERS.PVFGPTC],
  [0x0f18, IGB_REGISTERS.PVFGORC],
  [0x0f34, IGB_REGISTERS.PVFGOTC],
  [0x0f3c, IGB_REGISTERS.PVFMPRC],
  [0x0f40, IGB_REGISTERS.PVFGPRLBC],
  [0x0f44, IGB_REGISTERS.PVFGPTLBC],
  [0x0f48, IGB_REGISTERS.PVFGORLBC],
  [0x0f50, IGB_REGISTERS.PVFGOTLBC],
];

/** [offset in the queue's block here, the PF's register of each queue] */
const OF_RECEIVE_QUEUE: readonly (readonly [number, Offset])[] = [
  [0x00, IGB_REGISTERS.RDBAL],
  [0x04, IGB_REGISTERS.RDBAH],
  [0x08, IGB_REGISTERS.RDLEN],
  [0x0c, IGB_REGISTERS.SRRCTL],
  [0x10, IGB_REGISTERS.RDH],
  [0x14, IGB_REGISTERS.RXCTL],
  [0x18, IGB_REGISTERS.RDT],
  [0x28, IGB_REGISTERS.RXDCTL],
  [0x30, IGB_REGISTERS.RQDPC],
];
const OF_TRANSMIT_QUEUE: readonly (readonly [number, Offset])[] = [
  [0x00, IGB_REGISTERS.TDBAL],
  [0x04, IGB_REGISTERS.TDBAH],
  [0x08, IGB_REGISTERS.TDLEN],
  [0x10, IGB_REGISTERS.TDH],
  [0x14, IGB_REGISTERS.TXCTL],
  [0x18, IGB_REGISTERS.TDT],
  [0x28, IGB_REGISTERS.TXDCTL],
  [0x38, IGB_REGISTERS.TDWBAL],
  [0x3c, IGB_REGISTERS.TDWBAH],
];

/** The first of a VF's three vectors in the PF's numbering: 22 for VF 0, 1 for VF 7. */
export function firstVector(vf: number): number {
  return 22 - 3 * vf;
}

/** Offsets in the PF's space by dword of a VF's; NOTHING where there is nothing. */
function offsetsOf(vf: number): Int32Array {
  const offsets = new Int32Array(VF_REGISTER_SPACE / 4).fill(NOTHING);
  const at = ({ offset, stride = 4 }: Offset, element: number): number => offset + stride * element;
  for (const [here, register] of OF_EACH_VF) offsets[here / 4] = at(register, vf);
  offsets[0x1048 / 4] = IGB_REGISTERS.FRTIMER.offset;
  for (let j = 0; j < 3; j++) offsets[0x1680 / 4 + j] = at(IGB_REGISTERS.EITR, firstVector(vf) + j);
  for (let i = 0; i < 2; i++) {
    for (const [here, register] of OF_RECEIVE_QUEUE) offsets[(0x2800 + 0x100 * i + here) / 4] = at(register, vf + 8 * i);
    for (const [here, register] of OF_TRANSMIT_QUEUE) offsets[(0x3800 + 0x100 * i + here) / 4] = at(register, vf + 8 * i);
  }
  return offsets;
}

export class VfRegisters implements Region {
  readonly size = VF_REGISTER_SPACE;
  readonly #vf: number;
  readonly #offsets: Int32Array;
  readonly #mailboxes: Mailboxes;
  readonly #msix: Msix;
  readonly #physical: () => Region;

  /** @param physical the PF's registers */
  constructor(vf: number, mailboxes: Mailboxes, msix: Msix, physical: () => Region) {
    this.#vf = vf;
    this.#offsets = offsetsOf(vf);
    this.#mailboxes = mailboxes;
    this.#msix = msix;
    this.#physical = physical;
  }

  read(offset: number, size: AccessSize): number {
    const register = offset & ~3;
    const to = this.#offsets[register >>> 2] ?? NOTHING;
    if (to !== NOTHING) return this.#physical().read(to + (offset & 3), size);
    const shift = 8 * (offset & 3);
    return (this.#own(register, size === 4) >>> shift) & (size === 4 ? 0xffff_ffff : 2 ** (8 * size) - 1);
  }

  #own(register: number, whole: boolean): number {
    if (register === STATUS) return this.#physical().read(STATUS, 4) & STATUS_SHOWN;
    if (register === PBACL) return pendingBits(this.#msix);
    // A host may split a read, so a narrower one takes nothing.
    if (register === MAILBOX) return whole ? this.#mailboxes.readVf(this.#vf) : this.#mailboxes.peekVf(this.#vf);
    const dword = (register - MAILBOX_MEMORY) / 4;
    return dword >= 0 && dword < MAILBOX_DWORDS ? this.#mailboxes.readMemoryVf(this.#vf, dword) : 0;
  }

  write(offset: number, size: AccessSize, value: number): void {
    const register = offset & ~3;
    const to = this.#offsets[register >>> 2] ?? NOTHING;
    if (to !== NOTHING) {
      this.#physical().write(to + (offset & 3), size, value);
      return;
    }
    const shift = 8 * (offset & 3);
    const lanes = size === 4 ? 0xffff_ffff : ((2 ** (8 * size) - 1) << shift) >>> 0;
    const placed = ((value << shift) & lanes) >>> 0;
    if (register === MAILBOX) {
      if ((lanes & 0xff) !== 0) this.#mailboxes.writeVf(this.#vf, placed);
      return;
    }
    if (register === PBACL) {
      retract(this.#msix, placed);
      return;
    }
    const dword = (register - MAILBOX_MEMORY) / 4;
    if (dword < 0 || dword >= MAILBOX_DWORDS) return;
    const old = this.#mailboxes.readMemoryVf(this.#vf, dword);
    this.#mailboxes.writeMemoryVf(this.#vf, dword, (placed | (old & ~lanes)) >>> 0);
  }
}
