// The frames with which a guest tells switches and neighbours where its address now is (virtio 1.4 5.1.9.5.4.1, driver SHOULD): an ARP announcement for each
// IPv4 address it has (RFC 5227 2.3), an unsolicited neighbour advertisement for each IPv6 address (RFC 4861 7.2.6), and without either a reverse ARP request.

import { fold, set16, sumBytes } from './packets.ts';

/** The addresses a guest answers to. */
export interface GuestAddresses {
  /** 4 bytes each. */
  readonly ipv4?: readonly (readonly number[])[];
  /** 16 bytes each. */
  readonly ipv6?: readonly (readonly number[])[];
}

/** Frames of an announcement, each at least 60 bytes. */
export function announcements(mac: Uint8Array, addresses: GuestAddresses): Uint8Array[] {
  const frames: Uint8Array[] = [];
  for (const ip of addresses.ipv4 ?? []) frames.push(arp(mac, 0x0806, 1, ip, new Array<number>(6).fill(0)));
  for (const ip of addresses.ipv6 ?? []) frames.push(advertisement(mac, ip));
  if (frames.length === 0) frames.push(arp(mac, 0x8035, 3, [0, 0, 0, 0], [...mac]));
  return frames;
}

function arp(mac: Uint8Array, etherType: number, operation: number, ip: readonly number[], target: readonly number[]): Uint8Array {
  const frame = new Uint8Array(60);
  frame.fill(0xff, 0, 6);
  frame.set(mac, 6);
  set16(frame, 12, etherType);
  // Hardware Ethernet, protocol IPv4, lengths 6 and 4.
  frame.set([0, 1, 8, 0, 6, 4], 14);
  set16(frame, 20, operation);
  frame.set(mac, 22);
  frame.set(ip, 28);
  frame.set(target, 32);
  frame.set(ip, 38);
  return frame;
}

function advertisement(mac: Uint8Array, ip: readonly number[]): Uint8Array {
  const frame = new Uint8Array(86);
  // To all nodes, ff02::1, with the override flag and the target's link-layer address option.
  frame.set([0x33, 0x33, 0, 0, 0, 1], 0);
  frame.set(mac, 6);
  set16(frame, 12, 0x86dd);
  frame[14] = 0x60;
  set16(frame, 18, 32);
  frame[20] = 58;
  frame[21] = 255;
  frame.set(ip, 22);
  frame.set([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], 38);
  frame[54] = 136;
  frame[58] = 0x20;
  frame.set(ip, 62);
  frame.set([2, 1], 78);
  frame.set(mac, 80);
  set16(frame, 56, ~fold(sumBytes(frame, 54, 32, sumBytes(frame, 22, 32) + 58 + 32)) & 0xffff);
  return frame;
}
