// What addresses mean: claims are collected from the tree in the order requests meet it and flattened into a sorted table of disjoint ranges, which an access
// searches; one that crosses what a region takes is cut, low half first. Where two claims overlap the first one has the address: lower bus position before higher, a function's BARs in order, a bridge's windows (and all behind
// them) at the bridge's own place. That is one of the answers real fabrics give, always the same one here, and it is logged as the guest's error.

import { type AccessSize, allOnes, type FastDoorbell, type Region, readRegion, writeRegion } from '#core/region';
import type { Bar } from './bars.ts';
import type { Span } from './bridge-registers.ts';
import type { Bus } from './bus.ts';
import type { PciFunction } from './function.ts';
import { UnclaimedWindow } from './unclaimed.ts';

export type AddressSpace = 'memory' | 'io';

/** A range that decodes now. */
export interface Decoded {
  readonly space: AddressSpace;
  readonly base: number;
  readonly size: number;
  readonly bdf: number;
  /** BAR number; 6 is the expansion ROM. */
  readonly bar: number;
}

/** A function's claim, or (no function) a host bridge's range or a bridge's window, where requests go down even if nothing there answers. */
interface Claim {
  readonly start: number;
  readonly end: number;
  /** Address of the region's offset 0. */
  readonly base: number;
  readonly fn: PciFunction | null;
  readonly bar: number;
  readonly region: Region;
}

interface HostRange {
  readonly base: number;
  readonly region: Region;
}

export interface AddressMapOptions {
  /** Decode BARs at address 0 too. */
  readonly zeroDecodes: boolean;
  /** Gets each overlap once as long as it lasts. */
  readonly reportOverlap: (message: string) => void;
}

/** One address space. Its table is built anew when it is next used after `invalidate`. */
export class AddressMap {
  readonly space: AddressSpace;
  readonly #root: Bus;
  readonly #options: AddressMapOptions;
  readonly #host: HostRange[] = [];
  #stale = true;
  #starts = new Float64Array(0);
  #ends = new Float64Array(0);
  #bases = new Float64Array(0);
  #claims: Claim[] = [];
  #regions: Region[] = [];
  #last = 0;
  #overlaps = new Set<string>();

  constructor(space: AddressSpace, root: Bus, options: AddressMapOptions) {
    this.space = space;
    this.#root = root;
    this.#options = options;
  }

  /** A host bridge's own range, ahead of all functions. For when the map is made. */
  addHost(base: number, region: Region): void {
    this.#host.push({ base, region });
  }

  /** What functions decode may be something else. */
  invalidate(): void {
    this.#stale = true;
  }

  // ---- accesses ----

  /** 8 bytes are two accesses of 4, low half first; all ones where nobody answers. */
  read(address: number, size: AccessSize | 8): number {
    if (this.#stale) this.#rebuild();
    if (size === 8) return this.read(address, 4) + this.read(address + 4, 4) * 2 ** 32;
    if ((address & (size - 1)) !== 0 || (size !== 4 && size !== 2 && size !== 1)) return this.#readSplit(address, size);
    const at = this.#find(address);
    if (at < 0) return allOnes(size);
    const region = this.#regions[at] as Region;
    const offset = address - (this.#bases[at] as number);
    return offset + size <= region.size ? region.read(offset, size) : readRegion(region, offset, size);
  }

  #readSplit(address: number, size: AccessSize): number {
    if ((size !== 4 && size !== 2) || !Number.isInteger(address)) return allOnes(size);
    const half = size === 4 ? 2 : 1;
    return this.read(address, half) + this.read(address + half, half) * 2 ** (8 * half);
  }

  write(address: number, size: AccessSize | 8, value: number): void {
    if (this.#stale) this.#rebuild();
    if (size === 8) {
      this.write(address, 4, value % 2 ** 32);
      this.write(address + 4, 4, Math.floor(value / 2 ** 32));
      return;
    }
    if ((address & (size - 1)) !== 0 || (size !== 4 && size !== 2 && size !== 1)) {
      this.#writeSplit(address, size, value);
      return;
    }
    const at = this.#find(address);
    if (at < 0) return;
    const region = this.#regions[at] as Region;
    const offset = address - (this.#bases[at] as number);
    const unsigned = size === 4 ? value >>> 0 : value & (size === 2 ? 0xffff : 0xff);
    if (offset + size <= region.size) region.write(offset, size, unsigned);
    else writeRegion(region, offset, size, unsigned);
  }

  #writeSplit(address: number, size: AccessSize, value: number): void {
    if ((size !== 4 && size !== 2) || !Number.isInteger(address)) return;
    const half = size === 4 ? 2 : 1;
    this.write(address, half, value);
    this.write(address + half, half, value >>> (8 * half));
  }

  /** The doorbell a guest thread may ring in place of this write, if its region names one. */
  doorbell(address: number, size: AccessSize, value: number): FastDoorbell | undefined {
    if (this.#stale) this.#rebuild();
    const at = this.#find(address);
    return at < 0 ? undefined : (this.#regions[at] as Region).doorbell?.(address - (this.#bases[at] as number), size, value);
  }

  // ---- the table ----

  /** The function and BAR that answer at an address; undefined where nobody does, and in the host's own ranges. */
  lookup(address: number): { readonly bdf: number; readonly bar: number; readonly offset: number } | undefined {
    if (this.#stale) this.#rebuild();
    const at = this.#find(address);
    const claim = this.#claims[at];
    return claim?.fn ? { bdf: claim.fn.routingId, bar: claim.bar, offset: address - (this.#bases[at] as number) } : undefined;
  }

  /** What functions decode, by address. A BAR cut by a window or by an overlap appears as the pieces that are left. */
  decoded(): Decoded[] {
    if (this.#stale) this.#rebuild();
    const list: Decoded[] = [];
    this.#claims.forEach((claim, i) => {
      const base = this.#starts[i] as number;
      if (claim.fn) list.push({ space: this.space, base, size: (this.#ends[i] as number) - base, bdf: claim.fn.routingId, bar: claim.bar });
    });
    return list;
  }

  /** The index of the range that holds `address`, or -1. */
  #find(address: number): number {
    const last = this.#last;
    if (address >= (this.#starts[last] as number) && address < (this.#ends[last] as number)) return last;
    let low = 0;
    let high = this.#starts.length - 1;
    while (low <= high) {
      const middle = (low + high) >>> 1;
      if (address < (this.#starts[middle] as number)) high = middle - 1;
      else if (address >= (this.#ends[middle] as number)) low = middle + 1;
      else if (address >= 0) {
        this.#last = middle;
        return middle;
      } else return -1;
    }
    return -1;
  }

  #rebuild(): void {
    this.#stale = false;
    const { zeroDecodes, reportOverlap } = this.#options;
    const claims: Claim[] = this.#host.map(({ base, region }) => ({ start: base, end: base + region.size, base, fn: null, bar: 0, region }));
    claimBus(claims, this.#root, this.space, [{ start: 0, end: Number.MAX_SAFE_INTEGER }], zeroDecodes);
    const overlaps = new Set<string>();
    const ranges = flatten(claims, (claim) => {
      if (claim.fn === null) return;
      const message = `${claim.fn.name} BAR ${claim.bar} at 0x${claim.start.toString(16)} is hidden by what decodes there first`;
      if (!this.#overlaps.has(message)) reportOverlap(message);
      overlaps.add(message);
    });
    this.#overlaps = overlaps;
    this.#starts = Float64Array.from(ranges, (range) => range.start);
    this.#ends = Float64Array.from(ranges, (range) => range.end);
    this.#bases = Float64Array.from(ranges, (range) => range.claim.base);
    this.#claims = ranges.map((range) => range.claim);
    this.#regions = ranges.map((range) => range.claim.region);
    this.#last = 0;
  }
}

function claimBus(claims: Claim[], bus: Bus, space: AddressSpace, within: readonly Span[], zeroDecodes: boolean): void {
  for (const fn of bus.functions) {
    const enabled = space === 'memory' ? fn.decodesMemory : fn.decodesIo;
    if (enabled) claimBars(claims, fn, space, within, zeroDecodes);
    if (space === 'memory') claimVirtual(claims, fn, within);
    if (enabled && fn.bridge) {
      const windows = intersect(space === 'memory' ? fn.bridge.memoryWindows() : fn.bridge.ioWindows(), within);
      if (fn.forwards) claimBus(claims, fn.secondaryBus as Bus, space, windows, zeroDecodes);
      const region = new UnclaimedWindow(fn, space);
      for (const { start, end } of windows) claims.push({ start, end, base: 0, fn: null, bar: 0, region });
    }
  }
}

function claimBars(claims: Claim[], fn: PciFunction, space: AddressSpace, within: readonly Span[], zeroDecodes: boolean): void {
  for (const bar of fn.bars.list) if ((bar.kind === 'io') === (space === 'io')) claimBar(claims, fn, bar, fn.bars.address(bar, zeroDecodes), within);
  const rom = fn.bars.rom;
  if (rom && space === 'memory') claimBar(claims, fn, rom, fn.bars.address(rom, zeroDecodes), within);
}

/** PCIe 4.0 9.3.4.1.3: VF MSE gates the VF BARs, each VF's at its multiple of the aperture. */
function claimVirtual(claims: Claim[], fn: PciFunction, within: readonly Span[]): void {
  const virtual = fn.virtualFunctions;
  if (virtual === undefined || !virtual.memoryEnabled || !fn.powered) return;
  for (const { index, base, stride } of virtual.bars) {
    if (base <= 0) continue;
    for (let i = 0; i < virtual.enabled; i++) {
      const vf = virtual.functions[i];
      const bar = vf?.powered ? vf.bars.at(index) : undefined;
      if (vf && bar) claimBar(claims, vf, bar, base + i * stride, within);
    }
  }
}

function claimBar(claims: Claim[], fn: PciFunction, bar: Bar, base: number, within: readonly Span[]): void {
  if (base < 0) return;
  for (const { start, end } of intersect([{ start: base, end: base + bar.size }], within))
    claims.push({ start, end, base, fn, bar: bar.index, region: bar.region });
}

/** Every part of `spans` that lies in one of `within`; the parts keep the order of `spans`. */
function intersect(spans: readonly Span[], within: readonly Span[]): Span[] {
  const parts: Span[] = [];
  for (const span of spans)
    for (const outer of within) {
      const start = Math.max(span.start, outer.start);
      const end = Math.min(span.end, outer.end);
      if (start < end) parts.push({ start, end });
    }
  return parts;
}

interface Range {
  readonly start: number;
  readonly end: number;
  readonly claim: Claim;
}

/** Disjoint ranges in address order; the earlier claim has what two want. `hidden` is told of claims that lost some of theirs to another function. */
function flatten(claims: readonly Claim[], hidden: (claim: Claim) => void): Range[] {
  const ranges: Range[] = [];
  for (const claim of claims) {
    let at = firstEndingAfter(ranges, claim.start);
    let cursor = claim.start;
    let lost = false;
    while (cursor < claim.end) {
      const next = ranges[at];
      const end = next && next.start < claim.end ? next.start : claim.end;
      if (cursor < end) ranges.splice(at++, 0, { start: cursor, end, claim });
      if (end === claim.end) break;
      // Two windows of one bridge may both hold a BAR: the same claim twice is no overlap.
      lost ||= (next as Range).claim.fn !== claim.fn || (next as Range).claim.bar !== claim.bar;
      cursor = (next as Range).end;
      at++;
    }
    if (lost) hidden(claim);
  }
  return ranges;
}

function firstEndingAfter(ranges: readonly Range[], address: number): number {
  let low = 0;
  let high = ranges.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((ranges[middle] as Range).end > address) high = middle;
    else low = middle + 1;
  }
  return low;
}
