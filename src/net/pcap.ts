// The classic capture format (draft-ietf-opsawg-pcap): one link type, records with microseconds or nanoseconds, in either byte order.

import { type CapturedPacket, CaptureError, ChunkWriter, LARGEST_PACKET, LINKTYPE_ETHERNET } from './captured-packet.ts';

const MAGIC_MICROSECONDS = 0xa1b2c3d4;
const MAGIC_NANOSECONDS = 0xa1b23c4d;
const FILE_HEADER = 24;
const RECORD_HEADER = 16;
/** In the link type word: the frame check sequence's length is given, in 16-bit units in the top four bits. */
const FCS_PRESENT = 0x04000000;

interface Layout {
  readonly little: boolean;
  readonly nanoseconds: boolean;
}

function layoutOf(bytes: Uint8Array): Layout | undefined {
  if (bytes.length < 4) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  for (const little of [true, false]) {
    const magic = view.getUint32(0, little);
    if (magic === MAGIC_MICROSECONDS || magic === MAGIC_NANOSECONDS) return { little, nanoseconds: magic === MAGIC_NANOSECONDS };
  }
  return undefined;
}

export function isPcap(bytes: Uint8Array): boolean {
  return layoutOf(bytes) !== undefined;
}

/** @throws CaptureError at the first record that cannot be. */
export function* readPcap(bytes: Uint8Array): Generator<CapturedPacket, void, undefined> {
  const layout = layoutOf(bytes);
  if (layout === undefined) throw new CaptureError('FORMAT', 0, 'not a pcap file');
  const { little } = layout;
  if (bytes.length < FILE_HEADER) throw new CaptureError('TRUNCATED', bytes.length, `the file ends within its ${FILE_HEADER}-byte header: capture it again`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const major = view.getUint16(4, little);
  if (major !== 2) throw new CaptureError('FORMAT', 4, `pcap version ${major}.${view.getUint16(6, little)} is not read: convert it with editcap -F pcapng`);
  const link = view.getUint32(20, little);
  const linkType = link & 0xffff;
  const fcsLength = (link & FCS_PRESENT) !== 0 ? (link >>> 28) * 2 : 0;
  const unit = layout.nanoseconds ? 1 : 1000;
  let at = FILE_HEADER;
  while (at < bytes.length) {
    if (at + RECORD_HEADER > bytes.length) throw new CaptureError('TRUNCATED', at, 'the file ends within a record header: capture it again, or cut it here');
    const fraction = view.getUint32(at + 4, little);
    const captured = view.getUint32(at + 8, little);
    const original = view.getUint32(at + 12, little);
    if (captured > LARGEST_PACKET)
      throw new CaptureError('CORRUPT', at + 8, `a record claims ${captured} bytes, more than any packet (${LARGEST_PACKET}): cut the file here`);
    if (fraction * unit >= 1e9)
      throw new CaptureError('CORRUPT', at + 4, `a record's time has ${fraction} ${layout.nanoseconds ? 'nano' : 'micro'}seconds: cut the file here`);
    const start = at + RECORD_HEADER;
    if (start + captured > bytes.length)
      throw new CaptureError(
        'TRUNCATED',
        at,
        `the file ends ${start + captured - bytes.length} bytes before its last packet does: capture it again, or cut it here`,
      );
    const fcs = captured >= original ? fcsLength : 0;
    yield {
      bytes: bytes.subarray(start, start + Math.max(0, captured - fcs)),
      originalLength: Math.max(0, original - fcsLength),
      seconds: view.getUint32(at, little),
      nanoseconds: fraction * unit,
      interface: 0,
      linkType,
      offset: at,
    };
    at = start + captured;
  }
}

export interface CaptureWriterOptions {
  /** Longest part of a packet to keep. Default: all of it. */
  readonly snapLength?: number;
  readonly linkType?: number;
}

/** Writes a pcap file with nanoseconds, as a stream of chunks. */
export class PcapWriter {
  readonly #out: ChunkWriter;
  readonly #snapLength: number;

  /** @param write gets the file piece by piece; each piece is its own from then on. */
  constructor(write: (chunk: Uint8Array) => void, { snapLength = LARGEST_PACKET, linkType = LINKTYPE_ETHERNET }: CaptureWriterOptions = {}) {
    if (!(Number.isSafeInteger(snapLength) && snapLength > 0 && snapLength <= LARGEST_PACKET))
      throw new RangeError(`snapLength ${snapLength}: 1 to ${LARGEST_PACKET}`);
    this.#out = new ChunkWriter(write);
    this.#snapLength = snapLength;
    const header = this.#out.record(FILE_HEADER);
    header.setUint32(0, MAGIC_NANOSECONDS, true);
    header.setUint16(4, 2, true);
    header.setUint16(6, 4, true);
    header.setUint32(8, 0, true);
    header.setUint32(12, 0, true);
    header.setUint32(16, snapLength, true);
    header.setUint32(20, linkType, true);
  }

  packet(bytes: Uint8Array, seconds: number, nanoseconds: number): void {
    const captured = Math.min(bytes.length, this.#snapLength);
    const header = this.#out.record(RECORD_HEADER);
    header.setUint32(0, seconds, true);
    header.setUint32(4, nanoseconds, true);
    header.setUint32(8, captured, true);
    header.setUint32(12, bytes.length, true);
    this.#out.bytes(captured === bytes.length ? bytes : bytes.subarray(0, captured));
  }

  /** Hands on what is not written yet. */
  flush(): void {
    this.#out.flush();
  }
}
