// A virtio-net transmit queue (virtio 1.4 5.1.9.2): a pool of buffers, each with room for the header before the frame, so that a plain frame is one
// descriptor. Longer frames take several buffers. Completed buffers are taken back in batches when the pool runs low, never one interrupt each.

import { copyBytes } from '#core/copy';
import type { ByteViews } from '#core/guest-memory';
import type { GuestArena } from './arena.ts';
import type { DriverRing } from './ring.ts';
import { NET_HEADER_SIZE, NET_HEADER_SIZE_TUNNEL } from './virtio-constants.ts';
import type { QueueKick } from './virtio-pci.ts';

/** What the device is asked to finish: virtio_net_hdr's fields. Reused by callers; `clear` makes it a plain frame. */
export class TransmitOffload {
  flags = 0;
  gsoType = 0;
  headerLength = 0;
  gsoSize = 0;
  csumStart = 0;
  csumOffset = 0;
  /** With a tunnel bit in `gsoType`: where the outer UDP and the inner IP header begin. */
  outerTransport = 0;
  innerNetwork = 0;

  clear(): void {
    this.flags = 0;
    this.gsoType = 0;
    this.headerLength = 0;
    this.gsoSize = 0;
    this.csumStart = 0;
    this.csumOffset = 0;
    this.outerTransport = 0;
    this.innerNetwork = 0;
  }
}

export interface TransmitQueueOptions {
  readonly arena: GuestArena;
  readonly ring: DriverRing;
  readonly index: number;
  /** Bytes of a buffer, header included. */
  readonly bufferSize: number;
  readonly buffers: number;
  readonly maxSegments: number;
  /** The header in a descriptor of its own, as old devices wanted it; otherwise it shares the first one. */
  readonly separateHeader: boolean;
  /** Bytes of the header before each frame: as on the receive side (virtio 1.4 5.1.9.2.1, driver MUST). Default 12. */
  readonly headerSize?: number;
}

const RECLAIM = 64;

export class TransmitQueue {
  readonly ring: DriverRing;
  readonly index: number;
  kick: QueueKick | undefined;
  frames = 0;
  bytes = 0;
  broken = '';
  /** The device is suspended: the queue counts as full, and nothing is made available. */
  held = false;
  /** Bytes of frame a buffer holds, and the longest frame one list can carry. */
  readonly frameRoom: number;
  readonly longestFrame: number;
  readonly buffers: number;
  readonly #arena: GuestArena;
  readonly #options: TransmitQueueOptions;
  readonly #start: number;
  readonly #stride: number;
  readonly #headerSize: number;
  /** Bytes left free before each header, so that frames are aligned behind a header of 10 bytes too. */
  readonly #lead: number;
  readonly #free: Int32Array;
  #freeCount: number;
  /** The buffers of one frame are linked from its first, whose number is the ring's token. */
  readonly #next: Int32Array;
  readonly #tokens = new Int32Array(RECLAIM);
  readonly #lengths = new Int32Array(RECLAIM);
  readonly #offsets: Int32Array;
  readonly #pieceLengths: Int32Array;

  constructor(options: TransmitQueueOptions) {
    this.ring = options.ring;
    this.index = options.index;
    this.#arena = options.arena;
    this.#options = options;
    this.#headerSize = options.headerSize ?? NET_HEADER_SIZE;
    this.#stride = Math.ceil(options.bufferSize / 64) * 64;
    this.#lead = this.#headerSize & 2;
    this.#start = options.arena.allocate(this.#stride * options.buffers + 64, 64) + this.#lead;
    this.#free = Int32Array.from({ length: options.buffers }, (_, i) => options.buffers - 1 - i);
    this.#freeCount = options.buffers;
    this.buffers = options.buffers;
    this.#next = new Int32Array(options.buffers).fill(-1);
    this.#offsets = new Int32Array(options.maxSegments + 1);
    this.#pieceLengths = new Int32Array(options.maxSegments + 1);
    this.frameRoom = options.bufferSize - this.#headerSize;
    this.longestFrame = this.frameRoom + (options.maxSegments - 1 - (options.separateHeader ? 1 : 0)) * options.bufferSize;
  }

  /** Frames the device still holds. */
  get outstanding(): number {
    return this.ring.outstanding;
  }

  /** A buffer can be had now; completed ones are taken back first if the pool is empty. */
  get hasRoom(): boolean {
    if (this.held) return false;
    const needed = this.#options.separateHeader ? 2 : 1;
    if (this.#freeCount > 0 && this.ring.fits(needed)) return true;
    this.reclaim();
    return this.#freeCount > 0 && this.ring.fits(needed);
  }

  /** Where to write the next frame (an offset in the arena's views, 4-byte aligned, `frameRoom` bytes), or -1 when the queue is full. `send` takes it from there. */
  reserve(): number {
    if (!this.hasRoom) return -1;
    return this.#start + (this.#free[this.#freeCount - 1] as number) * this.#stride + this.#headerSize;
  }

  /** Number of the buffer `reserve` points into: buffers go round, so what a workload once wrote there is still there. */
  get reservedBuffer(): number {
    return this.#free[this.#freeCount - 1] as number;
  }

  /** Adds the frame just written at `reserve()`, visible to the device at the next `flush`. */
  send(length: number, offload?: TransmitOffload): void {
    const buffer = this.#free[--this.#freeCount] as number;
    const offset = this.#start + buffer * this.#stride;
    this.#header(offset, offload);
    this.#next[buffer] = -1;
    if (this.#options.separateHeader) {
      this.#offsets[0] = offset;
      this.#pieceLengths[0] = this.#headerSize;
      this.#offsets[1] = offset + this.#headerSize;
      this.#pieceLengths[1] = length;
      this.ring.addList(this.#offsets, this.#pieceLengths, 2, 0, buffer);
    } else this.ring.addOne(offset, this.#headerSize + length, false, buffer);
    this.frames++;
    this.bytes += length;
  }

  /** Copies a frame of any length up to `longestFrame` out of `from`. False when the queue is too full for it now. @throws RangeError when it never fits. */
  copy(from: ByteViews, start: number, length: number, offload?: TransmitOffload): boolean {
    if (length <= this.frameRoom) {
      const at = this.reserve();
      if (at < 0) return false;
      copyBytes(this.#arena.views, at, from, start, length);
      this.send(length, offload);
      return true;
    }
    if (length > this.longestFrame) throw new RangeError(`a frame of ${length} bytes is longer than the ${this.longestFrame} this queue can send`);
    const { bufferSize, separateHeader } = this.#options;
    const buffers = 1 + Math.ceil((length - this.frameRoom) / bufferSize);
    const segments = buffers + (separateHeader ? 1 : 0);
    if (this.held) return false;
    if (this.#freeCount < buffers || !this.ring.fits(segments)) {
      this.reclaim();
      if (this.#freeCount < buffers || !this.ring.fits(segments)) return false;
    }
    const first = this.#free[--this.#freeCount] as number;
    const offset = this.#start + first * this.#stride;
    this.#header(offset, offload);
    let pieces = 0;
    if (separateHeader) {
      this.#offsets[0] = offset;
      this.#pieceLengths[0] = this.#headerSize;
      this.#offsets[1] = offset + this.#headerSize;
      this.#pieceLengths[1] = this.frameRoom;
      pieces = 2;
    } else {
      this.#offsets[0] = offset;
      this.#pieceLengths[0] = bufferSize;
      pieces = 1;
    }
    copyBytes(this.#arena.views, offset + this.#headerSize, from, start, this.frameRoom);
    let last = first;
    for (let done = this.frameRoom; done < length; ) {
      const buffer = this.#free[--this.#freeCount] as number;
      const part = length - done < bufferSize ? length - done : bufferSize;
      const at = this.#start + buffer * this.#stride;
      copyBytes(this.#arena.views, at, from, start + done, part);
      this.#offsets[pieces] = at;
      this.#pieceLengths[pieces++] = part;
      this.#next[last] = buffer;
      last = buffer;
      done += part;
    }
    this.#next[last] = -1;
    this.ring.addList(this.#offsets, this.#pieceLengths, pieces, 0, first);
    this.frames++;
    this.bytes += length;
    return true;
  }

  #header(offset: number, offload: TransmitOffload | undefined): void {
    if (this.#lead !== 0) {
      this.#legacyHeader(offset >>> 1, offload);
      return;
    }
    const u32 = this.#arena.u32;
    const at = offset >>> 2;
    // virtio 1.4 5.1.9.2.1 (driver MUST): num_buffers, the upper half of the last word, is zero.
    if (offload === undefined) {
      u32[at] = 0;
      u32[at + 1] = 0;
      u32[at + 2] = 0;
    } else {
      u32[at] = offload.flags | (offload.gsoType << 8) | (offload.headerLength << 16);
      u32[at + 1] = offload.gsoSize | (offload.csumStart << 16);
      u32[at + 2] = offload.csumOffset;
    }
    if (this.#headerSize === NET_HEADER_SIZE) return;
    u32[at + 3] = 0;
    u32[at + 4] = 0;
    if (this.#headerSize === NET_HEADER_SIZE_TUNNEL) u32[at + 5] = offload === undefined ? 0 : offload.outerTransport | (offload.innerNetwork << 16);
  }

  /** 10 bytes, in half-words: it ends where num_buffers would begin. */
  #legacyHeader(at: number, offload: TransmitOffload | undefined): void {
    const { u16 } = this.#arena;
    u16[at] = offload === undefined ? 0 : offload.flags | (offload.gsoType << 8);
    u16[at + 1] = offload === undefined ? 0 : offload.headerLength;
    u16[at + 2] = offload === undefined ? 0 : offload.gsoSize;
    u16[at + 3] = offload === undefined ? 0 : offload.csumStart;
    u16[at + 4] = offload === undefined ? 0 : offload.csumOffset;
  }

  /** Makes everything sent since visible, and kicks if the device asked to be told. */
  flush(): void {
    if (!this.held && this.ring.publish()) this.kick?.ring(this.ring.notificationData);
  }

  /** Takes completed buffers back. Bounded by what is outstanding. Returns the frames completed. */
  reclaim(): number {
    let total = 0;
    for (;;) {
      const n = this.ring.harvest(this.#tokens, this.#lengths, RECLAIM);
      for (let i = 0; i < n; i++) {
        for (let buffer = this.#tokens[i] as number; buffer >= 0; ) {
          const next = this.#next[buffer] as number;
          this.#free[this.#freeCount++] = buffer;
          buffer = next;
        }
      }
      total += n;
      if (n < RECLAIM) break;
    }
    if (this.ring.broken !== '' && this.broken === '') this.broken = `transmit queue ${this.index}: ${this.ring.broken}`;
    return total;
  }

  /** Full, or waiting for the end: asks for an interrupt when a good part of what is outstanding was sent. True when buffers already came back. */
  awaitRoom(): boolean {
    const outstanding = this.ring.outstanding;
    return this.ring.enableCalls(outstanding > 4 ? outstanding >>> 1 : 1);
  }

  dispose(): void {
    this.ring.dispose();
    this.#arena.free(this.#start - this.#lead);
  }
}
