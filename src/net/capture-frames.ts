// A capture's frames, laid out for replay: one block of shared memory and parallel arrays, which a worker thread can be handed as they are. Captures made on a sending
// host hold frames as its NIC would get them: longer than the MTU, checksums not filled in. What offload such a frame asked for is worked out from its headers.

import { copyBytes } from '#core/copy';
import { type ByteViews, viewsOf } from '#core/guest-memory';
import type { Capture } from './capture.ts';
import { type CapturedPacket, CaptureError, LINKTYPE_ETHERNET } from './captured-packet.ts';
import { fold, pseudoHeaderSum, storeSum, sumBytes, swap16 } from './checksum.ts';
import { FrameHeaders, HEADER_LIMIT, PROTOCOL_TCP, PROTOCOL_UDP, parseHeaders } from './headers.ts';
import { TCP_CHECKSUM_OFFSET, UDP_CHECKSUM_OFFSET } from './offload-request.ts';
import { FRAME_NEEDS_CSUM, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4 } from './port.ts';

/** Plain data: may be posted to another thread, which then shares the bytes. Element i of each array is frame i's. */
export interface CaptureFrames {
  readonly count: number;
  readonly buffer: SharedArrayBuffer;
  /** Where each frame starts in the buffer: a multiple of 8. */
  readonly offset: Float64Array;
  readonly length: Int32Array;
  /** Nanoseconds since the first frame; negative where the capture goes back in time. */
  readonly time: Float64Array;
  /** What a driver would put into the frame's virtio_net_hdr. */
  readonly flags: Uint8Array;
  readonly gsoType: Uint8Array;
  readonly gsoSize: Uint16Array;
  readonly headerLength: Uint16Array;
  readonly csumStart: Uint16Array;
  readonly csumOffset: Uint16Array;
  /** Frames the capture's snapshot length cut: replayed as far as they were captured. */
  readonly cut: number;
  /** Packets without a single byte: left out. */
  readonly empty: number;
}

export interface LoadOptions {
  /** Longest IP packet that is replayed whole; longer TCP and UDP ones get a GSO request for segments of this size. Default 1500. */
  readonly mtu?: number;
}

const ALIGNMENT = 8;
const SMALLEST_MTU = 576;

/** @throws CaptureError when the file is damaged, or holds something other than Ethernet frames. */
export function loadFrames(capture: Capture, { mtu = 1500 }: LoadOptions = {}): CaptureFrames {
  if (!(Number.isSafeInteger(mtu) && mtu >= SMALLEST_MTU && mtu <= 65535)) throw new RangeError(`mtu ${mtu}: ${SMALLEST_MTU} to 65535`);
  let count = 0;
  let size = 0;
  let cut = 0;
  let empty = 0;
  for (const packet of capture.packets) {
    if (packet.linkType !== LINKTYPE_ETHERNET)
      throw new CaptureError(
        'LINKTYPE',
        packet.offset,
        `a packet has link type ${packet.linkType}, not Ethernet (1): capture on an Ethernet interface, not on "any"`,
      );
    if (packet.bytes.length === 0) {
      empty++;
      continue;
    }
    count++;
    size += aligned(packet.bytes.length);
    if (packet.bytes.length < packet.originalLength) cut++;
  }
  const frames: CaptureFrames = {
    count,
    buffer: new SharedArrayBuffer(Math.max(size, ALIGNMENT)),
    offset: new Float64Array(count),
    length: new Int32Array(count),
    time: new Float64Array(count),
    flags: new Uint8Array(count),
    gsoType: new Uint8Array(count),
    gsoSize: new Uint16Array(count),
    headerLength: new Uint16Array(count),
    csumStart: new Uint16Array(count),
    csumOffset: new Uint16Array(count),
    cut,
    empty,
  };
  fill(frames, capture.packets, mtu);
  return frames;
}

function fill(frames: CaptureFrames, packets: Iterable<CapturedPacket>, mtu: number): void {
  const views = viewsOf(frames.buffer);
  let at = 0;
  let i = 0;
  let first: CapturedPacket | undefined;
  for (const packet of packets) {
    if (packet.bytes.length === 0) continue;
    first ??= packet;
    views.u8.set(packet.bytes, at);
    frames.offset[i] = at;
    frames.length[i] = packet.bytes.length;
    frames.time[i] = (packet.seconds - first.seconds) * 1e9 + packet.nanoseconds - first.nanoseconds;
    if (packet.bytes.length === packet.originalLength) inferOffload(frames, views, i, mtu);
    at += aligned(packet.bytes.length);
    i++;
  }
}

const headers = new FrameHeaders();
const header = viewsOf(new ArrayBuffer(HEADER_LIMIT));

/**
 * A checksum field that holds just the pseudo header's sum was left for the NIC to finish: NEEDS_CSUM. A frame over the MTU was left for it to cut: GSO, for which
 * the field is seeded, whatever it held (a frame that receive offload put together holds a checksum of something else).
 */
function inferOffload(frames: CaptureFrames, views: ByteViews, frame: number, mtu: number): void {
  const start = frames.offset[frame] as number;
  const length = frames.length[frame] as number;
  const available = Math.min(length, HEADER_LIMIT);
  copyBytes(header, 0, views, start, available);
  if (!parseHeaders(header.u8, available, headers) || headers.payload === 0 || headers.fragment || headers.routed) return;
  const { transport, protocol, version } = headers;
  const end = packetEnd(header.u8, length);
  const field = transport + (protocol === PROTOCOL_TCP ? TCP_CHECKSUM_OFFSET : UDP_CHECKSUM_OFFSET);
  const seed = fold(pseudoHeaderSum(views, start + headers.network, version, protocol) + swap16((end - transport) & 0xffff));
  const stored = (views.u8[start + field] as number) | ((views.u8[start + field + 1] as number) << 8);
  const large = end - headers.network > mtu;
  if (!large) {
    if (protocol === PROTOCOL_UDP && stored === 0) return;
    if (stored !== seed || end !== length || fold(seed + sumBytes(views, start + transport, end - transport)) === 0xffff) return;
  } else {
    storeSum(views.u8, start + field, seed);
    frames.gsoType[frame] = protocol === PROTOCOL_UDP ? GSO_UDP_L4 : version === 4 ? GSO_TCPV4 : GSO_TCPV6;
    frames.gsoSize[frame] = mtu - (headers.payload - headers.network);
    frames.headerLength[frame] = headers.payload;
  }
  frames.flags[frame] = FRAME_NEEDS_CSUM;
  frames.csumStart[frame] = transport;
  frames.csumOffset[frame] = field - transport;
}

/** Where the IP packet ends in the frame: short frames are padded on the wire. A length that cannot be (0 in some captures of large frames) is the frame's end. */
function packetEnd(bytes: Uint8Array, length: number): number {
  const at = headers.network + (headers.version === 4 ? 2 : 4);
  const said = ((bytes[at] as number) << 8) | (bytes[at + 1] as number);
  const end = headers.network + said + (headers.version === 4 ? 0 : 40);
  return end < headers.payload || end > length ? length : end;
}

function aligned(length: number): number {
  return Math.ceil(length / ALIGNMENT) * ALIGNMENT;
}
