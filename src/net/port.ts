// Frames in batches, and the ports they pass between: virtio rings, switch ports, capture files, TAP devices. A frame is not an object: it is an
// index into a batch's parallel arrays, its bytes a run of segments that point at where they already lie (guest memory, a file's buffer).

import type { ByteViews } from '#core/guest-memory';
import { SegmentList } from '#core/segments';

/** Per-frame offload state, with virtio's names and encoding (virtio 1.4 5.1.6): both what a sender asks and what a receiver is told. */
export const FRAME_NEEDS_CSUM = 1;
export const FRAME_DATA_VALID = 2;
export const FRAME_RSC_INFO = 4;

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
  /** RSS hash and its VIRTIO_NET_HASH_REPORT_* type; 0: not computed. */
  readonly hash: Uint32Array;
  readonly hashReport: Uint8Array;
  /** What the source needs to complete the frame (a ring token). */
  readonly token: Int32Array;

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
    this.hash = new Uint32Array(capacity);
    this.hashReport = new Uint8Array(capacity);
    this.token = new Int32Array(capacity);
  }

  clear(): void {
    this.count = 0;
    this.segments.truncate(0);
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

/** Why frames were dropped; each port counts them apart. */
export const DROP_REASONS = ['link-down', 'not-ready', 'filtered', 'too-long', 'malformed', 'ring-full', 'broken'] as const;
export type DropReason = (typeof DROP_REASONS)[number];

/**
 * One attachment to a link or switch. All calls come from the one thread that serves the link. A refused frame is held by its source and
 * offered again, never silently lost; a drop is counted with its reason.
 */
export interface NetPort {
  readonly name: string;
  readonly linkUp: boolean;
  /** ACCEPTS_* bits. */
  readonly accepts: number;
  /**
   * Offers frames batch[list[from]] .. batch[list[to - 1]], in order. Returns how many were dealt with (delivered, or dropped and counted); the others did not
   * fit now. What was delivered becomes visible to the receiver at `flush`.
   */
  deliver(batch: FrameBatch, list: Int32Array, from: number, to: number): number;
  /** Publishes what was delivered: one index update, at most one notification. */
  flush(): void;
  /**
   * Appends up to `frames` frames and about `bytes` bytes this port wants sent; returns how many. Their bytes stay valid until `complete`. One collect, one
   * complete, in one turn: a segment keeps no frame across turns, so that memory can be unmapped, a ring stopped and a thread lost between any two.
   */
  collect(batch: FrameBatch, frames: number, bytes: number): number;
  /**
   * Ends the batch: its first `count` frames have been dealt with and their buffers go back; the others stay with the source, which offers them again, in the
   * same order, at the next collect. Called after the `flush` of every port that took frames (also with 0); a ring port commits the turn here.
   */
  complete(batch: FrameBatch, count: number): void;
}
