// The frames that generator, sink, echo and ping exchange: UDP (or one TCP segment for sizes beyond the MTU) whose payload starts with a magic word, a
// flow, a sequence number and its complement. Number and complement sum to zero, so the checksum is the same for every frame of a flow.

import type { ByteViews } from '#core/guest-memory';
import { fold, Headers, PROTOCOL_TCP, PROTOCOL_UDP, pseudoHeaderSum, set16, set32, sumBytes, transportChecksum } from './packets.ts';

const MAGIC = 0x6e62; // 'nb', in memory order
const MARKER = 12;
export const UDP_PAYLOAD = 42;
export const TCP_PAYLOAD = 54;
/** Ethernet frames without their FCS. */
export const SHORTEST_FRAME = 60;
export const LONGEST_FRAME = 65_535 + 14;
const DISCARD_PORT = 9;

export interface FrameShape {
  readonly size: number;
  readonly tcp: boolean;
  readonly flow: number;
  readonly source: Uint8Array;
  readonly destination: Uint8Array;
  /** Leave the transport checksum to the device: the field holds the pseudo header's sum. */
  readonly unfilled: boolean;
}

/** Writes a whole frame, sequence number 0, at `at`. */
export function buildFrame(u8: Uint8Array, at: number, shape: FrameShape): void {
  const { size, tcp, flow } = shape;
  const payload = tcp ? TCP_PAYLOAD : UDP_PAYLOAD;
  u8.fill(0, at, at + payload);
  u8.set(shape.destination, at);
  u8.set(shape.source, at + 6);
  set16(u8, at + 12, 0x0800);
  const ip = at + 14;
  u8[ip] = 0x45;
  set16(u8, ip + 2, size - 14);
  u8[ip + 6] = 0x40;
  u8[ip + 8] = 64;
  u8[ip + 9] = tcp ? PROTOCOL_TCP : PROTOCOL_UDP;
  u8.set([198, 18, 0, 1 + (shape.source[5] as number)], ip + 12);
  u8.set([198, 19, 0, 1], ip + 16);
  set16(u8, ip + 10, ~fold(sumBytes(u8, ip, 20)) & 0xffff);
  const l4 = at + 34;
  set16(u8, l4, 0xc000 | flow);
  set16(u8, l4 + 2, DISCARD_PORT);
  if (tcp) {
    u8[l4 + 12] = 0x50;
    u8[l4 + 13] = 0x10;
    set16(u8, l4 + 14, 0xffff);
  } else set16(u8, l4 + 4, size - 34);
  const end = at + size;
  set16(u8, at + payload, MAGIC);
  set16(u8, at + payload + 2, flow);
  set32(u8, at + payload + 4, 0);
  set32(u8, at + payload + 8, 0xffffffff);
  for (let i = at + payload + MARKER; i < end; i++) u8[i] = (i - at) * 7 + flow;
  const headers = new Headers();
  headers.parse(u8, at, size);
  const field = l4 + headers.checksumOffset;
  set16(u8, field, shape.unfilled ? fold(pseudoHeaderSum(u8, at, headers, size - 34)) : transportChecksum(u8, at, headers));
}

/** Puts a sequence number and its complement into a frame that `buildFrame` wrote; `at` is even, as guest buffers are. */
export function stampSequence(views: ByteViews, at: number, payload: number, sequence: number): void {
  const i = (at + payload + 4) >>> 1;
  const { u16 } = views;
  u16[i] = sequence;
  u16[i + 1] = sequence >>> 16;
  u16[i + 2] = ~sequence;
  u16[i + 3] = ~sequence >>> 16;
}

/** The sequence number of the marker at `at` (even), -1 when there is none, -2 when it is damaged. */
export function readSequence(views: ByteViews, at: number): number {
  const { u8, u16 } = views;
  if (u8[at] !== MAGIC >>> 8 || u8[at + 1] !== (MAGIC & 0xff)) return -1;
  const i = (at + 4) >>> 1;
  const low = u16[i] as number;
  const high = u16[i + 1] as number;
  if (((low ^ (u16[i + 2] as number)) & (high ^ (u16[i + 3] as number))) !== 0xffff) return -2;
  return high * 65536 + low;
}

export function readFlow(views: ByteViews, at: number): number {
  return ((views.u8[at + 2] as number) << 8) | (views.u8[at + 3] as number);
}
