// A TAP interface as a port: what the host's network stack sends comes out of it, what is delivered to it the stack receives. The kernel's virtio_net_hdr says of each frame what is left to
// do (checksum, segmentation), in virtio's own terms both ways, so nothing is converted here. Frames are read in bounded batches when the interface is readable, and not
// while the segment has no room; an interface that takes no more holds the sender back.

import { closeSync } from 'node:fs';
import { copyBytes } from '#core/copy';
import { type ByteViews, viewsOf } from '#core/guest-memory';
import { Log } from '#core/log';
import { DROP_BROKEN, DROP_LINK_DOWN, DROP_MALFORMED, DROP_RING_FULL, DROP_TOO_LONG, PortCounters } from '#net/counters';
import {
  ACCEPTS_CSUM,
  ACCEPTS_ECN,
  ACCEPTS_TSO4,
  ACCEPTS_TSO6,
  ACCEPTS_USO4,
  ACCEPTS_USO6,
  FRAME_DATA_VALID,
  FRAME_NEEDS_CSUM,
  type FrameBatch,
  GSO_NONE,
} from '#net/port';
import { EventPoll, type Watch } from './event-poll.ts';
import { FrameStore } from './frame-store.ts';
import { EAGAIN, errorName, InteropError } from './interop-error.ts';
import { type Native, openNative } from './native.ts';
import type { NetdevPort } from './netdev-port.ts';
import { openTap, TAP_HEADER_BYTES, type TapDevice } from './tap-device.ts';

/** In front of the header, so that frames start on 16 bytes and copies go by words. */
const PADDING = 4;
const BEFORE_FRAME = PADDING + TAP_HEADER_BYTES;
/** 64 KiB of segmentation offload with their Ethernet header and tags, and some. */
const LONGEST_FRAME = 65536 + 64;
/** Frames read before everybody else gets a turn. */
const READS_PER_TURN = 256;
/** Until an interface that took no more is tried again, in milliseconds. Nothing tells: epoll's edges here are those of reading. */
const WRITE_AGAIN = 1;
const EIO = 5;
const ENOMEM = 12;
const EINVAL = 22;
const EBADFD = 77;
const ENOBUFS = 105;

const ACCEPTS: Readonly<Record<TapDevice['offloads'], number>> = {
  none: 0,
  tcp: ACCEPTS_CSUM | ACCEPTS_TSO4 | ACCEPTS_TSO6 | ACCEPTS_ECN,
  'tcp and udp': ACCEPTS_CSUM | ACCEPTS_TSO4 | ACCEPTS_TSO6 | ACCEPTS_ECN | ACCEPTS_USO4 | ACCEPTS_USO6,
};

export interface TapOptions {
  /** The interface: made if there is none of that name, and gone again with `close` if it was not made to stay. "tap%d" takes the next free number. */
  readonly name: string;
  /** Queues, each a flow's own (IFF_MULTI_QUEUE). Default 1. */
  readonly queues?: number;
  /** false: frames are whole, as on a wire, both ways. */
  readonly offloads?: boolean;
  readonly log?: Log;
}

export class Tap implements NetdevPort {
  readonly name: string;
  readonly accepts: number;
  readonly counters = new PortCounters();
  onReady: (() => void) | undefined;
  /** Told when somebody has removed the interface. */
  onGone: (() => void) | undefined;
  readonly #native: Native;
  readonly #log: Log;
  readonly #poll: EventPoll;
  readonly #fds: readonly number[];
  readonly #watches: Watch[] = [];
  readonly #inbox = new FrameStore();
  readonly #inboxAddress: number;
  readonly #header: DataView;
  readonly #staging: ByteViews = viewsOf(new ArrayBuffer(BEFORE_FRAME + LONGEST_FRAME));
  readonly #stagingHeader = new DataView(this.#staging.u8.buffer, PADDING, TAP_HEADER_BYTES);
  readonly #stagingAddress: number;
  /** Queues that may have more to read, and found no room or used up their turn. */
  readonly #unread = new Set<number>();
  #continuing: NodeJS.Immediate | undefined;
  #again: NodeJS.Timeout | undefined;
  #open = true;

  /** Opens the interface; whether it is up, and its addresses, are the host's affair. @throws InteropError */
  constructor(options: TapOptions) {
    const native = openNative();
    this.#native = native;
    this.#poll = new EventPoll(native);
    let device: TapDevice;
    try {
      device = openTap(native, options.name, options.queues ?? 1, options.offloads ?? true);
    } catch (error) {
      this.#poll.close();
      throw error;
    }
    this.name = device.name;
    this.accepts = ACCEPTS[device.offloads];
    this.#log = (options.log ?? new Log()).child(`TAP ${device.name}`);
    this.#fds = device.fds;
    this.#inboxAddress = native.addressOf(this.#inbox.views.u8);
    this.#header = new DataView(this.#inbox.views.u8.buffer);
    this.#stagingAddress = native.addressOf(this.#staging.u8);
    for (const fd of device.fds) {
      const watch = this.#poll.add(fd, () => this.#read(fd));
      if (typeof watch === 'number') {
        this.close();
        throw new InteropError('NICBOX_TAP', `TAP ${device.name}: cannot be waited for: ${errorName(watch)}`);
      }
      this.#watches.push(watch);
    }
  }

  /** Gives the interface back. What was read and not collected yet still can be. */
  close(): void {
    if (!this.#open) return;
    this.#open = false;
    clearImmediate(this.#continuing);
    clearTimeout(this.#again);
    this.#again = undefined;
    for (const watch of this.#watches) watch.remove();
    this.#poll.close();
    for (const fd of this.#fds) closeSync(fd);
  }

  #gone(): void {
    if (!this.#open) return;
    this.#log.guestError('the interface was removed');
    this.close();
    this.onGone?.();
    // Senders that are held back find the link down, and go on.
    this.onReady?.();
  }

  // ---- from the kernel ----

  #read(fd: number): void {
    const before = this.#inbox.count;
    this.#unread.delete(fd);
    for (let frames = 0; this.#open; frames++) {
      const at = frames < READS_PER_TURN ? this.#inbox.reserve(BEFORE_FRAME + LONGEST_FRAME) : -1;
      if (at < 0) {
        this.#unread.add(fd);
        if (frames >= READS_PER_TURN) this.#continueReading();
        break;
      }
      const read = this.#native.files.readAt(fd, this.#inboxAddress + at + PADDING, TAP_HEADER_BYTES + LONGEST_FRAME);
      if (read === -EAGAIN) break;
      if (read === -EBADFD) {
        this.#gone();
        return;
      }
      if (read <= TAP_HEADER_BYTES || read === TAP_HEADER_BYTES + LONGEST_FRAME) {
        this.counters.transmitDropped(read < 0 ? DROP_BROKEN : DROP_TOO_LONG, 1);
        if (read < 0) {
          this.#log.guestError(`cannot be read: ${errorName(read)}`);
          break;
        }
      } else this.#inbox.commit(PADDING + read);
    }
    if (this.#inbox.count > before) this.onReady?.();
  }

  /** Outside of any turn, as reading wakes the segment. */
  #continueReading(): void {
    if (!this.#open) return;
    this.#continuing ??= setImmediate(() => {
      this.#continuing = undefined;
      for (const fd of [...this.#unread]) if (this.#open) this.#read(fd);
    });
  }

  /** Frames that came before the interface was gone are still sent. */
  get linkUp(): boolean {
    return this.#open || this.#inbox.count > 0;
  }

  collect(batch: FrameBatch, frames: number, bytes: number): number {
    const first = batch.count;
    const taken = this.#inbox.append(batch, frames, bytes);
    const { segments } = batch;
    for (let f = first; f < first + taken; f++) {
      const segment = batch.firstSegment[f] as number;
      const at = (segments.offset[segment] as number) + PADDING;
      const length = (batch.length[f] as number) - BEFORE_FRAME;
      segments.offset[segment] = at + TAP_HEADER_BYTES;
      segments.length[segment] = length;
      batch.length[f] = length;
      const header = this.#header;
      batch.flags[f] = header.getUint8(at) & (FRAME_NEEDS_CSUM | FRAME_DATA_VALID);
      batch.gsoType[f] = header.getUint8(at + 1);
      batch.headerLength[f] = header.getUint16(at + 2, true);
      batch.gsoSize[f] = header.getUint16(at + 4, true);
      batch.csumStart[f] = header.getUint16(at + 6, true);
      batch.csumOffset[f] = header.getUint16(at + 8, true);
    }
    return taken;
  }

  complete(batch: FrameBatch, done: number): void {
    let bytes = 0;
    for (let f = 0; f < done; f++) bytes += batch.length[f] as number;
    this.counters.transmitted(done, bytes);
    this.#inbox.release(done);
    if (done > 0 && this.#unread.size > 0) this.#continueReading();
  }

  awaitFrames(): boolean {
    return this.#inbox.count > 0;
  }

  // ---- to the kernel ----

  deliver(batch: FrameBatch, from: number, to: number): number {
    let frames = 0;
    let bytes = 0;
    let f = from;
    for (; f < to; f++) {
      if (!this.#open) {
        this.counters.receiveDropped(DROP_LINK_DOWN, 1);
        continue;
      }
      const length = batch.length[f] as number;
      if (length > LONGEST_FRAME) {
        this.counters.receiveDropped(DROP_TOO_LONG, 1);
        continue;
      }
      this.#stage(batch, f);
      const written = this.#native.files.writeAt(this.#queueFor(length), this.#stagingAddress + PADDING, TAP_HEADER_BYTES + length);
      if (written >= 0) {
        frames++;
        bytes += length;
      } else if (written === -EAGAIN) {
        this.#tryAgain();
        break;
      } else this.#refused(written);
    }
    this.counters.received(frames, bytes);
    return f - from;
  }

  #stage(batch: FrameBatch, f: number): void {
    const { segments } = batch;
    const first = batch.firstSegment[f] as number;
    const end = first + (batch.segmentCount[f] as number);
    let at = BEFORE_FRAME;
    for (let s = first; s < end; s++) {
      const length = segments.length[s] as number;
      copyBytes(this.#staging, at, segments.views[s] as ByteViews, segments.offset[s] as number, length);
      at += length;
    }
    const header = this.#stagingHeader;
    const gso = batch.gsoType[f] as number;
    header.setUint8(0, (batch.flags[f] as number) & (FRAME_NEEDS_CSUM | FRAME_DATA_VALID));
    header.setUint8(1, gso);
    // A hint: of a frame that is no longer to be segmented it says nothing, and the kernel refuses one beyond the frame's end.
    header.setUint16(2, gso === GSO_NONE ? 0 : Math.min(batch.headerLength[f] as number, batch.length[f] as number), true);
    header.setUint16(4, batch.gsoSize[f] as number, true);
    header.setUint16(6, batch.csumStart[f] as number, true);
    header.setUint16(8, batch.csumOffset[f] as number, true);
    header.setUint16(10, 0, true);
  }

  /** A flow keeps to one queue, and the kernel then answers on the same one: by addresses and ports as IPv4 and IPv6 have them. */
  #queueFor(length: number): number {
    const fds = this.#fds;
    if (fds.length === 1 || length < 58) return fds[0] as number;
    const { u8 } = this.#staging;
    const six = u8[BEFORE_FRAME + 12] === 0x86 && u8[BEFORE_FRAME + 13] === 0xdd;
    let hash = 0;
    for (let i = BEFORE_FRAME + (six ? 22 : 26), end = BEFORE_FRAME + (six ? 58 : 38); i < end; i++) hash = (Math.imul(hash, 31) + (u8[i] as number)) | 0;
    return fds[(hash >>> 0) % fds.length] as number;
  }

  /** A frame that the kernel did not take, and will not. */
  #refused(error: number): void {
    if (error === -EBADFD) {
      this.counters.receiveDropped(DROP_LINK_DOWN, 1);
      this.#gone();
      return;
    }
    // EIO: the interface is down.
    const reason =
      error === -EIO ? DROP_LINK_DOWN : error === -EINVAL ? DROP_MALFORMED : error === -ENOMEM || error === -ENOBUFS ? DROP_RING_FULL : DROP_BROKEN;
    this.counters.receiveDropped(reason, 1);
  }

  #tryAgain(): void {
    this.#again ??= setTimeout(() => {
      this.#again = undefined;
      this.onReady?.();
    }, WRITE_AGAIN);
  }

  /** Frames are written as they are delivered. */
  flush(): void {}

  get hasRoom(): boolean {
    return this.#again === undefined;
  }

  awaitRoom(): boolean {
    return this.hasRoom;
  }
}
