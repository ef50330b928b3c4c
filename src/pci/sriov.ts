// Single root I/O virtualization (PCIe 4.0 9.3.3): VF Enable and NumVFs with their locking, first offset and stride, VF BARs with the system page size as spacing, VF
// MSE, and enabling that takes its time on the clock. The VFs exist from the start, hidden; the fabric asks this capability which answer, and where.
// While VFs are not ready nobody answers for them (all ones), the sanctioned stand-in for CRS. Left out: VF migration, 10-bit tags, VF resizable BARs.

import type { Nanos, Timer } from '#core/clock';
import { ADDRESS_LIMIT } from '#core/guest-memory';
import { RestoreError } from '#core/saved';
import type { Bar } from './bars.ts';
import {
  type Capability,
  type CapabilityArea,
  EFFECT_DECODE,
  EFFECT_MASTERING,
  EFFECT_NONE,
  EFFECT_ROUTING,
  type VirtualBar,
  type VirtualFunctions,
} from './capability.ts';
import { PciFunction, type PciFunctionOptions } from './function.ts';

/** Where VFs are: routing id of VF i is the PF's + firstOffset + i * stride. */
export interface VfLayout {
  readonly firstOffset: number;
  readonly stride: number;
}

export interface SriovOptions {
  /** 1..65535. InitialVFs is the same (no migration). */
  readonly totalVfs: number;
  readonly vfDeviceId: number;
  readonly layout: VfLayout;
  /** The layout while ARI Capable Hierarchy is set; `layout` if left out. */
  readonly ariLayout?: VfLayout;
  /** False in all but the lowest-numbered PF of a device: ARI Capable Hierarchy is only there. Default true. */
  readonly lowest?: boolean;
  /** Function Dependency Link; the PF's own function number if left out. */
  readonly dependency?: number;
  /** Supported Page Sizes: bit n = 2^(n+12) bytes. Default and minimum 0x553 (4K, 8K, 64K, 256K, 1M, 4M). */
  readonly pageSizes?: number;
  /** Time from VF Enable until VFs answer (PCIe 4.0 9.3.3.3.1: software waits 100 ms); default 0, at once. */
  readonly readyAfter?: Nanos;
  /**
   * Makes VF `index`, or what to make it of: called once for each when the PF is made. BARs must be alike in all. `virtual` and the VF's ids are seen to here, unless it
   * is a function already, which has to be a virtual one.
   */
  readonly virtualFunction: (index: number) => PciFunctionOptions | PciFunction;
  /** The number of VFs that answer changed; `restored`: because a saved state was taken over, not by anything that happened. */
  readonly onEnabled?: (count: number, restored: boolean) => void;
}

interface SriovState {
  readonly ready: boolean;
  readonly deadline: Nanos;
}

const CONTROL = 8;
const INITIAL = 12;
const NUMBER = 16;
const LINK = 18;
const OFFSET = 20;
const STRIDE = 22;
const DEVICE_ID = 26;
const PAGE_SIZES = 28;
const PAGE_SIZE = 32;
const BAR0 = 36;
const ENABLE = 1;
const MEMORY_ENABLE = 8;
const ARI_HIERARCHY = 16;
const REQUIRED_PAGE_SIZES = 0x553;
const MOVED = EFFECT_ROUTING | EFFECT_DECODE | EFFECT_MASTERING;

export class Sriov implements Capability, VirtualFunctions {
  readonly id = 0x10;
  readonly extended = true;
  readonly version = 1;
  readonly size = 64;
  readonly virtualFunctions: VirtualFunctions = this;
  readonly functions: readonly PciFunction[];
  readonly #options: SriovOptions;
  readonly #bars: readonly Bar[];
  #area!: CapabilityArea;
  #ready = false;
  #told = 0;
  #timer: Timer | undefined;

  /** @throws RangeError or TypeError on numbers or VFs that cannot be. */
  constructor(options: SriovOptions) {
    this.#options = options;
    const { totalVfs, layout, ariLayout } = options;
    if (!Number.isInteger(totalVfs) || totalVfs < 1 || totalVfs > 0xffff) throw new RangeError(`TotalVFs ${totalVfs} is not within 1..65535`);
    for (const { firstOffset, stride } of ariLayout ? [layout, ariLayout] : [layout]) {
      if (!(firstOffset >= 1 && firstOffset <= 0xffff)) throw new RangeError(`First VF Offset ${firstOffset} is not within 1..65535`);
      if (!(stride >= (totalVfs > 1 ? 1 : 0) && stride <= 0xffff)) throw new RangeError(`VF Stride ${stride} is not within 1..65535`);
      if (firstOffset + (totalVfs - 1) * stride > 0xffff)
        throw new RangeError(`${totalVfs} VFs from offset ${firstOffset} by ${stride} leave the 65536 routing ids`);
    }
    this.functions = Array.from({ length: totalVfs }, (_, i) => {
      const vf = options.virtualFunction(i);
      return vf instanceof PciFunction ? vf : new PciFunction({ ...vf, virtual: true });
    });
    const real = this.functions.findIndex((vf) => !vf.virtual || vf.physical !== undefined || vf.attachment !== undefined);
    if (real >= 0) throw new TypeError(`VF ${real} is no virtual function that is still free: make it with \`virtual: true\`, for this PF alone`);
    this.#bars = (this.functions[0] as PciFunction).bars.list;
    const shape = shapeOf(this.functions[0] as PciFunction);
    const odd = this.functions.findIndex((vf) => shapeOf(vf) !== shape);
    if (odd >= 0) throw new TypeError(`VF ${odd} has other BARs than VF 0: all VFs share the PF's VF BARs`);
    if (this.#bars.some((bar) => bar.kind === 'io')) throw new TypeError('a VF has no I/O BARs');
  }

  install(area: CapabilityArea): void {
    this.#area = area;
    const { totalVfs, vfDeviceId, pageSizes = REQUIRED_PAGE_SIZES } = this.#options;
    area.set16(INITIAL, totalVfs);
    area.set16(INITIAL + 2, totalVfs);
    area.set16(DEVICE_ID, vfDeviceId);
    area.set32(PAGE_SIZES, pageSizes | REQUIRED_PAGE_SIZES);
    area.set32(PAGE_SIZE, 1);
    for (const bar of this.#bars) area.set32(BAR0 + 4 * bar.index, (bar.kind === 'memory64' ? 4 : 0) | (bar.prefetchable ? 8 : 0));
    this.#place();
    this.#lock();
  }

  // ---- what the fabric asks ----

  get enabled(): number {
    return this.#ready ? Math.min(this.#area.get16(NUMBER), this.functions.length) : 0;
  }

  /** As the guest has set them; VFs answer a while after that (`enabled`). */
  get vfEnable(): boolean {
    return (this.#area.get16(CONTROL) & ENABLE) !== 0;
  }

  get numVfs(): number {
    return this.#area.get16(NUMBER);
  }

  get firstOffset(): number {
    return this.#area.get16(OFFSET);
  }

  get stride(): number {
    return this.#area.get16(STRIDE);
  }

  /** 9.3.3.3.4: VF MSE, which alone lets VFs decode memory. */
  get memoryEnabled(): boolean {
    return (this.#area.get16(CONTROL) & MEMORY_ENABLE) !== 0;
  }

  get bars(): readonly VirtualBar[] {
    const placed: VirtualBar[] = [];
    for (const bar of this.#bars) {
      const stride = this.#spacing(bar);
      const low = (this.#area.get32(BAR0 + 4 * bar.index) & ~15) >>> 0;
      const high = bar.kind === 'memory64' ? this.#area.get32(BAR0 + 4 * bar.index + 4) : 0;
      const base = high * 2 ** 32 + low;
      // Unassigned, or the pattern that sizing leaves behind, as for any BAR (bars.ts).
      if (base === 0 || base + stride > ADDRESS_LIMIT || (high === 0 && base + stride === 2 ** 32)) continue;
      placed.push({ index: bar.index, base, stride });
    }
    return placed;
  }

  /** 9.3.3.13, 9.2.1.1.1: each VF's share is its BAR size, but at least a system page. */
  #spacing(bar: Bar): number {
    return Math.max(bar.size, this.#area.get32(PAGE_SIZE) * 4096);
  }

  // ---- registers ----

  /** What is writable now: NumVFs, the page size and the hierarchy bit are fixed while VF Enable is set (9.3.3.7, 9.3.3.12, 9.3.3.3.5). */
  #lock(): void {
    const area = this.#area;
    const locked = (area.get16(CONTROL) & ENABLE) !== 0;
    const hierarchy = (this.#options.lowest ?? true) && !locked ? ARI_HIERARCHY : 0;
    area.permitWrite(CONTROL, 2, ENABLE | MEMORY_ENABLE | hierarchy);
    area.permitWrite(NUMBER, 2, locked ? 0 : 0xffff);
    area.permitWrite(PAGE_SIZE, 4, locked ? 0 : 0xffff_ffff);
  }

  /** Layout for the hierarchy bit, and VF BAR masks for the page size. */
  #place(): void {
    const area = this.#area;
    const { layout, ariLayout = layout, dependency } = this.#options;
    const { firstOffset, stride } = (area.get16(CONTROL) & ARI_HIERARCHY) !== 0 ? ariLayout : layout;
    area.set16(OFFSET, firstOffset);
    area.set16(STRIDE, stride);
    const own = area.host.routingId & (area.host.pcieType === 'root-complex-endpoint' ? 7 : 0xff);
    area.set8(LINK, dependency ?? own);
    for (const bar of this.#bars) {
      const at = BAR0 + 4 * bar.index;
      const spacing = this.#spacing(bar);
      const low = spacing >= 2 ** 32 ? 0 : ~(spacing - 1) & ~15;
      area.permitWrite(at, 4, low);
      area.set32(at, area.get32(at) & (low | 15));
      if (bar.kind === 'memory64') area.permitWrite(at + 4, 4, spacing > 2 ** 32 ? ~(spacing / 2 ** 32 - 1) : 0xffff_ffff);
    }
  }

  attached(): void {
    this.#place();
  }

  detached(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
  }

  afterWrite(register: number, old: number, _written: number, _lanes: number): number {
    const now = this.#area.get32(register);
    if (now === old) return EFFECT_NONE;
    if (register === CONTROL) return this.#controlled(old, now);
    if (register === NUMBER) return this.#numbered(old, now);
    if (register === PAGE_SIZE) return this.#paged(old, now);
    return register >= BAR0 && register < BAR0 + 24 ? EFFECT_DECODE : EFFECT_NONE;
  }

  #controlled(old: number, now: number): number {
    const changed = old ^ now;
    let effects = EFFECT_NONE;
    if ((changed & MEMORY_ENABLE) !== 0) effects |= EFFECT_DECODE;
    if ((changed & ARI_HIERARCHY) !== 0) this.#place();
    if ((changed & ENABLE) === 0) return effects;
    this.#lock();
    if ((now & ENABLE) !== 0) this.#startVfs();
    else this.#stopVfs();
    return effects | MOVED;
  }

  /** 9.3.3.7: more than TotalVFs is undefined; here the write is refused and the number stays. */
  #numbered(old: number, now: number): number {
    if ((now & 0xffff) <= this.#options.totalVfs) return EFFECT_NONE;
    this.#area.set16(NUMBER, old);
    this.#area.host.services?.log.guestError(`NumVFs ${now & 0xffff} refused: TotalVFs is ${this.#options.totalVfs}`);
    return EFFECT_NONE;
  }

  /** 9.3.3.12: exactly one bit, and one that is supported. */
  #paged(old: number, now: number): number {
    if ((now & (now - 1)) !== 0 || (now & this.#area.get32(PAGE_SIZES)) === 0) {
      this.#area.set32(PAGE_SIZE, old);
      this.#area.host.services?.log.guestError(`System Page Size 0x${now.toString(16)} refused`);
      return EFFECT_NONE;
    }
    this.#place();
    return EFFECT_DECODE;
  }

  /** 9.3.3.3.1: VFs come up as after a reset, when their time has passed. */
  #startVfs(): void {
    const clock = this.#area.host.services?.clock;
    const delay = this.#options.readyAfter ?? 0;
    if (delay <= 0 || clock === undefined) {
      this.#setReady(true);
      return;
    }
    this.#timer ??= clock.timer(() => this.#becomeReady());
    this.#timer.arm(clock.now() + delay);
  }

  #becomeReady(): void {
    this.#setReady(true);
    this.#area.host.report(MOVED);
  }

  /** Clearing VF Enable takes the VFs away with all their state. */
  #stopVfs(): void {
    const count = this.enabled;
    this.#timer?.cancel();
    this.#setReady(false);
    for (let i = 0; i < count; i++) this.functions[i]?.reset('conventional');
  }

  #setReady(ready: boolean, restored = false): void {
    this.#ready = ready;
    const { enabled } = this;
    // What was told last: a reset of the PF has cleared NumVFs before it comes here.
    if (enabled === this.#told) return;
    this.#told = enabled;
    this.#options.onEnabled?.(enabled, restored);
  }

  /** A reset of the PF cleared VF Enable; the fabric has reset the VFs with it. */
  reset(): void {
    this.#timer?.cancel();
    this.#setReady(false);
    this.#place();
    this.#lock();
  }

  save(): SriovState {
    return { ready: this.#ready, deadline: this.#timer?.deadline ?? -1 };
  }

  restore(state: unknown): void {
    const s = state as Partial<SriovState> | null;
    const area = this.#area;
    const enable = (area.get16(CONTROL) & ENABLE) !== 0;
    const page = area.get32(PAGE_SIZE);
    const sound = page !== 0 && (page & (page - 1)) === 0 && (page & area.get32(PAGE_SIZES)) !== 0 && area.get16(NUMBER) <= this.#options.totalVfs;
    const fixed = area.get16(INITIAL) === this.#options.totalVfs && area.get16(INITIAL + 2) === this.#options.totalVfs;
    if (typeof s?.ready !== 'boolean' || typeof s.deadline !== 'number' || !Number.isFinite(s.deadline) || !sound || !fixed || (s.ready && !enable))
      throw new RestoreError('saved SR-IOV capability does not fit');
    this.#timer?.cancel();
    this.#ready = false;
    this.#place();
    this.#lock();
    this.#setReady(s.ready, true);
    const clock = area.host.services?.clock;
    if (s.deadline < 0 || !enable || clock === undefined) return;
    this.#timer ??= clock.timer(() => this.#becomeReady());
    this.#timer.arm(s.deadline);
  }
}

function shapeOf(vf: PciFunction): string {
  return vf.bars.list.map((bar) => `${bar.index} ${bar.kind} ${bar.prefetchable} ${bar.size}`).join();
}
