// Frames that cases send, small and plain unless said otherwise.

import { type ComposedFrame, composeFrame, type FrameSpec } from '#guest-sim/frames';
import { fold, sumBytes } from '#guest-sim/packets';

/** Some other station on the wire. */
export const STRANGER: readonly number[] = [0x52, 0x54, 0, 0, 0, 0x77];
export const BROADCAST: readonly number[] = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
export const MULTICAST: readonly number[] = [0x01, 0, 0x5e, 0, 0, 0x42];

/** A frame of no IP: an experimental ethertype (IEEE 802 local) and a numbered payload. */
export function plainFrame(number: number, destination: readonly number[] = BROADCAST, length = 64): Uint8Array {
  const frame = Uint8Array.from({ length }, (_, i) => (number * 31 + i * 7) & 0xff);
  frame.set(destination, 0);
  frame.set([0x52, 0x54, 0, 0, 0, 0x99, 0x88, 0xb5, number >>> 8, number & 0xff], 6);
  return frame;
}

/** The same with an 802.1Q tag. */
export function taggedFrame(number: number, vid: number, destination: readonly number[] = BROADCAST): Uint8Array {
  const plain = plainFrame(number, destination);
  const frame = new Uint8Array(plain.length + 4);
  frame.set(plain.subarray(0, 12), 0);
  frame.set([0x81, 0, (vid >>> 8) & 0x0f, vid & 0xff], 12);
  frame.set(plain.subarray(12), 16);
  return frame;
}

export function udpFrame(spec: Partial<FrameSpec> = {}): ComposedFrame {
  return composeFrame({ version: 4, protocol: 'udp', payload: 100, ...spec });
}

export function tcpFrame(spec: Partial<FrameSpec> = {}): ComposedFrame {
  return composeFrame({ version: 4, protocol: 'tcp', payload: 100, ...spec });
}

export function get16(bytes: Uint8Array, at: number): number {
  return ((bytes[at] as number) << 8) | (bytes[at + 1] as number);
}

export function put16(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = (value >>> 8) & 0xff;
  bytes[at + 1] = value & 0xff;
}

/** Sum of the pseudo header of a frame's transport header, folded: what the checksum field holds when the rest is left to somebody else. */
export function pseudoSum(bytes: Uint8Array, network: number, transport: number, protocol: number): number {
  const v6 = (bytes[network] as number) >>> 4 === 6;
  const end = v6 ? network + 40 + get16(bytes, network + 4) : network + get16(bytes, network + 2);
  const addresses = v6 ? sumBytes(bytes, network + 8, 32) : sumBytes(bytes, network + 12, 8);
  return fold(addresses + protocol + (end - transport));
}

/** Whether the checksum over the transport header at `transport` is right. */
export function checksumHolds(bytes: Uint8Array, network: number, transport: number, protocol: number): boolean {
  const v6 = (bytes[network] as number) >>> 4 === 6;
  const end = v6 ? network + 40 + get16(bytes, network + 4) : network + get16(bytes, network + 2);
  return fold(sumBytes(bytes, transport, end - transport, pseudoSum(bytes, network, transport, protocol))) === 0xffff;
}

export { fold, sumBytes };
