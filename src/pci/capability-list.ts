// Lays a function's capabilities out and links them: the list from the pointer at 0x34 and the extended list from 0x100. PCIe 4.0 7.5.1.1.11, 7.6.3.

import { type Capability, CapabilityArea } from './capability.ts';
import type { PciFunction, PlacedCapability } from './function.ts';

interface Placed {
  readonly capabilities: Capability[];
  /** Configuration offset of each. */
  readonly offsets: number[];
  /** Per dword: index of the owning capability + 1, or 0. */
  readonly owners: Uint8Array;
  /** Per dword: 1 when the owner wants to be asked before a read. */
  readonly live: Uint8Array;
}

const POINTER = 0x34;
const FIRST_STANDARD = 0x40;
const FIRST_EXTENDED = 0x100;

/** @throws RangeError when they do not fit, overlap, or the extended list has no head at 0x100. */
export function placeCapabilities(fn: PciFunction, list: readonly PlacedCapability[]): Placed {
  const { config } = fn;
  const wanted = list.map((entry) => ('capability' in entry ? entry : { capability: entry, offset: undefined }));
  const capabilities = wanted.map((w) => w.capability);
  const owners = new Uint8Array(config.size / 4);
  const live = new Uint8Array(config.size / 4);
  const offsets: number[] = new Array(wanted.length).fill(0);
  if (wanted.length > 255) throw new RangeError(`${fn.name}: more than 255 capabilities`);
  const claim = (index: number, offset: number): void => {
    const { size, extended } = capabilities[index] as Capability;
    const [from, to] = extended ? [FIRST_EXTENDED, config.size] : [FIRST_STANDARD, 256];
    if (offset % 4 !== 0 || offset < from || offset + size > to)
      throw new RangeError(`${fn.name}: no room for a capability of ${size} bytes at 0x${offset.toString(16)}`);
    for (let dword = offset / 4; dword < (offset + size) / 4; dword++) {
      if (owners[dword] !== 0) throw new RangeError(`${fn.name}: two capabilities overlap at 0x${(dword * 4).toString(16)}`);
      owners[dword] = index + 1;
      live[dword] = (capabilities[index] as Capability).beforeRead ? 1 : 0;
    }
    offsets[index] = offset;
  };
  wanted.forEach((w, i) => {
    if (w.offset !== undefined) claim(i, w.offset);
  });
  wanted.forEach((w, i) => {
    if (w.offset === undefined) claim(i, firstGap(owners, w.capability, config.size));
  });
  link(fn, capabilities, offsets);
  capabilities.forEach((capability, i) => {
    capability.install(new CapabilityArea(fn, offsets[i] as number, capability.size));
  });
  return { capabilities, offsets, owners, live };
}

function firstGap(owners: Uint8Array, capability: Capability, size: number): number {
  const [from, to] = capability.extended ? [FIRST_EXTENDED, size] : [FIRST_STANDARD, 256];
  const dwords = Math.ceil(capability.size / 4);
  let run = 0;
  for (let dword = from / 4; dword < to / 4; dword++) {
    run = owners[dword] === 0 ? run + 1 : 0;
    if (run === dwords) return (dword - dwords + 1) * 4;
  }
  return to; // claim() then says what did not fit
}

function link(fn: PciFunction, capabilities: readonly Capability[], offsets: readonly number[]): void {
  const { config } = fn;
  let pointer = POINTER;
  capabilities.forEach((capability, i) => {
    if (capability.extended) return;
    const offset = offsets[i] as number;
    config.set8(pointer, offset);
    config.set8(offset, capability.id);
    pointer = offset + 1;
  });
  const extended = capabilities.map((_, i) => i).filter((i) => (capabilities[i] as Capability).extended);
  const head = extended.findIndex((i) => offsets[i] === FIRST_EXTENDED);
  if (extended.length > 0 && head < 0) throw new RangeError(`${fn.name}: the extended list starts at 0x100, and no extended capability is there`);
  const order = head < 0 ? [] : [extended[head] as number, ...extended.filter((_, n) => n !== head)];
  order.forEach((i, n) => {
    const { id, version } = capabilities[i] as Capability;
    const next = offsets[order[n + 1] ?? -1] ?? 0;
    config.set32(offsets[i] as number, id | ((version ?? 1) << 16) | (next << 20));
  });
}
