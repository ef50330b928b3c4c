// Which frames a virtio-net device lets through to its driver (virtio 1.4 5.1.9.5.1 to 5.1.9.5.3), from the first fourteen to eighteen bytes.

import type { ByteViews } from '#core/guest-memory';
import { swap16 } from '#net/checksum';
import type { FrameBatch } from '#net/port';
import {
  type NetPolicy,
  POLICY_ALL_MULTICAST,
  POLICY_ALL_UNICAST,
  POLICY_NO_BROADCAST,
  POLICY_NO_MULTICAST,
  POLICY_NO_UNICAST,
  POLICY_PROMISCUOUS,
  POLICY_VLAN_FILTER,
} from '#virtio/net-policy';

const ETHERTYPE_VLAN = 0x8100;
/** The same as the low half of a word of memory. */
const VLAN_AS_IT_LIES = swap16(ETHERTYPE_VLAN);
const TAG_END = 16;
const ALL_MODES = POLICY_ALL_UNICAST | POLICY_ALL_MULTICAST;
const SOME_MODES = POLICY_NO_UNICAST | POLICY_NO_MULTICAST | POLICY_NO_BROADCAST | POLICY_VLAN_FILTER;

/** Byte `at` of frame `f`; the frame is that long. */
export function frameByte(batch: FrameBatch, f: number, at: number): number {
  const { segments } = batch;
  let s = batch.firstSegment[f] as number;
  const end = s + (batch.segmentCount[f] as number);
  for (; s < end; s++) {
    const length = segments.length[s] as number;
    if (at < length) return (segments.views[s] as (typeof segments.views)[number]).u8[(segments.offset[s] as number) + at] as number;
    at -= length;
  }
  return 0;
}

/** These flags let every frame through: none need be looked at. */
export function passesAll(flags: number): boolean {
  return (flags & POLICY_PROMISCUOUS) !== 0 || (flags & (ALL_MODES | SOME_MODES)) === ALL_MODES;
}

/** Where the frames from `from` on end that have no tag and are for the driver's own address, and pass for nothing but that: what nearly all are, in a loop without calls. At most `to`. */
export function pastOwn(policy: NetPolicy, flags: number, batch: FrameBatch, from: number, to: number): number {
  const { macLow, macHigh } = policy;
  if ((flags & POLICY_NO_UNICAST) !== 0 || (macLow & 1) !== 0) return from;
  const { firstSegment } = batch;
  const { offset: offsets, length: sizes, views } = batch.segments;
  let f = from;
  for (; f < to; f++) {
    const s = firstSegment[f] as number;
    const start = offsets[s] as number;
    if ((start & 3) !== 0 || (sizes[s] as number) < TAG_END) break;
    const { i32 } = views[s] as ByteViews;
    const w = start >> 2;
    if (i32[w] !== macLow || ((i32[(w + 1) | 0] as number) & 0xffff) !== macHigh || ((i32[(w + 3) | 0] as number) & 0xffff) === VLAN_AS_IT_LIES) break;
  }
  return f;
}

/** True when the driver is to get frame `f`, of at least 14 bytes. */
export function passesFilter(policy: NetPolicy, flags: number, batch: FrameBatch, f: number): boolean {
  if ((flags & POLICY_PROMISCUOUS) !== 0) return true;
  if ((flags & POLICY_VLAN_FILTER) !== 0 && ((frameByte(batch, f, 12) << 8) | frameByte(batch, f, 13)) === ETHERTYPE_VLAN) {
    if ((batch.length[f] as number) < TAG_END) return false;
    if (!policy.hasVlan(((frameByte(batch, f, 14) & 15) << 8) | frameByte(batch, f, 15))) return false;
  }
  const { segments } = batch;
  const s = batch.firstSegment[f] as number;
  const start = segments.offset[s] as number;
  let low: number;
  let high: number;
  if ((start & 3) === 0 && (segments.length[s] as number) >= 8) {
    const { i32 } = segments.views[s] as ByteViews;
    low = i32[start >> 2] as number;
    high = (i32[(start >> 2) + 1] as number) & 0xffff;
  } else {
    low = frameByte(batch, f, 0) | (frameByte(batch, f, 1) << 8) | (frameByte(batch, f, 2) << 16) | (frameByte(batch, f, 3) << 24);
    high = frameByte(batch, f, 4) | (frameByte(batch, f, 5) << 8);
  }
  if (low === -1 && high === 0xffff) return (flags & POLICY_NO_BROADCAST) === 0;
  if ((low & 1) !== 0) {
    if ((flags & POLICY_NO_MULTICAST) !== 0) return false;
    return (flags & POLICY_ALL_MULTICAST) !== 0 || policy.inTable(low, high);
  }
  if ((flags & POLICY_NO_UNICAST) !== 0) return false;
  if ((flags & POLICY_ALL_UNICAST) !== 0) return true;
  return (low === policy.macLow && high === policy.macHigh) || policy.inTable(low, high);
}
