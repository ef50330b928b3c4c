// The usual frame on its way to receive descriptors (82576 7.1.5 to 7.1.11): without a tag, in one or two pieces, the first of which has all its headers; no IP, or IPv4 without options and fragments, TCP or UDP. What
// receive.ts does for any frame is done here less everything that such a frame cannot need, while the port looks for nothing special (filters, time stamps) and reports receive hashes. Whatever is doubtful is not usual.

import { copyBytes } from '#core/copy';
import type { Window } from '#core/dma-space';
import type { ByteViews } from '#core/guest-memory';
import { fold, sumBytes, sumSegments, swap16 } from '#net/checksum';
import { PROTOCOL_TCP, PROTOCOL_UDP } from '#net/headers';
import type { FrameBatch } from '#net/port';
import {
  ENABLE_IP,
  ENABLE_TRANSPORT,
  ERROR_IPE,
  ERROR_L4E,
  NFS_PORT,
  STATUS_IPCS,
  STATUS_L4CS,
  STATUS_UDPCS,
  TYPE_IPV4,
  TYPE_TCP,
  TYPE_UDP,
} from './packet-info.ts';
import type { ReceiveQueue } from './receive-queue.ts';
import { AT, CTRL_EXT_EXT_VLAN } from './registers.ts';

const { CTRL_EXT, FCT, RXCSUM, VET } = AT;

const SHORTEST = 60;
const PCSD = 1 << 13;
const ALL_ONES = 0xffff;
/** Ethertypes, version 4 with five words of header, more fragments or an offset; as a little-endian 16-bit load has them. */
const IPV4 = 0x0008;
const IPV6 = 0xdd86;
const VLAN = 0x0081;
const QINQ = 0xa888;
const PLAIN_IPV4 = 0x45;
const FRAGMENT = 0xff3f;
const NFS = swap16(NFS_PORT);
/** Places in a frame, in 16-bit words, and in octets. */
const TYPE = 6;
const IP = 7;
const TRANSPORT = 17;
const ETHERNET_OCTETS = 14;
const IP_OCTETS = 20;
const TCP_OCTETS = 20;
const UDP_OCTETS = 8;
const HEADERS = 54;

export class PlainReceive {
  /** What is the same for all frames allows for it. */
  usable = false;
  // Of the frame looked at last: where it begins, its packet type, checksum results, both as in an advanced descriptor.
  views: ByteViews | undefined;
  at = 0;
  type = 0;
  checks = 0;
  readonly #words: Uint32Array;
  // Types that are not usual, as loaded; RXCSUM.
  #tagType = 0;
  #outerType = 0;
  #controlType = 0;
  #control = 0;

  constructor(words: Uint32Array) {
    this.#words = words;
  }

  /** Registers were changed. @param filters by which frames are told apart */
  configure(filters: boolean): void {
    const words = this.#words;
    const types = words[VET] as number;
    this.#tagType = swap16(types & 0xffff);
    this.#outerType = ((words[CTRL_EXT] as number) & CTRL_EXT_EXT_VLAN) !== 0 ? swap16(types >>> 16) : this.#tagType;
    this.#controlType = swap16((words[FCT] as number) & 0xffff);
    this.#control = words[RXCSUM] as number;
    this.usable = !filters && (this.#control & PCSD) !== 0;
  }

  /** Whether the frame's header is of the usual kind. */
  takes(batch: FrameBatch, f: number): boolean {
    const { segments } = batch;
    const segment = batch.firstSegment[f] as number;
    const at = segments.offset[segment] as number;
    if ((batch.segmentCount[f] as number) > 2 || (segments.length[segment] as number) < HEADERS || (batch.length[f] as number) < SHORTEST || (at & 1) !== 0)
      return false;
    const views = segments.views[segment] as ByteViews;
    const type = views.u16[(at >>> 1) + TYPE] as number;
    this.views = views;
    this.at = at;
    return type !== this.#tagType && type !== this.#outerType && type !== this.#controlType;
  }

  /** Reads what a descriptor says of the frame that was looked at. False: it has headers that are not known here. */
  read(batch: FrameBatch, f: number): boolean {
    const { u16 } = this.views as ByteViews;
    const half = this.at >>> 1;
    const type = u16[half + TYPE] as number;
    this.type = 0;
    this.checks = 0;
    if (type !== IPV4) return type !== IPV6 && type !== VLAN && type !== QINQ;
    const ip = half + IP;
    const total = swap16(u16[ip + 1] as number);
    const fits = total >= IP_OCTETS + UDP_OCTETS && total <= (batch.length[f] as number) - ETHERNET_OCTETS;
    if (((u16[ip] as number) & 0xff) !== PLAIN_IPV4 || !fits || ((u16[ip + 3] as number) & FRAGMENT) !== 0) return false;
    const transport = half + TRANSPORT;
    if (u16[transport] === NFS || u16[transport + 1] === NFS) return false;
    const protocol = (u16[ip + 4] as number) >>> 8;
    if (protocol === PROTOCOL_TCP) {
      const octets = ((u16[transport + 6] as number) & 0xf0) >>> 2;
      if (
        octets < TCP_OCTETS ||
        octets > total - IP_OCTETS ||
        ETHERNET_OCTETS + IP_OCTETS + octets > (batch.segments.length[batch.firstSegment[f] as number] as number)
      )
        return false;
      this.type = TYPE_IPV4 | TYPE_TCP;
    } else if (protocol === PROTOCOL_UDP) this.type = TYPE_IPV4 | TYPE_UDP;
    else return false;
    this.#check(batch, f, protocol, total - IP_OCTETS);
    return true;
  }

  #check(batch: FrameBatch, f: number, protocol: number, octets: number): void {
    const views = this.views as ByteViews;
    const { u16 } = views;
    const ip = (this.at >>> 1) + IP;
    const addresses = (u16[ip + 6] as number) + (u16[ip + 7] as number) + (u16[ip + 8] as number) + (u16[ip + 9] as number);
    let checks = 0;
    if ((this.#control & ENABLE_IP) !== 0) {
      let header = addresses;
      for (let i = 0; i < 6; i++) header += u16[ip + i] as number;
      checks = STATUS_IPCS | (fold(header) === ALL_ONES ? 0 : ERROR_IPE);
    }
    const udp = protocol === PROTOCOL_UDP;
    // RFC 768: with a field of zero none was made.
    if ((this.#control & ENABLE_TRANSPORT) !== 0 && !(udp && u16[(this.at >>> 1) + TRANSPORT + 3] === 0)) {
      const from = ETHERNET_OCTETS + IP_OCTETS;
      const whole = batch.segmentCount[f] === 1;
      const sum = whole ? sumBytes(views, this.at + from, octets) : sumSegments(batch.segments, batch.firstSegment[f] as number, from, octets);
      const good = fold(sum + addresses + (protocol << 8) + swap16(octets)) === ALL_ONES;
      checks |= STATUS_L4CS | (udp ? STATUS_UDPCS : 0) | (good ? 0 : ERROR_L4E);
    }
    this.checks = checks;
  }

  /** Stores the frame in the buffer that was found for it. */
  store(queue: ReceiveQueue, batch: FrameBatch, f: number): void {
    const window = queue.buffer as Window;
    const { segments } = batch;
    const { dma } = queue;
    const address = queue.address[0] as number;
    const length = batch.length[f] as number;
    const first = batch.firstSegment[f] as number;
    const near = segments.length[first] as number;
    const to = window.slab.views;
    const target = address + window.bias;
    copyBytes(to, target, this.views as ByteViews, this.at, near);
    if (near < length) copyBytes(to, target + near, segments.views[first + 1] as ByteViews, segments.offset[first + 1] as number, length - near);
    dma.markDirty(window, address, length);
  }
}
