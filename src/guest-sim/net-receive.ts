// A virtio-net receive queue (virtio 1.4 5.1.9.3, 5.1.9.4): stocked with mergeable or big buffers once, which then go round without any allocation.
// What arrives is described by one reused `ReceivedFrame`; a length or header that cannot be true breaks the queue or drops the frame.

import type { ByteViews } from '#core/guest-memory';
import type { GuestArena } from './arena.ts';
import type { DriverRing } from './ring.ts';
import {
  NET_GSO_ECN,
  NET_GSO_NONE,
  NET_GSO_UDP,
  NET_GSO_UDP_TUNNEL_IPV4,
  NET_GSO_UDP_TUNNEL_IPV6,
  NET_HASH_REPORT_NONE,
  NET_HDR_F_DATA_VALID,
  NET_HDR_F_NEEDS_CSUM,
  NET_HDR_F_RSC_INFO,
  NET_HDR_F_UDP_TUNNEL_CSUM,
  NET_HEADER_SIZE,
} from './virtio-constants.ts';
import type { QueueKick } from './virtio-pci.ts';

/** What the device said about a frame's transport checksum. */
export const CHECKSUM_UNKNOWN = 0;
/** The device vouches for it. */
export const CHECKSUM_VALID = 1;
/** Not filled in yet: it covers csumStart to the end and belongs at csumStart + csumOffset. With csumStart 0 (RSC_INFO) only the frame's headers tell where. */
export const CHECKSUM_PARTIAL = 2;

/** One frame as it lies in receive buffers: valid during the call that hands it over. */
export class ReceivedFrame {
  readonly views: ByteViews;
  /** Ethernet header to payload. */
  length = 0;
  /** Pieces, in order: offsets into `views` and their lengths. */
  segmentCount = 0;
  readonly offsets: Int32Array;
  readonly lengths: Int32Array;
  checksum = CHECKSUM_UNKNOWN;
  csumStart = 0;
  csumOffset = 0;
  /** NET_GSO_* without the ECN and tunnel bits; a segmentation-offload frame is one frame here, whatever its length. */
  gsoType = NET_GSO_NONE;
  gsoEcn = false;
  gsoSize = 0;
  headerLength = 0;
  /** A segmentation-offload frame inside a UDP tunnel: the inner packet's IP version, else 0. Then both offsets count, from the frame's start. */
  tunnel: 0 | 4 | 6 = 0;
  outerTransport = 0;
  innerNetwork = 0;
  /** The device vouches for the outer UDP checksum as well, which holds the pseudo header's sum in a tunnel frame to be cut. */
  tunnelChecksum = false;
  /** The hash the device computed and its kind (NET_HASH_TYPE's bit number plus 1); 0 and 0 where it computed none or HASH_REPORT was not negotiated. */
  hashValue = 0;
  hashReport: number = NET_HASH_REPORT_NONE;
  /** TCP segments the device merged into this frame and acknowledgements it left out (RSC_EXT); 0 for others. */
  coalescedSegments = 0;
  duplicateAcks = 0;
  queue = 0;

  constructor(views: ByteViews, segments: number) {
    this.views = views;
    this.offsets = new Int32Array(segments);
    this.lengths = new Int32Array(segments);
  }

  /** Byte `at` of the frame; at must lie within it. */
  byte(at: number): number {
    for (let i = 0; i < this.segmentCount; i++) {
      const length = this.lengths[i] as number;
      if (at < length) return this.views.u8[(this.offsets[i] as number) + at] as number;
      at -= length;
    }
    return 0;
  }
}

export interface FrameSink {
  /** Called for each frame, in order; copies out what it wants to keep. */
  receive(frame: ReceivedFrame): void;
  /** Asked before each frame, where there is such a thing as no room. False: not now; a virtio-net's driver keeps it, and all behind it, for the next poll. */
  takes?(frame: ReceivedFrame): boolean;
}

export interface ReceiveQueueOptions {
  readonly arena: GuestArena;
  readonly ring: DriverRing;
  readonly index: number;
  readonly mergeable: boolean;
  readonly bufferSize: number;
  /** Big buffers are posted as lists of pieces this long (the whole buffer in one piece when it is no shorter). */
  readonly pieceSize: number;
  readonly buffers: number;
  /** gsoType values the driver accepted, as a bit set, and GUEST_CSUM, GUEST_ECN. */
  readonly gsoTypes: number;
  readonly checksum: boolean;
  readonly ecn: boolean;
  /** Bytes of the header before each frame (default 12), and which of its parts that not every device has were negotiated (default: none). */
  readonly headerSize?: number;
  readonly hashReport?: boolean;
  readonly tunnels?: boolean;
  readonly tunnelChecksum?: boolean;
  readonly coalescing?: boolean;
  /** Only without `mergeable`: the header in a descriptor of its own, as the legacy interface may want it. */
  readonly separateHeader?: boolean;
}

const HARVEST = 64;
const BOTH_TUNNELS = NET_GSO_UDP_TUNNEL_IPV4 | NET_GSO_UDP_TUNNEL_IPV6;
const BASE_TYPE = 0xff & ~(BOTH_TUNNELS | NET_GSO_ECN);
/** The largest hash_report the specification defines. */
const LAST_REPORT = 9;

export class ReceiveQueue {
  readonly ring: DriverRing;
  readonly index: number;
  readonly frame: ReceivedFrame;
  kick: QueueKick | undefined;
  frames = 0;
  bytes = 0;
  /** Frames whose header could not be true: dropped. */
  malformed = 0;
  /** Why this queue stopped believing its device; '' while it does. */
  broken = '';
  /** The device is suspended: buffers go back to it only later. */
  held = false;
  /** The sink would not take the oldest frame: it comes first in the next poll. */
  refused = false;
  readonly #arena: GuestArena;
  readonly #options: ReceiveQueueOptions;
  readonly #start: number;
  readonly #stride: number;
  readonly #tokens: Int32Array;
  readonly #lengths: Int32Array;
  /** Used buffers taken off the ring whose frames wait: from here, up to there. */
  #next = 0;
  #harvested = 0;
  readonly #pieceOffsets: Int32Array;
  readonly #pieceLengths: Int32Array;
  readonly #pieces: number;
  readonly #headerSize: number;
  /** Bytes left free before each header, so that frames are aligned behind a header of 10 bytes too. */
  readonly #lead: number;

  constructor(options: ReceiveQueueOptions) {
    const { arena, ring, bufferSize } = options;
    this.ring = ring;
    this.index = options.index;
    this.#arena = arena;
    this.#options = options;
    this.#headerSize = options.headerSize ?? NET_HEADER_SIZE;
    this.#stride = Math.ceil(bufferSize / 64) * 64;
    this.#lead = this.#headerSize & 2;
    this.#start = arena.allocate(this.#stride * options.buffers + 64, 64) + this.#lead;
    this.frame = new ReceivedFrame(arena.views, options.mergeable ? ring.size : 1);
    this.frame.queue = options.index;
    this.#tokens = new Int32Array(HARVEST + ring.size);
    this.#lengths = new Int32Array(HARVEST + ring.size);
    this.#pieces = options.mergeable ? 1 : Math.ceil(bufferSize / options.pieceSize);
    if (options.separateHeader) this.#pieces = 1 + Math.ceil((bufferSize - this.#headerSize) / options.pieceSize);
    this.#pieceOffsets = new Int32Array(this.#pieces);
    this.#pieceLengths = new Int32Array(this.#pieces);
  }

  /** Posts every buffer; `flush` shows them to the device. Buffers that do not fit the ring are left out. */
  stock(): void {
    for (let i = 0; i < this.#options.buffers; i++) if (!this.#post(i)) break;
  }

  #post(buffer: number): boolean {
    const offset = this.#start + buffer * this.#stride;
    if (this.#pieces === 1) return this.ring.addOne(offset, this.#options.bufferSize, true, buffer);
    const end = offset + this.#options.bufferSize;
    let at = offset;
    for (let i = 0; i < this.#pieces; i++) {
      const most = i === 0 && this.#options.separateHeader ? this.#headerSize : this.#options.pieceSize;
      const length = end - at < most ? end - at : most;
      this.#pieceOffsets[i] = at;
      this.#pieceLengths[i] = length;
      at += length;
    }
    return this.ring.addList(this.#pieceOffsets, this.#pieceLengths, 0, this.#pieces, buffer);
  }

  /** Hands up to `budget` frames to `sink`, gives their buffers back to the device and kicks it if it asked for that. Returns the frames dealt with. */
  poll(budget: number, sink: FrameSink): number {
    let taken = 0;
    this.refused = false;
    while (taken < budget && this.broken === '' && !this.refused) {
      if (this.#next === this.#harvested) {
        const want = budget - taken;
        this.#next = 0;
        this.#harvested = this.ring.harvest(this.#tokens, this.#lengths, want < HARVEST ? want : HARVEST);
        if (this.#harvested === 0) break;
      }
      taken += this.#hand(budget - taken, sink);
    }
    if (this.ring.broken !== '' && this.broken === '') this.#break(this.ring.broken);
    this.flush();
    return taken;
  }

  /** Frames of the buffers at hand. */
  #hand(most: number, sink: FrameSink): number {
    let taken = 0;
    let i = this.#next;
    for (; i < this.#harvested && taken < most; taken++) {
      let count = 1;
      const header = this.#start + (this.#tokens[i] as number) * this.#stride;
      if ((this.#lengths[i] as number) < this.#headerSize) {
        this.#break(`a receive buffer came back with ${this.#lengths[i]} bytes, less than a header`);
        break;
      }
      if (this.#options.mergeable) {
        count = this.#arena.u16[(header + 10) >>> 1] as number;
        if (count === 0 || count > this.ring.size) {
          this.#break(`num_buffers ${count} with a ring of ${this.ring.size}`);
          break;
        }
        // The rest of a merged frame may lie beyond this harvest, but the device used all of it at once (virtio 1.4 2.8.16, 5.1.9.4).
        const missing = i + count - this.#harvested;
        if (missing > 0) this.#harvested += this.ring.harvest(this.#tokens, this.#lengths, missing, this.#harvested);
        if (i + count > this.#harvested) {
          this.#break(`a frame of ${count} buffers came with only ${this.#harvested - i} of them used`);
          break;
        }
      }
      if (this.#describe(header, i, count)) {
        if (sink.takes?.(this.frame) === false) {
          this.refused = true;
          break;
        }
        this.frames++;
        this.bytes += this.frame.length;
        sink.receive(this.frame);
      } else this.malformed++;
      for (const end = i + count; i < end; i++) this.#post(this.#tokens[i] as number);
    }
    this.#next = i;
    return taken;
  }

  /** Publishes reposted buffers and kicks if the device asked to be told. */
  flush(): void {
    if (!this.held && this.ring.publish()) this.kick?.ring(this.ring.notificationData);
  }

  /** Fills `frame` from used buffers i .. i + count - 1. False when the header cannot be true for these bytes. */
  #describe(header: number, i: number, count: number): boolean {
    const { frame } = this;
    const u32 = this.#arena.u32;
    const at = header >>> 2;
    let word0 = u32[at] as number;
    let word1 = u32[at + 1] as number;
    let word2 = u32[at + 2] as number;
    if (this.#lead !== 0) {
      // The header begins in the middle of a word.
      word0 = ((word0 >>> 16) | (word1 << 16)) >>> 0;
      word1 = ((word1 >>> 16) | (word2 << 16)) >>> 0;
      word2 = word2 >>> 16;
    }
    const headerSize = this.#headerSize;
    frame.offsets[0] = header + headerSize;
    let length = (this.#lengths[i] as number) - headerSize;
    frame.lengths[0] = length;
    for (let k = 1; k < count; k++) {
      frame.offsets[k] = this.#start + (this.#tokens[i + k] as number) * this.#stride;
      const more = this.#lengths[i + k] as number;
      frame.lengths[k] = more;
      length += more;
    }
    frame.segmentCount = count;
    frame.length = length;
    const flags = word0 & 0xff;
    const gso = (word0 >>> 8) & 0xff;
    frame.headerLength = word0 >>> 16; // a hint, used by nobody who would mind a wrong one
    frame.gsoSize = word1 & 0xffff;
    frame.gsoType = gso & BASE_TYPE;
    frame.gsoEcn = (gso & NET_GSO_ECN) !== 0;
    if (headerSize > NET_HEADER_SIZE) this.#describeHash(at);
    if (length < 14) return false;
    const options = this.#options;
    frame.coalescedSegments = 0;
    frame.duplicateAcks = 0;
    // virtio 1.4 5.1.9.4.2 (driver MUST): unknown flags ignored; csum fields only with NEEDS_CSUM and without RSC_INFO.
    if ((flags & (NET_HDR_F_NEEDS_CSUM | NET_HDR_F_RSC_INFO)) === NET_HDR_F_NEEDS_CSUM) {
      frame.csumStart = word1 >>> 16;
      frame.csumOffset = word2 & 0xffff;
      if (!options.checksum || frame.csumStart + frame.csumOffset + 2 > length) return false;
      frame.checksum = CHECKSUM_PARTIAL;
    } else {
      frame.checksum = (flags & NET_HDR_F_DATA_VALID) !== 0 && options.checksum ? CHECKSUM_VALID : CHECKSUM_UNKNOWN;
      if ((flags & NET_HDR_F_RSC_INFO) !== 0 && options.coalescing) {
        frame.coalescedSegments = word1 >>> 16;
        frame.duplicateAcks = word2 & 0xffff;
        if ((flags & NET_HDR_F_NEEDS_CSUM) !== 0 && options.checksum) {
          frame.csumStart = 0;
          frame.csumOffset = 0;
          frame.checksum = CHECKSUM_PARTIAL;
        }
      }
    }
    frame.tunnelChecksum = options.tunnelChecksum === true && (flags & NET_HDR_F_UDP_TUNNEL_CSUM) !== 0;
    frame.tunnel = 0;
    if ((gso & BOTH_TUNNELS) !== 0) {
      if (!this.#describeTunnel(at, flags, gso, length)) return false;
    } else if (frame.tunnelChecksum && (flags & NET_HDR_F_NEEDS_CSUM) !== 0) return false;
    if (gso === NET_GSO_NONE) return true;
    return frame.gsoSize !== 0 && (!frame.gsoEcn || options.ecn) && ((options.gsoTypes >>> frame.gsoType) & 1) === 1;
  }

  #describeHash(at: number): void {
    const { frame } = this;
    const report = this.#options.hashReport ? (this.#arena.u32[at + 4] as number) & 0xffff : NET_HASH_REPORT_NONE;
    const known = report <= LAST_REPORT;
    frame.hashReport = known ? report : NET_HASH_REPORT_NONE;
    frame.hashValue = known && report !== NET_HASH_REPORT_NONE ? (this.#arena.u32[at + 3] as number) : 0;
  }

  /** virtio 1.4 5.1.9.4.2 (driver MUST NOT accept): both tunnel bits, one without NEEDS_CSUM or with DATA_VALID, one over nothing to cut. */
  #describeTunnel(at: number, flags: number, gso: number, length: number): boolean {
    const { frame } = this;
    const bits = gso & BOTH_TUNNELS;
    if (!this.#options.tunnels || bits === BOTH_TUNNELS || frame.gsoType === NET_GSO_NONE || frame.gsoType === NET_GSO_UDP) return false;
    if ((flags & (NET_HDR_F_NEEDS_CSUM | NET_HDR_F_DATA_VALID | NET_HDR_F_RSC_INFO)) !== NET_HDR_F_NEEDS_CSUM) return false;
    const offsets = this.#arena.u32[at + 5] as number;
    frame.tunnel = bits === NET_GSO_UDP_TUNNEL_IPV4 ? 4 : 6;
    frame.outerTransport = offsets & 0xffff;
    frame.innerNetwork = offsets >>> 16;
    // An outer UDP header, an inner IP header, and the inner transport header that csum_start is about, in that order.
    return (
      frame.outerTransport >= 34 && frame.innerNetwork >= frame.outerTransport + 8 && frame.csumStart >= frame.innerNetwork + 20 && frame.csumStart < length
    );
  }

  #break(why: string): void {
    this.broken = `receive queue ${this.index}: ${why}`;
  }

  /** Frees buffers and ring. Only after the device or the queue was reset. */
  dispose(): void {
    this.ring.dispose();
    this.#arena.free(this.#start - this.#lead);
  }
}
