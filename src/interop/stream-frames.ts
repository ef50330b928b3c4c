// Frames on a byte stream as QEMU's stream and socket netdevs write them: a 32-bit big-endian length, then the frame (no FCS, no virtio-net header).
// The decoder takes the stream in pieces of any size; the outbox encodes batches into buffers that the socket keeps until they are written.

import type { Socket } from 'node:net';
import { copyBytes } from '#core/copy';
import { type ByteViews, viewsOf } from '#core/guest-memory';
import type { FrameBatch } from '#net/port';
import type { FrameStore } from './frame-store.ts';

/** What QEMU itself takes: 64 KiB of payload and 4 KiB for headers. A longer announcement is not this protocol. */
export const LONGEST_STREAM_FRAME = 68 * 1024;
const PREFIX_BYTES = 4;
const CHUNK_BYTES = 128 * 1024;
const CHUNKS = 8;

export class StreamDecoder {
  readonly #store: FrameStore;
  #prefix = 0;
  #length = 0;
  /** Place of the frame being received, -1 until it has one. */
  #offset = -1;
  #filled = 0;
  /** Frames of no bytes at all, skipped. */
  emptyFrames = 0;

  constructor(store: FrameStore) {
    this.#store = store;
  }

  /** The length announced last. */
  get announced(): number {
    return this.#length;
  }

  /** Inside a frame or its length. */
  get midFrame(): boolean {
    return this.#prefix > 0;
  }

  /**
   * Takes bytes from `from` on. Returns the position it came to: before the end of the piece when the store is full (go on from there later); -1 when
   * a length was announced that no frame has (`announced`), after which the stream means nothing.
   */
  decode(piece: Uint8Array, from: number): number {
    let at = from;
    while (at < piece.length) {
      if (this.#prefix < PREFIX_BYTES) {
        this.#length = ((this.#length << 8) | (piece[at++] as number)) >>> 0;
        if (++this.#prefix < PREFIX_BYTES) continue;
        if (this.#length > LONGEST_STREAM_FRAME) return -1;
        if (this.#length === 0) {
          this.emptyFrames++;
          this.#prefix = 0;
        }
        continue;
      }
      if (this.#offset < 0) {
        this.#offset = this.#store.reserve(this.#length);
        if (this.#offset < 0) return at;
      }
      const run = Math.min(this.#length - this.#filled, piece.length - at);
      this.#store.views.u8.set(piece.subarray(at, at + run), this.#offset + this.#filled);
      at += run;
      this.#filled += run;
      if (this.#filled < this.#length) continue;
      this.#store.commit(this.#length);
      this.#prefix = 0;
      this.#length = 0;
      this.#offset = -1;
      this.#filled = 0;
    }
    return at;
  }
}

interface Chunk {
  readonly views: ByteViews;
  used: number;
  /** Handed to the socket, up to here. */
  sent: number;
  /** Writes the socket has not finished. */
  pending: number;
}

/** Encoded frames of one connection. Its memory is bounded: when the socket is behind by all of it, frames are refused. */
export class StreamOutbox {
  readonly #socket: Socket;
  readonly #onRoom: () => void;
  readonly #chunks: Chunk[] = [];
  #current = 0;
  #flushed = 0;

  /** @param onRoom called when a buffer became free */
  constructor(socket: Socket, onRoom: () => void) {
    this.#socket = socket;
    this.#onRoom = onRoom;
  }

  /** Encodes one frame of at most LONGEST_STREAM_FRAME bytes; false when there is no room now. */
  append(batch: FrameBatch, frame: number): boolean {
    const length = batch.length[frame] as number;
    let chunk = this.#chunk(this.#current);
    if (chunk.used + PREFIX_BYTES + length > CHUNK_BYTES) {
      const next = (this.#current + 1) % CHUNKS;
      chunk = this.#chunk(next);
      if (chunk.used > 0) return false;
      this.#current = next;
    }
    const { views } = chunk;
    let at = chunk.used;
    for (let shift = 24; shift >= 0; shift -= 8) views.u8[at++] = length >>> shift;
    const { segments } = batch;
    const first = batch.firstSegment[frame] as number;
    const end = first + (batch.segmentCount[frame] as number);
    for (let s = first; s < end; s++) {
      const run = segments.length[s] as number;
      copyBytes(views, at, segments.views[s] as ByteViews, segments.offset[s] as number, run);
      at += run;
    }
    chunk.used = at;
    return true;
  }

  /** Hands what was encoded to the socket. */
  flush(): void {
    for (;;) {
      this.#send(this.#chunk(this.#flushed));
      if (this.#flushed === this.#current) return;
      this.#flushed = (this.#flushed + 1) % CHUNKS;
    }
  }

  /** A frame of any length would be taken. */
  get hasRoom(): boolean {
    if (this.#chunk(this.#current).used + PREFIX_BYTES + LONGEST_STREAM_FRAME <= CHUNK_BYTES) return true;
    return this.#chunk((this.#current + 1) % CHUNKS).used === 0;
  }

  #send(chunk: Chunk): void {
    if (chunk.sent === chunk.used) return;
    const bytes = chunk.views.u8.subarray(chunk.sent, chunk.used);
    chunk.sent = chunk.used;
    chunk.pending++;
    // Called after an error too; the connection is then over and nothing looks at this outbox again.
    this.#socket.write(bytes, () => {
      if (--chunk.pending > 0 || chunk.sent < chunk.used) return;
      chunk.used = 0;
      chunk.sent = 0;
      this.#onRoom();
    });
  }

  #chunk(index: number): Chunk {
    let chunk = this.#chunks[index];
    if (chunk === undefined) {
      chunk = { views: viewsOf(new ArrayBuffer(CHUNK_BYTES)), used: 0, sent: 0, pending: 0 };
      this.#chunks[index] = chunk;
    }
    return chunk;
  }
}
