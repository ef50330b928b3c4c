// The port's virtual functions (82576 7.10.2): enabled and disabled through the SR-IOV capability, reset by themselves or with the port, and what of the PF's registers is theirs: queues n and n + 8, three
// vectors, a mailbox, a window. Each is a requester of its own: its queues use its own DmaSpace, its interrupts its own MSI-X.

import type { Nanos } from '#core/clock';
import type { RegisterHooks } from '#core/register-file';
import { RestoreError } from '#core/saved';
import type { PcieType } from '#pci/function';
import type { Msix } from '#pci/msix';
import { Sriov, type VfLayout } from '#pci/sriov';
import { Mailboxes } from './mailbox.ts';
import { retract } from './pending-bits.ts';
import type { ExtendedName, VfHost } from './pools.ts';
import { AT, CTRL_RST, ICR_VMMB, IGB_REGISTERS, type IgbRegister, POOLS, QUEUES, VECTORS } from './registers.ts';
import { EmbeddedSwitch } from './switch/embedded-switch.ts';
import { makeVf, VF_DEVICE_ID, VF_VECTORS, vfMsix } from './vf.ts';
import { firstVector, VfRegisters } from './vf-registers.ts';

const { IVAR, LVMMC, MDFB, RTTBCNRC, STATUS, VFLRE, VFRE, VFTE, VTIVAR, VTIVAR_MISC, WVBR } = AT;

const COUNTERS = [AT.PVFGPRC, AT.PVFGPTC, AT.PVFGORC, AT.PVFGOTC, AT.PVFMPRC, AT.PVFGPRLBC, AT.PVFGPTLBC, AT.PVFGORLBC, AT.PVFGOTLBC];
const NUM_VFS = 0xf << 14;
const NUM_VFS_SHIFT = 14;
const IOV_MODE = 1 << 18;
const VALID = 0x80;
/** A turn's 512 KiB at 10 Mb/s, its rate factor the largest (10 bits). */
const LONGEST_DEBT: Nanos = 0x8_0000 * 800 * 1024;
const VECTOR_MASK = 7;

export interface VirtualOptions {
  readonly host: VfHost;
  /** The words of the PF's registers. */
  readonly words: Uint32Array;
  readonly now: () => Nanos;
  readonly name: string;
  /** These three as the PF has them. */
  readonly revision: number;
  readonly subsystemId: number;
  readonly pcieType: PcieType;
  readonly layout: VfLayout;
  /** TotalVFs; 0: no capability. */
  readonly total: number;
  /** False in the second port. */
  readonly lowest: boolean;
  /** Between pools: embedded-switch.ts. */
  readonly between: 'switch' | 'reflective-relay';
}

export interface SavedVirtual {
  readonly banks: Uint32Array;
  readonly paid: Float64Array;
  readonly storm: Nanos;
}

type Hooks = { readonly [K in IgbRegister]?: RegisterHooks };

export class VirtualFunctions {
  readonly capability: Sriov | undefined;
  readonly switch: EmbeddedSwitch;
  readonly hooks: Hooks;
  readonly #host: VfHost;
  readonly #words: Uint32Array;
  readonly #now: () => Nanos;
  readonly #mailboxes: Mailboxes;
  readonly #msix: Msix[] = [];
  #count = 0;

  /** @throws RangeError for a layout that cannot be */
  constructor(options: VirtualOptions) {
    const { host, words } = options;
    this.#host = host;
    this.#words = words;
    this.#now = options.now;
    this.switch = new EmbeddedSwitch({
      words,
      now: options.now,
      speed: () => (host.registers.read(IGB_REGISTERS.STATUS.offset, 4) >>> 6) & 3,
      ...(options.between !== undefined && { between: options.between }),
    });
    this.#mailboxes = new Mailboxes({ words, interruptPf: () => host.raise(ICR_VMMB), interruptVf: (vf) => this.#interruptVf(vf) });
    this.hooks = this.#makeHooks();
    this.capability = options.total === 0 ? undefined : this.#makeCapability(options);
    this.#mailboxes.resetAll();
  }

  #makeCapability(options: VirtualOptions): Sriov {
    const { host } = options;
    return new Sriov({
      totalVfs: options.total,
      vfDeviceId: VF_DEVICE_ID,
      layout: options.layout,
      lowest: options.lowest,
      virtualFunction: (vf) => {
        const msix = vfMsix();
        this.#msix[vf] = msix;
        return makeVf({
          name: `${options.name} vf${vf}`,
          revision: options.revision,
          subsystemId: options.subsystemId,
          pcieType: options.pcieType,
          registers: new VfRegisters(vf, this.#mailboxes, msix, () => host.registers),
          msix,
          onReset: () => this.#functionReset(vf),
          onMastering: () => host.queuesChanged(),
        });
      },
      onEnabled: (count, restored) => this.#enabled(count, restored),
    });
  }

  get count(): number {
    return this.#count;
  }

  /** Extended vectors of enabled VFs (8.8.13, VTIVAR), a bit each: 22 - 3n to 24 - 3n are VF n's. */
  get vectors(): number {
    return ((1 << VECTORS) - 1) & ~((1 << (VECTORS - VF_VECTORS * this.#count)) - 1);
  }

  // ---- data path ----

  transmits(queue: number): boolean {
    const pool = queue & (POOLS - 1);
    const bit = 1 << pool;
    if (((this.#words[MDFB] as number) & bit) !== 0) return false;
    return pool >= this.#count || ((this.#words[VFTE] as number) & bit) !== 0;
  }

  sendVector(vector: number): boolean {
    if (vector < 1 || vector >= VECTORS) return false;
    const vf = POOLS - 1 - Math.floor((vector - 1) / VF_VECTORS);
    if (vf >= this.#count) return false;
    this.capability?.functions[vf]?.services?.interrupts.raise((vector - 1) % VF_VECTORS);
    return true;
  }

  /** Messages of these vectors that wait behind a VF's mask are not sent. The vectors that are no enabled VF's. */
  retract(vectors: number): number {
    for (let vf = 0; vf < this.#count; vf++) retract(this.#msix[vf] as Msix, (vectors >>> firstVector(vf)) & VECTOR_MASK);
    return vectors & ~this.vectors;
  }

  // ---- enabling, resets ----

  /** @param restored as a saved state has it: nothing happened */
  #enabled(count: number, restored: boolean): void {
    const before = this.#count;
    // While their vectors are still theirs.
    for (let vf = count; vf < before; vf++) {
      this.#resetVf(vf, true);
      this.#host.attachQueues(vf, undefined);
    }
    this.#count = count;
    this.#showCount();
    for (let vf = before; vf < count; vf++) {
      this.#host.attachQueues(vf, this.capability?.functions[vf]?.services?.dma);
      this.#resetVf(vf, true);
      for (const counter of COUNTERS) this.#words[counter + vf] = 0;
    }
    this.#host.changed();
    if (count !== before && !restored) this.#host.raise(ICR_VMMB);
  }

  /** STATUS.NUM_VFS and IOV_MODE. */
  #showCount(): void {
    const others = (this.#words[STATUS] as number) & ~(NUM_VFS | IOV_MODE);
    this.#words[STATUS] = others | (this.#count << NUM_VFS_SHIFT) | (this.#count > 0 ? IOV_MODE : 0);
  }

  /** FLR of a VF, or of all with the PF. */
  #functionReset(vf: number): void {
    if (vf >= this.#count) return;
    this.#resetVf(vf, true);
    this.#host.queuesChanged();
    this.#host.raise(ICR_VMMB);
  }

  /** 7.10.2.2: VF reset, whoever asked for it. VFLRE tells the PF. */
  #resetVf(vf: number, wipe: boolean): void {
    const words = this.#words;
    const bit = 1 << vf;
    words[VFRE] = (words[VFRE] as number) & ~bit;
    words[VFTE] = (words[VFTE] as number) & ~bit;
    words[MDFB] = (words[MDFB] as number) & ~bit;
    this.#host.resetQueue(vf);
    this.#host.resetQueue(vf + POOLS);
    words[VTIVAR + vf] = 0;
    words[VTIVAR_MISC + vf] = 0;
    words[IVAR + vf] = 0;
    const vectors = VECTOR_MASK << firstVector(vf);
    this.#host.writeExtended('EIMC', vectors, vectors);
    this.#host.writeExtended('EIAC', vectors, 0);
    this.#host.writeExtended('EIAM', vectors, 0);
    this.#host.writeExtended('EICR', vectors, vectors);
    for (let j = 0; j < VF_VECTORS; j++) this.#host.registers.write(IGB_REGISTERS.EITR.offset + 4 * (firstVector(vf) + j), 4, 0);
    this.#mailboxes.resetVf(vf, wipe);
    words[VFLRE] = (words[VFLRE] as number) | bit;
  }

  /** The registers were reset just before. */
  portReset(): void {
    this.#showCount();
    this.#mailboxes.resetAll();
    this.switch.limiter.reset();
    this.#host.changed();
  }

  pfReady(): void {
    this.#mailboxes.pfReady();
  }

  // ---- interrupts ----

  /** By the vector that VTIVAR_MISC names. */
  #interruptVf(vf: number): void {
    const entry = this.#words[VTIVAR_MISC + vf] as number;
    const vector = entry & 3;
    if (vf < this.#count && (entry & VALID) !== 0 && vector < VF_VECTORS) this.#host.raiseExtended(1 << (firstVector(vf) + vector));
  }

  /** VTIVAR[n], its four entries, becomes IVAR[n]: rewritten whole, each time. */
  #mapVectors(vf: number): void {
    const programmed = this.#words[VTIVAR + vf] as number;
    let entries = 0;
    for (let i = 0; i < 4; i++) {
      const entry = (programmed >>> (8 * i)) & 0xff;
      const vector = entry & 3;
      if ((entry & VALID) !== 0 && vector < VF_VECTORS) entries |= (VALID | (firstVector(vf) + vector)) << (8 * i);
    }
    this.#words[IVAR + vf] = entries;
  }

  // ---- registers ----

  #makeHooks(): Hooks {
    const mailboxes = this.#mailboxes;
    const { limiter } = this.switch;
    const words = this.#words;
    const changed: RegisterHooks = { afterWrite: () => this.#host.changed() };
    const once = (word: number): RegisterHooks => ({
      afterRead: () => {
        words[word] = 0;
      },
    });
    const storm = (word: number): RegisterHooks => ({
      read: () => {
        this.switch.storms.advance(this.#now());
        return words[word] as number;
      },
    });
    const hooks: { [K in IgbRegister]?: RegisterHooks } = {
      P2VMAILBOX: {
        read: (vf) => mailboxes.readPf(vf),
        write: (value, vf, lanes) => {
          if ((lanes & 0xff) !== 0) mailboxes.writePf(vf, value);
        },
      },
      V2PMAILBOX: { read: (vf) => mailboxes.peekVf(vf) },
      VMBMEM: { write: (value, dword) => mailboxes.writeMemoryPf(dword, value) },
      VTCTRL: {
        read: () => 0,
        write: (value, vf, lanes) => {
          if ((value & lanes & CTRL_RST) !== 0) this.#softwareReset(vf);
        },
      },
      VTIVAR: { afterWrite: (vf) => this.#mapVectors(vf) },
      VFRE: changed,
      VFTE: changed,
      MDFB: changed,
      DTXSWC: changed,
      VT_CTL: changed,
      VMOLR: changed,
      VMVIR: changed,
      VLVF: changed,
      UTA: changed,
      VMRCTL: changed,
      VMRVLAN: changed,
      VMRVM: changed,
      SCCRL: changed,
      // The register of the queue in RTTDQSEL.
      RTTDQSEL: {
        afterWrite: () => {
          words[RTTBCNRC] = limiter.shown();
        },
      },
      RTTBCNRC: {
        write: (value) => {
          limiter.program(value, this.#now());
          this.#host.changed();
        },
      },
      WVBR: once(WVBR),
      LVMMC: once(LVMMC),
      SCSTS: storm(AT.SCSTS),
      BSCCNT: storm(AT.BSCCNT),
      MSCCNT: storm(AT.MSCCNT),
    };
    for (const name of ['EICS', 'EIMS', 'EIMC', 'EIAC', 'EIAM', 'EICR'] as const) hooks[`VT${name}`] = this.#window(name);
    return hooks;
  }

  /** A VF's three bits of an extended interrupt register. */
  #window(name: ExtendedName): RegisterHooks {
    return {
      read: (vf) => (this.#host.readExtended(name) >>> firstVector(vf)) & VECTOR_MASK,
      write: (value, vf, lanes) => {
        if (vf >= this.#count) return;
        const mask = VECTOR_MASK & lanes;
        this.#host.writeExtended(name, mask << firstVector(vf), (value & mask) << firstVector(vf));
      },
    };
  }

  /** CTRL.RST of a VF: its driver goes on, in the same mailbox. */
  #softwareReset(vf: number): void {
    if (vf >= this.#count) return;
    this.#resetVf(vf, false);
    this.#host.queuesChanged();
    this.#host.raise(ICR_VMMB);
  }

  // ---- saved state: what is not in the registers' words ----

  save(): SavedVirtual {
    return { ...this.switch.limiter.save(), storm: this.switch.storms.save() };
  }

  /** @throws RestoreError, having changed nothing */
  static check(saved: unknown): asserts saved is SavedVirtual {
    const { banks, paid, storm } = (saved ?? {}) as Partial<SavedVirtual>;
    const fits = banks instanceof Uint32Array && banks.length === QUEUES && paid instanceof Float64Array && paid.length === QUEUES && Number.isFinite(storm);
    if (!fits || !paid.every((n) => Number.isFinite(n) && n >= 0) || banks.some((bank) => (bank & ~0x80ff_ffff) !== 0))
      throw new RestoreError('saved state of virtual functions is malformed');
  }

  /** After the capability and the registers were restored, before what each queue was in the middle of. */
  restore(saved: SavedVirtual): void {
    const now = this.#now();
    // What a queue owes its rate is at most a turn's: no record makes it wait longer. A storm's window has begun.
    this.switch.limiter.restore(
      saved.banks,
      saved.paid.map((paid) => Math.min(paid, now + LONGEST_DEBT)),
    );
    this.switch.storms.restore(Math.min(saved.storm, now));
    // The record's STATUS may name more or fewer than the capability enabled.
    this.#showCount();
    for (let vf = 0; vf < POOLS; vf++) this.#host.attachQueues(vf, vf < this.#count ? this.capability?.functions[vf]?.services?.dma : undefined);
    this.#host.changed();
  }
}
