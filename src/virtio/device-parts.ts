// Device parts on the wire (virtio 1.4 2.14): a header of sixteen bytes and a value, one after the other; which come when (2.12.1.4.4), and which must come along. What the common ones
// say of a device is in common-parts.ts, what a network device's own do is in its folder.

import type { AdminData } from './admin.ts';

export const VIRTIO_DEV_PART_DEV_FEATURES = 0x100;
export const VIRTIO_DEV_PART_DRV_FEATURES = 0x101;
export const VIRTIO_DEV_PART_PCI_COMMON_CFG = 0x102;
export const VIRTIO_DEV_PART_DEVICE_STATUS = 0x103;
export const VIRTIO_DEV_PART_VQ_CFG = 0x104;
export const VIRTIO_DEV_PART_VQ_NOTIFY_CFG = 0x105;
/** From here to 0x5ff: the device type's. */
export const DEVICE_TYPE_PARTS = 0x200;

const VIRTIO_DEV_PART_F_OPTIONAL = 1;
export const PART_HEADER = 16;
const SELECTOR = 8;

export interface DevicePart {
  readonly type: number;
  readonly optional: boolean;
  /** Eight bytes that tell parts of one type apart. */
  readonly selector: Uint8Array;
  readonly value: Uint8Array;
}

/** A selector that starts with these bytes. */
export function partSelector(...bytes: readonly number[]): Uint8Array {
  const selector = new Uint8Array(SELECTOR);
  selector.set(bytes);
  return selector;
}

/** The same for two that describe the same part of a device. */
function partKey({ type, selector }: Pick<DevicePart, 'type' | 'selector'>): string {
  return `${type}:${selector.join('.')}`;
}

function partsLength(parts: readonly DevicePart[]): number {
  return parts.reduce((sum, { value }) => sum + PART_HEADER + value.length, 0);
}

/** Headers alone, or each with its value behind it. */
export function encodeParts(parts: readonly DevicePart[], what: 'headers' | 'whole', ahead = 0): Uint8Array {
  const bytes = new Uint8Array(ahead + (what === 'whole' ? partsLength(parts) : PART_HEADER * parts.length));
  const view = new DataView(bytes.buffer);
  let at = ahead;
  for (const { type, optional, selector, value } of parts) {
    view.setUint16(at, type, true);
    view.setUint8(at + 2, optional ? VIRTIO_DEV_PART_F_OPTIONAL : 0);
    bytes.set(selector, at + 4);
    view.setUint32(at + 12, value.length, true);
    at += PART_HEADER;
    if (what === 'headers') continue;
    bytes.set(value, at);
    at += value.length;
  }
  return bytes;
}

/** The parts that `data` is, or undefined if it is none: a length past its end, a part twice, or out of order. Zeros that fill it up to a multiple of eight bytes are passed over. */
export function decodeParts(data: AdminData): DevicePart[] | undefined {
  const parts: DevicePart[] = [];
  const seen = new Set<string>();
  let at = 0;
  let last = 0;
  while (at + PART_HEADER <= data.length) {
    const length = data.u32(at + 12);
    const part = { type: data.u16(at), optional: (data.u8(at + 2) & VIRTIO_DEV_PART_F_OPTIONAL) !== 0, selector: data.bytes(at + 4, SELECTOR) };
    at += PART_HEADER;
    if (length > data.length - at || part.type < last || seen.has(partKey(part))) return undefined;
    parts.push({ ...part, value: data.bytes(at, length) });
    seen.add(partKey(part));
    last = part.type;
    at += length;
  }
  for (; at < data.length; at++) if (data.u8(at) !== 0) return undefined;
  return parts;
}

/** The part headers from `at` on, of parts to select; a last one that is cut short goes on as zeros. */
export function decodeSelection(data: AdminData, at: number): Set<string> {
  const selected = new Set<string>();
  for (let header = at; header < data.length; header += PART_HEADER)
    selected.add(partKey({ type: data.u16(header), selector: data.bytes(header + 4, SELECTOR) }));
  return selected;
}

/** Types that come before these wherever they are answered (2.12.1.4.4.1, device MUST). */
const PRECEDING: ReadonlyMap<number, readonly number[]> = new Map([
  [VIRTIO_DEV_PART_DRV_FEATURES, [VIRTIO_DEV_PART_DEV_FEATURES]],
  [VIRTIO_DEV_PART_PCI_COMMON_CFG, [VIRTIO_DEV_PART_DEV_FEATURES, VIRTIO_DEV_PART_DRV_FEATURES]],
  [VIRTIO_DEV_PART_DEVICE_STATUS, [VIRTIO_DEV_PART_DEV_FEATURES, VIRTIO_DEV_PART_DRV_FEATURES]],
]);

/** Of `parts`, in their order, those selected and what has to precede them. What is selected and not there is passed over. */
export function selectParts(parts: readonly DevicePart[], selected: ReadonlySet<string>): DevicePart[] {
  const chosen = parts.filter((part) => selected.has(partKey(part)));
  const along = new Set(chosen.flatMap(({ type }) => PRECEDING.get(type) ?? []));
  return parts.filter((part) => along.has(part.type) || chosen.includes(part));
}
