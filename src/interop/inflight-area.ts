// The memory of a GET_INFLIGHT_FD: a region for each queue (virtio/inflight.ts), and behind those a part of our own - who made it, which rings were being served when nobody
// said goodbye, and the staging areas of packed rings. A front end keeps it for us while we are gone; it may have changed anything in it.

import { randomFillSync } from 'node:crypto';
import { InflightRegion, inflightBytes } from '#virtio/inflight';
import { errorName } from './interop-error.ts';
import { type AddressSource, MappedRegion, MappingError } from './mapped-memory.ts';
import type { Native } from './native.ts';
import { ProtocolError } from './vhost-user-protocol.ts';

const PAGE = 4096;
/** "nbx1" */
const MAGIC = 0x3178_626e;
const MAGIC_AT = 0;
const QUEUES_AT = 1;
const SIZE_AT = 2;
/** Two words. */
const TAG_AT = 3;
const LIVE_AT = 16;
/** Bytes of a staged used entry. */
const STAGED_BYTES = 8;
const MOST_BYTES = 2 ** 28;

/** Names one area among all: two random words. */
export type AreaTag = readonly [number, number];

export interface AreaShape {
  readonly queues: number;
  /** Most descriptors of a queue. */
  readonly size: number;
  readonly packed: boolean;
}

interface Layout {
  readonly stride: number;
  /** Where our own part begins, and the staging areas in it. */
  readonly own: number;
  readonly staging: number;
  readonly bytes: number;
}

function layout({ queues, size, packed }: AreaShape): Layout {
  const stride = inflightBytes(size, packed);
  const own = stride * queues;
  const staging = own + Math.ceil((4 * (LIVE_AT + queues)) / 64) * 64;
  const bytes = Math.ceil((staging + (packed ? STAGED_BYTES * size * queues : 0)) / PAGE) * PAGE;
  return { stride, own, staging, bytes };
}

export class InflightArea {
  readonly shape: AreaShape;
  /** undefined: another kind of back end made it, whose regions end where ours begin. */
  readonly tag: AreaTag | undefined;
  readonly #layout: Layout;
  readonly #mapped: MappedRegion;
  readonly #buffer: SharedArrayBuffer;
  readonly #base: number;
  readonly #own: Int32Array | undefined;

  private constructor(shape: AreaShape, mapped: MappedRegion, bytes: number, fresh: boolean) {
    const part = mapped.parts[0] as { buffer: SharedArrayBuffer; byteOffset: number };
    this.shape = shape;
    this.#layout = layout(shape);
    this.#mapped = mapped;
    this.#buffer = part.buffer;
    this.#base = part.byteOffset;
    const { own, staging } = this.#layout;
    const words = bytes < this.#layout.bytes ? undefined : new Int32Array(this.#buffer, this.#base + own, (staging - own) >>> 2);
    if (fresh && words !== undefined) {
      for (let index = 0; index < shape.queues; index++) this.#regionAt(index).format(shape.size);
      words[QUEUES_AT] = shape.queues;
      words[SIZE_AT] = shape.size;
      words.set(randomFillSync(new Int32Array(2)), TAG_AT);
      words[MAGIC_AT] = MAGIC;
    }
    const ours = words?.[MAGIC_AT] === MAGIC && words[QUEUES_AT] === shape.queues && words[SIZE_AT] === shape.size;
    this.#own = ours ? words : undefined;
    this.tag = this.#own === undefined ? undefined : [this.#own[TAG_AT] as number, this.#own[TAG_AT + 1] as number];
  }

  /** Makes one for a front end. Returns it and the descriptor to pass, which is the caller's. @throws ProtocolError */
  static make(native: Native, shape: AreaShape): { readonly area: InflightArea; readonly fd: number; readonly bytes: number } {
    const { bytes } = layout(shape);
    const fd = native.memory.memfd('nicbox-inflight', bytes);
    if (fd < 0) throw new ProtocolError(`no memory of ${bytes} bytes: ${errorName(fd)}`);
    try {
      return { area: new InflightArea(shape, map(native, fd, 0, bytes), bytes, true), fd, bytes };
    } catch (error) {
      native.close(fd);
      throw error;
    }
  }

  /** Takes one back. The descriptor stays the caller's. @throws ProtocolError */
  static take(native: Native, shape: AreaShape, fd: number, offset: number, bytes: number, source?: AddressSource): InflightArea {
    const { stride } = layout(shape);
    if (bytes < stride * shape.queues || bytes > MOST_BYTES)
      throw new ProtocolError(`${bytes} bytes for ${shape.queues} queues of ${shape.size}, which take ${stride} each`);
    return new InflightArea(shape, map(native, fd, offset, bytes, source), bytes, false);
  }

  #regionAt(index: number): InflightRegion {
    const { stride } = this.#layout;
    return new InflightRegion(new Uint8Array(this.#buffer, this.#base + stride * index, stride), this.shape.packed);
  }

  /** The region of a queue with room for `size` descriptors, if there is one. */
  region(index: number, size: number): InflightRegion | undefined {
    if (index >= this.shape.queues) return undefined;
    const region = this.#regionAt(index);
    // The header is the front end's to change; the room is not.
    return region.size >= size && size <= this.shape.size ? region : undefined;
  }

  /** Memory for the used entries that a packed ring stages. */
  staging(index: number): Int32Array | undefined {
    const { packed, size } = this.shape;
    if (!packed || this.#own === undefined) return undefined;
    return new Int32Array(this.#buffer, this.#base + this.#layout.staging + STAGED_BYTES * size * index, (STAGED_BYTES * size) >>> 2);
  }

  /** The ring was being served, and nobody stopped it: its region says where it stands. */
  isLive(index: number, region: InflightRegion): boolean {
    if (this.#own !== undefined) return this.#own[LIVE_AT + index] === 1;
    // Not ours: one that was never used stands at the start.
    return region.used !== (region.packed ? 0x8000 : 0) || region.inFlight().length > 0;
  }

  setLive(index: number, live: boolean): void {
    if (this.#own !== undefined && index < this.shape.queues) this.#own[LIVE_AT + index] = live ? 1 : 0;
  }

  /** Nobody uses it any more. */
  unmap(): void {
    this.#mapped.unmap();
  }
}

/** @throws ProtocolError */
function map(native: Native, fd: number, offset: number, bytes: number, source?: AddressSource): MappedRegion {
  try {
    return new MappedRegion(native, fd, offset, bytes, source);
  } catch (error) {
    if (error instanceof MappingError) throw new ProtocolError(error.message);
    throw error;
  }
}
