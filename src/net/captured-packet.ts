// A packet in a capture file, and the error for files that do not hold what they promise.

/** LINKTYPE_ETHERNET: the one link type nicbox replays. */
export const LINKTYPE_ETHERNET = 1;

export interface CapturedPacket {
  /** A view into the file's bytes: what was captured, without frame check sequence. */
  readonly bytes: Uint8Array;
  /** Bytes it had on the wire; more than `bytes` when the capture's snapshot length cut it. */
  readonly originalLength: number;
  /** Time since 1970-01-01 UTC: whole seconds, and nanoseconds 0..999999999. */
  readonly seconds: number;
  readonly nanoseconds: number;
  /** Interface it was captured on, counted over the whole file; 0 in a pcap file. */
  readonly interface: number;
  readonly linkType: number;
  /** Where its record starts in the file. */
  readonly offset: number;
}

/** FORMAT: of a kind that is not read. TRUNCATED: the file ends too early. CORRUPT: a value in it cannot be. LINKTYPE: packets that are not Ethernet frames. */
export type CaptureProblem = 'FORMAT' | 'TRUNCATED' | 'CORRUPT' | 'LINKTYPE';

/** A capture file that cannot be used. The message says where and what to do. */
export class CaptureError extends Error {
  readonly code: `NICBOX_CAPTURE_${CaptureProblem}`;
  /** Byte offset in the file. */
  readonly offset: number;

  constructor(problem: CaptureProblem, offset: number, message: string) {
    super(`${message} (at byte ${offset})`);
    this.name = 'CaptureError';
    this.code = `NICBOX_CAPTURE_${problem}`;
    this.offset = offset;
  }
}

/** No packet is larger: more means that a length field is wrong. */
export const LARGEST_PACKET = 262144;

const CHUNK = 65536;

/** Collects what a capture writer makes and hands it on in pieces. */
export class ChunkWriter {
  readonly #write: (chunk: Uint8Array) => void;
  #chunk = new Uint8Array(CHUNK);
  #used = 0;
  /** Bytes written in all, handed on or not. */
  total = 0;

  /** @param write gets each chunk, which is its own from then on. */
  constructor(write: (chunk: Uint8Array) => void) {
    this.#write = write;
  }

  /** Room for `length` bytes (at most 4096) to fill in at once, as a view. */
  record(length: number): DataView {
    if (this.#used + length > CHUNK) this.flush();
    const view = new DataView(this.#chunk.buffer, this.#used, length);
    this.#used += length;
    this.total += length;
    return view;
  }

  bytes(bytes: Uint8Array, padding = 0): void {
    for (let at = 0; at < bytes.length; ) {
      if (this.#used === CHUNK) this.flush();
      const run = Math.min(bytes.length - at, CHUNK - this.#used);
      this.#chunk.set(bytes.subarray(at, at + run), this.#used);
      this.#used += run;
      at += run;
    }
    this.total += bytes.length;
    if (padding > 0) this.record(padding);
  }

  /** Hands on what is there. */
  flush(): void {
    if (this.#used === 0) return;
    this.#write(this.#chunk.subarray(0, this.#used));
    this.#chunk = new Uint8Array(CHUNK);
    this.#used = 0;
  }
}
