// What a network driver is to those who send and receive through it: workloads, the guest, a fail-over pair. Virtio's vocabulary serves all of them: offloads asked of a
// device are a `TransmitOffload`, and whether it can do them is asked by virtio's feature bits.

import type { ByteViews } from '#core/guest-memory';
import type { FlowHash } from './flow-hash.ts';
import type { FrameSink } from './net-receive.ts';
import type { TransmitOffload } from './net-transmit.ts';

export interface NicTransmitQueue {
  readonly index: number;
  /** Buffers that go round, and the bytes of frame each holds; the longest frame the queue can send at all. */
  readonly buffers: number;
  readonly frameRoom: number;
  readonly longestFrame: number;
  /** Frames or descriptors that the device still holds. */
  readonly outstanding: number;
  /** Where to write the next frame (an offset in the arena's views, `frameRoom` bytes), or -1 when the queue is full. `send` takes it from there. */
  reserve(): number;
  /** Number of the buffer `reserve` points into: what was once written there is still there. */
  readonly reservedBuffer: number;
  /** Adds the frame just written at `reserve()`, visible to the device at the next `flush`. */
  send(length: number, offload?: TransmitOffload): void;
  /** Copies a frame of any length up to `longestFrame`. False when there is no room now. @throws RangeError when it never fits. */
  copy(from: ByteViews, start: number, length: number, offload?: TransmitOffload): boolean;
  flush(): void;
  /** Takes completed buffers back. Returns how many there were. */
  reclaim(): number;
  /** Full, or waiting for the end: asks for an interrupt. True when buffers already came back. */
  awaitRoom(): boolean;
}

/** How received frames are spread over queues, for who wants to check it. */
export interface ReceiveSteering {
  /** Computes what the device should report for a frame, as it was last told; undefined while it was told nothing. */
  readonly flowHash: FlowHash | undefined;
  /** Received frames carry hashes. */
  readonly reportsHashes: boolean;
  /** The queue for a frame with this hash and kind; -1 when hashes decide nothing. */
  receiveQueue(hashValue: number, hashReport: number): number;
}

export interface Nic {
  readonly configuration: { readonly mac: Uint8Array /** 0: no opinion. */; readonly mtu: number; readonly linkUp: boolean };
  readonly transmit: readonly NicTransmitQueue[];
  readonly receive: readonly { readonly malformed: number }[];
  /** Undefined for a device with one queue. */
  readonly steering: ReceiveSteering | undefined;
  /** The device does this for frames sent (VIRTIO_NET_F_CSUM, HOST_*). */
  has(feature: number): boolean;
  /** Up to a budget of received frames a queue into `sink`. True when there may be more to do right away; false: wait for an interrupt. */
  poll(sink: FrameSink): boolean;
  /** Uses the legacy line: `onIntx` is called while it is up. */
  readonly usesIntx: boolean;
  onIntx(): void;
  readonly kicks: number;
  readonly interrupts: number;
  /** Why the driver gave the device up, or ''. */
  readonly broken: string;
  shutDown(): void;
}
