// Frames in batches, and the ports they pass between: virtio rings, switch ports, capture files, TAP devices. A frame is not an object: it is an
// index into a batch's parallel arrays, its bytes a run of segments that point at where they already lie (guest memory, a file's buffer).

import type { Nanos, TimeSource } from '#core/clock';
import type { Doorbell } from '#core/doorbell';
import type { ByteViews } from '#core/guest-memory';
import { SegmentList } from '#core/segments';
import type { PortCounters } from './counters.ts';

/** gsoType (virtio 1.4 5.1.9, gso_type). */
export const GSO_NONE = 0;
export const GSO_TCPV4 = 1;
export const GSO_UDP = 3;
export const GSO_TCPV6 = 4;
export const GSO_UDP_L4 = 5;
/** Inside a UDP tunnel, over IPv4 or IPv6 there (bits beside one of the above). */
export const GSO_UDP_TUNNEL_IPV4 = 0x20;
export const GSO_UDP_TUNNEL_IPV6 = 0x40;
export const GSO_UDP_TUNNEL = GSO_UDP_TUNNEL_IPV4 | GSO_UDP_TUNNEL_IPV6;
export const GSO_ECN = 0x80;

/** Per-frame offload state, with virtio's names and encoding (virtio 1.4 5.1.9): both what a sender asks and what a receiver is told. */
export const FRAME_NEEDS_CSUM = 1;
export const FRAME_DATA_VALID = 2;
/** Made of several TCP segments by who delivers it (receive-coalescing.ts): csumStart and csumOffset count segments and duplicate acknowledgements. */
export const FRAME_RSC_INFO = 4;
/** The outer UDP checksum of a tunnel GSO frame is still to be filled in as well. */
export const FRAME_UDP_TUNNEL_CSUM = 8;

/** `FrameBatch.sentAs`: dropped on the way, and because it asked for nonsense. */
export const NOT_SENT = 0xffff;
export const NOT_SENT_MALFORMED = 0xfffe;

export class FrameBatch {
  readonly capacity: number;
  count = 0;
  readonly segments: SegmentList;
  /** Segment run of each frame. */
  readonly firstSegment: Int32Array;
  readonly segmentCount: Int32Array;
  /** Frame bytes, Ethernet header to payload, without FCS. */
  readonly length: Int32Array;
  readonly flags: Uint8Array;
  /** VIRTIO_NET_HDR_GSO_* value; 0 none. */
  readonly gsoType: Uint8Array;
  readonly headerLength: Uint16Array;
  readonly gsoSize: Uint16Array;
  readonly csumStart: Uint16Array;
  readonly csumOffset: Uint16Array;
  /** Of a tunnel GSO frame: where the outer UDP header and the inner IP header start. */
  readonly outerTransport: Uint16Array;
  readonly innerNetwork: Uint16Array;
  /** Receive hash, a 32-bit pattern, and its HASH_REPORT_* type (hash-types.ts), of the parameters that `hashedBy` stands for (hash-identity.ts). */
  readonly hash: Int32Array;
  readonly hashReport: Uint8Array;
  /** 0: the hash is not known. So it is for every frame that is appended, unless the source says otherwise. */
  readonly hashedBy: Int32Array;
  /** What the source needs to complete the frame (a ring token); the same when a frame that was given back is collected again. */
  readonly token: Int32Array;
  /** ACCEPTS_* bits a receiver must have to take the frame as it is; FRAME_MALFORMED when its offload request makes no sense. Set by the segment. */
  readonly needs: Uint16Array;
  /** While `judged`: as how many frames, of how many bytes, it was sent on; 0: as it is; NOT_SENT*. For the source's counters; set by the segment through `judge`. */
  readonly sentAs: Uint16Array;
  readonly sentBytes: Int32Array;
  judged = false;

  constructor(filler: ByteViews, capacity = 256, segmentCapacity = 4096) {
    this.capacity = capacity;
    this.segments = new SegmentList(segmentCapacity, filler);
    this.firstSegment = new Int32Array(capacity);
    this.segmentCount = new Int32Array(capacity);
    this.length = new Int32Array(capacity);
    this.flags = new Uint8Array(capacity);
    this.gsoType = new Uint8Array(capacity);
    this.headerLength = new Uint16Array(capacity);
    this.gsoSize = new Uint16Array(capacity);
    this.csumStart = new Uint16Array(capacity);
    this.csumOffset = new Uint16Array(capacity);
    this.outerTransport = new Uint16Array(capacity);
    this.innerNetwork = new Uint16Array(capacity);
    this.sentAs = new Uint16Array(capacity);
    this.sentBytes = new Int32Array(capacity);
    this.hash = new Int32Array(capacity);
    this.hashReport = new Uint8Array(capacity);
    this.hashedBy = new Int32Array(capacity);
    this.token = new Int32Array(capacity);
    this.needs = new Uint16Array(capacity);
  }

  clear(): void {
    this.hashedBy.fill(0, 0, this.count);
    this.count = 0;
    this.segments.truncate(0);
    this.judged = false;
  }

  /** What became of a frame, where that is not simply that it was sent. */
  judge(frame: number, sentAs: number, bytes: number): void {
    if (!this.judged) this.sentAs.fill(0);
    this.judged = true;
    this.sentAs[frame] = sentAs;
    this.sentBytes[frame] = bytes;
  }
}

/** Offloads a port's receiver takes as they are; what it does not take is done in software before delivery. Bits. */
export const ACCEPTS_CSUM = 1; // frames whose checksum is still to be filled in (NEEDS_CSUM)
export const ACCEPTS_TSO4 = 2;
export const ACCEPTS_TSO6 = 4;
export const ACCEPTS_ECN = 8;
export const ACCEPTS_USO4 = 16;
export const ACCEPTS_USO6 = 32;
export const ACCEPTS_UFO = 64;
export const ACCEPTS_UDP_TUNNEL = 128;
export const ACCEPTS_UDP_TUNNEL_CSUM = 256;
/** Wants TCP segments coalesced and told how many (RSC_EXT); no frame needs it. */
export const ACCEPTS_RSC = 512;
/** Whatever may be asked of anybody. */
export const ACCEPTS_EVERYTHING = 511;
/** In `FrameBatch.needs` only: no receiver takes it. */
export const FRAME_MALFORMED = 0x8000;

/**
 * One attachment to a segment (segment.ts): a virtio-net device's rings, a capture file, a TAP. All calls come from the one thread that serves the segment, inside
 * one turn: collect, deliver to others, flush them, complete. Nothing of a batch is kept between turns, so that memory may be remapped and a ring stopped there.
 * A frame is dealt with (delivered, or dropped and counted) or it stays at its source; it is never silently lost.
 */
export interface NetPort {
  readonly name: string;
  readonly linkUp: boolean;
  /** ACCEPTS_* bits. */
  readonly accepts: number;
  /** Frames, bytes and drops. The port counts what it collects, takes and drops itself; the segment counts the drops it decides on. */
  readonly counters: PortCounters;
  /**
   * Appends up to `frames` frames and about `bytes` bytes (at least one frame) this port wants sent; returns how many. Their bytes stay valid until `complete`, which
   * follows in the same turn whenever this returned more than 0. A port that was awaiting frames stops asking to be told.
   */
  collect(batch: FrameBatch, frames: number, bytes: number): number;
  /**
   * Ends the turn of a collected batch: its oldest `done` frames have been dealt with and their buffers go back, published and notified as one; the others
   * were refused by a full destination: they are taken back as if never collected and come first, in the same order, from the next collect. Called after the `flush` of
   * every port that took frames (also with 0); a ring port commits the turn here.
   */
  complete(batch: FrameBatch, done: number): void;
  /**
   * Offers batch[from] .. batch[to - 1], in order. Returns how many were dealt with (delivered, or dropped and counted here): the first ones; the others did not fit
   * now. What was delivered becomes visible to the receiver at `flush`. Offload requests (flags, gsoType, ...) have been checked and are within `accepts`.
   */
  deliver(batch: FrameBatch, from: number, to: number): number;
  /** Told to pause by its link partner: nothing is collected for a while, and what was given back still comes next. Absent: never. */
  readonly paused?: boolean;
  /** Publishes what was delivered: one index update, at most one notification. Called once a turn after the last deliver. */
  flush(): void;
  /** batch[from] .. batch[to - 1] were refused and dropped, and counted as that: for a port that counts by queue. */
  overrun?(batch: FrameBatch, from: number, to: number): void;
  /** After a refusal: true when room may have been made since (receive buffers were added, or delivering would now drop); whoever was refused tries again. Cheap: polled. */
  readonly hasRoom: boolean;
  /** Nothing to send: asks to be told (Segment.wake) when there is. Returns true when something slipped in meanwhile. */
  awaitFrames(): boolean;
  /** Refused frames: asks to be told (Segment.wake) when there is room. Returns true when room was made meanwhile. */
  awaitRoom(): boolean;
}

/** Whoever serves a segment, as the owner of a port on it needs it: a device that is itself a port (an Intel NIC) is handed one. On the thread that serves the segment. */
export interface PortHost {
  addPort(port: NetPort): void;
  removePort(port: NetPort): void;
  /** The port has frames to send, or room. Serves the segment if nobody does at the moment. */
  wake(port: NetPort): void;
}

/** A port whose memory is announced to be in use: who serves its segment opens and closes each of its turns. */
export interface TurnPort extends NetPort {
  /** From here to `leave` guest memory may be touched. */
  enter(): void;
  leave(): void;
  /** When a turn is due although nobody asked for one. Infinity: never. */
  readonly deadline: Nanos;
  /** Off the segment for good, between turns. */
  close(): void;
}

/** A device's port as another thread is to serve it: what that thread makes it from, and what happens here when the thread dies. */
export interface RemotePortSpec {
  readonly name: string;
  /** Which of the thread's openers (its entry module) makes it. */
  readonly kind: string;
  /** Structured-cloneable; shared memory goes by reference. */
  readonly share: unknown;
  readonly counters: PortCounters;
  /** The thread is dead: nobody serves the port now. Frees what it held and repairs what it left half done; before another one begins. */
  readonly recover: () => void;
  /** After `recover`. Unless `again`, nobody will serve it any more. */
  readonly lost: (reason: string, again: boolean) => void;
}

export interface RemotePort {
  /** Rung when the port has frames to send, or room. */
  readonly doorbell: Doorbell;
  close(): void;
}

/** A segment that another thread serves, as the owner of a port on it needs it. */
export interface RemotePortHost {
  openPort(spec: RemotePortSpec): RemotePort;
}

/** What an opener is given, on the thread that serves the port. */
export interface PortSite {
  readonly name: string;
  readonly counters: PortCounters;
  /** What `TurnPort.deadline` is told in. */
  readonly clock: TimeSource;
  /** The port has something to send of its own accord. */
  readonly wake: () => void;
  /** Makes the turn happen, in `complete`: what other ports took shows to their drivers. */
  readonly commit: () => void;
}

/** Makes ports out of shares, by kind. */
export type PortOpeners = Readonly<Record<string, (share: unknown, site: PortSite) => TurnPort>>;
