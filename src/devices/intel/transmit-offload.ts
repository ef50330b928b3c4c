// What a transmitted packet becomes on the wire, on any of Intel's parts: VLAN tag, IP, TCP, UDP and SCTP checksums (8254x 3.3.3, 3.5, 9.2; 82576 7.2), segmentation, padding, a frame check sequence of the driver's own. Headers are copied into scratch
// and changed there; payload stays where it lies. A TCP or UDP checksum that goes to the end of the frame is left to who takes the frame (NEEDS_CSUM), and so is the cutting of a regular large one.

import { type ByteViews, viewsOf } from '#core/guest-memory';
import { SegmentList } from '#core/segments';
import { fold, pseudoHeaderSum, storeChecksum, storeSum, sumBytes, sumSegments, swap16 } from '#net/checksum';
import { crc32c, crcSegments } from '#net/frame-check';
import { FrameHeaders, PROTOCOL_TCP, PROTOCOL_UDP, parseHeaders } from '#net/headers';
import { MAXIMUM_GSO_SEGMENTS } from '#net/offload-request';
import { FRAME_MALFORMED, FRAME_NEEDS_CSUM, type FrameBatch, GSO_ECN, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4 } from '#net/port';
import { ChecksumContext, makeSegmentHeader, TCP_CWR, TCP_FIN_PSH, write16 } from './checksum-context.ts';

/** Fragments of one packet; one of more is dropped whole. */
const MOST_FRAGMENTS = 1024;
const SHORTEST_FRAME = 60;
const FCS = 4;
const TAG = 4;
const TAG_PLACE = 12;
/** Of an SCTP header: where its CRC-32c is, and the end of the header. */
const SCTP_CHECKSUM = 8;
const SCTP_HEADER = 12;
/** Bytes of a frame that are copied when something in it changes: every place a context or a legacy descriptor can name. */
const COPIED = 258;
const SLOT = 320;
/** Where a frame starts in its slot, to leave room for a tag. */
const ROOM = TAG;
const SLOTS = 320;
/** What a switch decides by: two addresses, two tags, a type. */
export const HEAD = 22;
const OPTIONS = { none: { zeroIsNone: false }, udp: { zeroIsNone: true } } as const;
const LONGEST_IP = 65535;

/** The packet being sent, as its descriptors say. */
export class StagedPacket {
  readonly fragments: SegmentList;
  length = 0;
  /** More fragments than are kept, or a fragment that cannot be read. */
  broken = false;
  tagged = false;
  tag = 0;
  /** Where the tag goes: behind the addresses, or behind an outer tag (16). */
  tagPlace = TAG_PLACE;
  insertsFcs = false;
  pads = false;
  /** Legacy descriptor with IC: where the sum starts and goes. */
  legacyChecksum = false;
  legacyStart = 0;
  legacyOffset = 0;
  /** POPTS of the first data descriptor. */
  ipChecksum = false;
  checksum = false;
  segmented = false;
  /** The first bytes as a decision was made by them, and how many (0: none was): they are sent, whatever memory says by then. */
  readonly head = new Uint8Array(HEAD);
  judged = 0;

  constructor(filler: ByteViews) {
    this.fragments = new SegmentList(MOST_FRAGMENTS, filler);
  }

  clear(): void {
    this.fragments.truncate(0);
    this.length = 0;
    this.broken = false;
    this.tagged = false;
    this.tagPlace = TAG_PLACE;
    this.insertsFcs = false;
    this.legacyChecksum = false;
    this.ipChecksum = false;
    this.checksum = false;
    this.segmented = false;
    this.judged = 0;
  }
}

export class TransmitOffload {
  readonly packet: StagedPacket;
  /** Of the packet: for segmentation, or for single frames. */
  readonly context = new ChecksumContext();
  /** The scratch that frame 0 of a batch gets, with room for 320 of them: so that what is made in two batches at a time does not meet. */
  firstSlot = 0;
  /** VET, the type of inserted tags. */
  tagType = 0x8100;
  readonly scratch: ByteViews = viewsOf(new ArrayBuffer(SLOTS * SLOT + 64));
  readonly #zeros = SLOTS * SLOT;
  readonly #headers = new FrameHeaders();
  /** Each slot's frame, for who reads it as bytes. */
  readonly #slots: readonly Uint8Array[];

  constructor() {
    this.packet = new StagedPacket(this.scratch);
    this.#slots = Array.from({ length: SLOTS }, (_, slot) => this.scratch.u8.subarray(slot * SLOT + ROOM, (slot + 1) * SLOT));
  }

  /** How many frames the packet becomes; 0: it makes no sense. */
  get pieces(): number {
    const { packet, context } = this;
    if (!packet.segmented) return 1;
    const { headerLength, segmentSize } = context;
    // CVE-2015-6815: a step of nothing. Headers alone are one frame.
    if (segmentSize === 0 || headerLength < 14 || headerLength > packet.length || headerLength > COPIED || context.sctp) return 0;
    return Math.max(1, Math.ceil((packet.length - headerLength) / segmentSize));
  }

  /** Appends the packet as one frame. False: it is no frame (too short for what is asked of it). @param whole everything done here, nothing left to others */
  single(batch: FrameBatch, whole: boolean): boolean {
    const { packet } = this;
    let { length } = packet;
    let bad = false;
    if (!packet.insertsFcs) {
      if (length < 14 + FCS) return false;
      length -= FCS;
      bad = !this.#fcsFits(length);
      // A frame with a wrong FCS goes no further than this device's own receiver.
      if (bad && !whole) return false;
    }
    if (length < 14) return false;
    const frame = batch.count++;
    const first = batch.segments.count;
    batch.firstSegment[frame] = first;
    clearRequest(batch, frame);
    const changes = packet.tagged || packet.legacyChecksum || packet.ipChecksum || packet.checksum;
    if (changes) length = this.#changed(batch, frame, length, whole);
    else this.#plain(batch, frame, length);
    if (packet.pads && packet.insertsFcs && length < SHORTEST_FRAME) {
      batch.segments.addHost(this.scratch, this.#zeros, SHORTEST_FRAME - length);
      length = SHORTEST_FRAME;
    }
    batch.segmentCount[frame] = batch.segments.count - first;
    batch.length[frame] = length;
    batch.needs[frame] = bad ? FRAME_MALFORMED : 0;
    return true;
  }

  #plain(batch: FrameBatch, frame: number, length: number): void {
    const { fragments, head, judged } = this.packet;
    const copied = Math.min(judged, length);
    if (copied > 0) {
      const at = (this.firstSlot + frame) * SLOT + ROOM;
      for (let i = 0; i < copied; i++) this.scratch.u8[at + i] = head[i] as number;
      batch.segments.addHost(this.scratch, at, copied);
    }
    batch.segments.addSlice(fragments, 0, copied, length - copied);
  }

  /** Copies the packet's first `length` bytes to `at` in the scratch. */
  #gather(at: number, length: number): void {
    const { fragments, head, judged } = this.packet;
    const { u8 } = this.scratch;
    gather(fragments, u8, at, length);
    for (let i = 0; i < judged && i < length; i++) u8[at + i] = head[i] as number;
  }

  #fcsFits(length: number): boolean {
    const { fragments } = this.packet;
    const crc = crcSegments(fragments, 0, length);
    for (let i = 0; i < FCS; i++) if (byteAt(fragments, length + i) !== ((crc >>> (8 * i)) & 0xff)) return false;
    return true;
  }

  /** A frame some of whose first bytes change. Returns its length. */
  #changed(batch: FrameBatch, frame: number, length: number, whole: boolean): number {
    const { packet, context, scratch } = this;
    const slot = (this.firstSlot + frame) * SLOT;
    const at = slot + ROOM;
    const copied = Math.min(length, COPIED);
    this.#gather(at, copied);
    const shift = packet.tagged ? TAG : 0;
    if (packet.ipChecksum) this.#fill(at, length, context.ipStart, context.ipOffset, context.ipEnd, OPTIONS.none);
    const start = packet.legacyChecksum ? packet.legacyStart : context.start;
    const offset = packet.legacyChecksum ? packet.legacyOffset : context.offset;
    const end = packet.legacyChecksum ? 0 : context.end;
    if (packet.checksum && context.sctp) this.#sctp(at, length);
    else if (packet.legacyChecksum || packet.checksum) {
      const udp = !packet.legacyChecksum && !context.tcp;
      const toEnd = end === 0 || end >= length - 1;
      if (toEnd && !whole && offset > start && offset + 2 <= length && (offset - start === 6) === udp) {
        batch.flags[frame] = FRAME_NEEDS_CSUM;
        batch.csumStart[frame] = start + shift;
        batch.csumOffset[frame] = offset - start;
      } else this.#fill(at, length, start, offset, end, udp ? OPTIONS.udp : OPTIONS.none);
    }
    const begin = packet.tagged ? this.#tag(at) : at;
    batch.segments.addHost(scratch, begin, copied + shift);
    batch.segments.addSlice(packet.fragments, 0, copied, length - copied);
    return length + shift;
  }

  /** Sums bytes `start` to `end` (0: the last) of the frame and stores the result at `offset`. 8254x 3.3.3: a place outside the frame is the driver's mistake, and nothing is inserted. */
  #fill(at: number, length: number, start: number, offset: number, end: number, options: { readonly zeroIsNone: boolean }): void {
    const last = end === 0 || end >= length ? length - 1 : end;
    if (start > last || offset + 2 > Math.min(length, COPIED)) return;
    const near = Math.min(last + 1, COPIED) - start;
    let sum = near > 0 ? sumBytes(this.scratch, at + start, near) : 0;
    const far = Math.max(start, COPIED);
    if (last >= far) {
      const rest = sumSegments(this.packet.fragments, 0, far, last + 1 - far);
      sum = fold(sum + (((far - start) & 1) === 0 ? rest : swap16(rest)));
    }
    storeChecksum(this.scratch.u8, at + offset, sum, options);
  }

  /** The CRC-32c of an SCTP packet (82576 7.2.5.3): whole, or not at all where the packet is shorter than its header (CVE-2024-3567). */
  #sctp(at: number, length: number): void {
    const { start } = this.context;
    if (start + SCTP_HEADER > Math.min(length, COPIED)) return;
    const { u8 } = this.scratch;
    const near = Math.min(length, COPIED);
    const place = at + start + SCTP_CHECKSUM;
    u8.fill(0, place, place + 4);
    const begun = crc32c(u8, at + start, near - start);
    const crc = crcSegments(this.packet.fragments, 0, length - near, { from: near, crc: begun, over: crc32c });
    for (let i = 0; i < 4; i++) u8[place + i] = crc >>> (8 * i);
  }

  /** Puts a tag in front of byte `tagPlace` of the frame at `at`; returns where the frame starts now (8254x 9.2.1). */
  #tag(at: number): number {
    const { u8 } = this.scratch;
    const { tag, tagPlace } = this.packet;
    const begin = at - TAG;
    u8.copyWithin(begin, at, at + tagPlace);
    write16(u8, begin + tagPlace, this.tagType);
    write16(u8, begin + tagPlace + 2, tag);
    return begin;
  }

  /** Appends pieces of a segmented packet from `done` on, as many as the batch holds; returns how many it has in all by then. */
  cut(batch: FrameBatch, done: number, frames: number): number {
    const { packet, context, scratch } = this;
    const { fragments } = packet;
    const { headerLength, segmentSize } = context;
    const total = this.pieces;
    const shift = packet.tagged ? TAG : 0;
    let n = done;
    for (; n < total && batch.count < frames && batch.segments.count + fragments.count + 2 <= batch.segments.capacity; n++) {
      const from = headerLength + n * segmentSize;
      const size = Math.min(segmentSize, packet.length - from);
      const frame = batch.count++;
      const first = batch.segments.count;
      batch.firstSegment[frame] = first;
      clearRequest(batch, frame);
      const at = (this.firstSlot + frame) * SLOT + ROOM;
      this.#gather(at, headerLength);
      makeSegmentHeader(scratch, at, context, n, total, size);
      this.#pieceChecksums(at, from, size);
      const begin = packet.tagged ? this.#tag(at) : at;
      batch.segments.addHost(scratch, begin, headerLength + shift);
      batch.segments.addSlice(fragments, 0, from, size);
      let length = headerLength + shift + size;
      if (packet.pads && length < SHORTEST_FRAME) {
        batch.segments.addHost(scratch, this.#zeros, SHORTEST_FRAME - length);
        length = SHORTEST_FRAME;
      }
      batch.segmentCount[frame] = batch.segments.count - first;
      batch.length[frame] = length;
      batch.needs[frame] = 0;
    }
    return n;
  }

  /** The checksums of one piece. Its TCP or UDP field holds the pseudo header's sum without the length, which differs from piece to piece (8254x 3.5.6). */
  #pieceChecksums(at: number, from: number, size: number): void {
    const { packet, context, scratch } = this;
    const { headerLength } = context;
    if (packet.ipChecksum && context.ipOffset + 2 <= headerLength && context.ipStart < headerLength) {
      const last = context.ipEnd === 0 || context.ipEnd >= headerLength ? headerLength - 1 : context.ipEnd;
      const sum = sumBytes(scratch, at + context.ipStart, last + 1 - context.ipStart);
      storeChecksum(scratch.u8, at + context.ipOffset, sum, OPTIONS.none);
    }
    if (!packet.checksum || context.offset + 2 > headerLength || context.start >= headerLength) return;
    const near = headerLength - context.start;
    const rest = sumSegments(packet.fragments, 0, from, size);
    const sum = sumBytes(scratch, at + context.start, near) + ((near & 1) === 0 ? rest : swap16(rest)) + swap16(near + size);
    storeChecksum(scratch.u8, at + context.offset, sum, context.tcp ? OPTIONS.none : OPTIONS.udp);
  }

  /**
   * Appends a segmented packet whole, as a request to cut it that receivers may take as it is: only if its headers are what the context says they are. False: cut it here.
   */
  large(batch: FrameBatch): boolean {
    const { packet, context, scratch } = this;
    const headers = this.#headers;
    const { headerLength } = context;
    const frame = batch.count;
    const at = (this.firstSlot + frame) * SLOT + ROOM;
    const { u8 } = scratch;
    const { pieces } = this;
    // More pieces than a segment deals with in one frame would be dropped there: this transmitter has no such limit.
    if (!packet.checksum || pieces < 2 || pieces > MAXIMUM_GSO_SEGMENTS) return false;
    const ordinary = ((context.firstFlags | context.middleFlags) & TCP_FIN_PSH) === 0 && (context.lastFlags & TCP_FIN_PSH) === TCP_FIN_PSH;
    if (!ordinary && context.tcp) return false;
    this.#gather(at, headerLength);
    if (!parseHeaders(this.#slots[this.firstSlot + frame] as Uint8Array, headerLength, headers)) return false;
    const { version, network, transport, protocol } = headers;
    const field = context.tcp ? 16 : 6;
    const regular =
      headers.payload === headerLength &&
      !headers.fragment &&
      !headers.routed &&
      headers.vlan < 0 &&
      protocol === (context.tcp ? PROTOCOL_TCP : PROTOCOL_UDP) &&
      version === (context.ipv4 ? 4 : 6) &&
      context.ipStart === network &&
      context.start === transport &&
      context.offset === transport + field &&
      (version === 6 || (packet.ipChecksum && context.ipOffset === network + 10)) &&
      packet.length - network <= LONGEST_IP;
    if (!regular) return false;
    const octets = packet.length - transport;
    if (version === 4) {
      write16(u8, at + network + 2, packet.length - network);
      storeSum(u8, at + network + 10, 0);
      storeChecksum(u8, at + network + 10, sumBytes(scratch, at + network, transport - network), OPTIONS.none);
    } else write16(u8, at + network + 4, packet.length - network - 40);
    if (!context.tcp) write16(u8, at + transport + 4, octets);
    storeSum(u8, at + context.offset, fold(pseudoHeaderSum(scratch, at + network, version, protocol) + swap16(octets & 0xffff)));
    const shift = packet.tagged ? TAG : 0;
    const begin = packet.tagged ? this.#tag(at) : at;
    batch.count++;
    const first = batch.segments.count;
    batch.firstSegment[frame] = first;
    batch.segments.addHost(scratch, begin, headerLength + shift);
    batch.segments.addSlice(packet.fragments, 0, headerLength, packet.length - headerLength);
    batch.segmentCount[frame] = batch.segments.count - first;
    batch.length[frame] = packet.length + shift;
    batch.flags[frame] = FRAME_NEEDS_CSUM;
    batch.gsoType[frame] = !context.tcp ? GSO_UDP_L4 : version === 4 ? GSO_TCPV4 : GSO_TCPV6;
    // Congestion Window Reduced is of the first segment only.
    if (context.tcp && (context.middleFlags & TCP_CWR) === 0 && ((u8[begin + shift + transport + 13] as number) & TCP_CWR) !== 0)
      batch.gsoType[frame] = (batch.gsoType[frame] as number) | GSO_ECN;
    batch.gsoSize[frame] = context.segmentSize;
    batch.headerLength[frame] = headerLength + shift;
    batch.csumStart[frame] = transport + shift;
    batch.csumOffset[frame] = field;
    batch.hashReport[frame] = 0;
    batch.needs[frame] = 0;
    return true;
  }
}

function clearRequest(batch: FrameBatch, frame: number): void {
  batch.flags[frame] = 0;
  batch.gsoType[frame] = 0;
  batch.gsoSize[frame] = 0;
  batch.headerLength[frame] = 0;
  batch.csumStart[frame] = 0;
  batch.csumOffset[frame] = 0;
  batch.hashReport[frame] = 0;
}

/** Copies the first `length` bytes of the fragments. */
function gather(fragments: SegmentList, into: Uint8Array, at: number, length: number): void {
  let done = 0;
  for (let s = 0; s < fragments.count && done < length; s++) {
    const { u8 } = fragments.views[s] as ByteViews;
    const from = fragments.offset[s] as number;
    const run = Math.min(fragments.length[s] as number, length - done);
    for (let i = 0; i < run; i++) into[at + done + i] = u8[from + i] as number;
    done += run;
  }
}

function byteAt(fragments: SegmentList, position: number): number {
  let ahead = position;
  for (let s = 0; s < fragments.count; s++) {
    const length = fragments.length[s] as number;
    if (ahead < length) return (fragments.views[s] as ByteViews).u8[(fragments.offset[s] as number) + ahead] as number;
    ahead -= length;
  }
  return -1;
}
