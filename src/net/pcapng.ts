// pcapng (draft-ietf-opsawg-pcapng): sections in either byte order, several interfaces with their own time resolution, snapshot length and link type. Blocks that hold
// no packets are skipped by their length; comments, names and statistics are not kept.

import { type CapturedPacket, CaptureError, ChunkWriter, LARGEST_PACKET, LINKTYPE_ETHERNET } from './captured-packet.ts';
import type { CaptureWriterOptions } from './pcap.ts';

const SECTION_HEADER = 0x0a0d0d0a;
const INTERFACE_DESCRIPTION = 1;
const OLD_PACKET = 2;
const SIMPLE_PACKET = 3;
const ENHANCED_PACKET = 6;
const BYTE_ORDER_MAGIC = 0x1a2b3c4d;
const OPTION_NAME = 2;
const OPTION_TIME_RESOLUTION = 9;
const OPTION_FCS_LENGTH = 13;
const OPTION_TIME_OFFSET = 14;
/** Type, length, and the length again at the end. */
const BLOCK_OVERHEAD = 12;
const MAXIMUM_INTERFACES = 65536;

interface Interface {
  readonly linkType: number;
  readonly snapLength: number;
  /** Ticks a second. */
  readonly resolution: bigint;
  readonly timeOffset: bigint;
  readonly fcsLength: number;
  /** Over the whole file. */
  readonly index: number;
}

export function isPcapng(bytes: Uint8Array): boolean {
  return bytes.length >= 4 && bytes[0] === 0x0a && bytes[1] === 0x0d && bytes[2] === 0x0d && bytes[3] === 0x0a;
}

/** @throws CaptureError at the first block that cannot be. */
export function* readPcapng(bytes: Uint8Array): Generator<CapturedPacket, void, undefined> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  let little = true;
  let interfaces: Interface[] = [];
  let interfacesBefore = 0;
  for (let at = 0; at < bytes.length; ) {
    if (at + BLOCK_OVERHEAD > bytes.length) throw new CaptureError('TRUNCATED', at, 'the file ends within a block header: capture it again, or cut it here');
    // The section header's type reads the same in both byte orders, and says which one follows.
    const isSection = view.getUint32(at, true) === SECTION_HEADER;
    if (isSection) little = sectionByteOrder(view, at);
    else if (at === 0) throw new CaptureError('FORMAT', 0, 'not a pcapng file');
    const length = view.getUint32(at + 4, little);
    if (length < BLOCK_OVERHEAD || length % 4 !== 0)
      throw new CaptureError('CORRUPT', at + 4, `a block claims ${length} bytes, which no block has: cut the file here`);
    if (at + length > bytes.length)
      throw new CaptureError('TRUNCATED', at, `the file ends ${at + length - bytes.length} bytes before its last block does: capture it again, or cut it here`);
    const trailer = view.getUint32(at + length - 4, little);
    if (trailer !== length)
      throw new CaptureError('CORRUPT', at + length - 4, `a block starts with length ${length} and ends with ${trailer}: cut the file at byte ${at}`);
    const block = new DataView(view.buffer, view.byteOffset + at + 8, length - BLOCK_OVERHEAD);
    const type = view.getUint32(at, little);
    if (isSection) {
      if (length < 28) throw new CaptureError('CORRUPT', at + 4, 'a section header is too short: capture the file again');
      const major = block.getUint16(4, little);
      if (major !== 1)
        throw new CaptureError('FORMAT', at + 12, `pcapng version ${major}.${block.getUint16(6, little)} is not read: convert it with editcap -F pcapng`);
      interfacesBefore += interfaces.length;
      interfaces = [];
    } else if (type === INTERFACE_DESCRIPTION) {
      if (interfaces.length >= MAXIMUM_INTERFACES) throw new CaptureError('CORRUPT', at, `more than ${MAXIMUM_INTERFACES} interfaces: capture the file again`);
      interfaces.push(readInterface(block, at + 8, little, interfacesBefore + interfaces.length));
    } else if (type === ENHANCED_PACKET || type === OLD_PACKET || type === SIMPLE_PACKET) {
      yield readPacket(bytes, block, at, type, little, interfaces);
    }
    at += length;
  }
}

function sectionByteOrder(view: DataView, at: number): boolean {
  const little = view.getUint32(at + 8, true) === BYTE_ORDER_MAGIC;
  if (!little && view.getUint32(at + 8, false) !== BYTE_ORDER_MAGIC)
    throw new CaptureError('CORRUPT', at + 8, 'a section header has no byte-order mark: the file is damaged, capture it again');
  return little;
}

function readInterface(block: DataView, offset: number, little: boolean, index: number): Interface {
  if (block.byteLength < 8) throw new CaptureError('CORRUPT', offset, 'an interface description is too short: cut the file here');
  let resolution = 1_000_000n;
  let timeOffset = 0n;
  let fcsLength = 0;
  for (let at = 8; at + 4 <= block.byteLength; ) {
    const code = block.getUint16(at, little);
    const length = block.getUint16(at + 2, little);
    if (code === 0) break;
    const value = at + 4;
    if (value + length > block.byteLength) throw new CaptureError('CORRUPT', offset + at, 'an interface option reaches past its block: cut the file here');
    if (code === OPTION_TIME_RESOLUTION && length >= 1) {
      const exponent = block.getUint8(value);
      // Finer than attoseconds is no clock; and a wrong byte must not make a number of thousands of digits.
      if ((exponent & 0x7f) > 63 || (exponent < 0x80 && exponent > 18))
        throw new CaptureError('CORRUPT', offset + value, `an interface's time resolution is ${exponent}, finer than any clock: correct if_tsresol`);
      resolution = exponent < 0x80 ? 10n ** BigInt(exponent) : 2n ** BigInt(exponent & 0x7f);
    } else if (code === OPTION_TIME_OFFSET && length >= 8) {
      timeOffset = block.getBigInt64(value, little);
    } else if (code === OPTION_FCS_LENGTH && length >= 1) {
      fcsLength = block.getUint8(value);
    }
    at = value + ((length + 3) & ~3);
  }
  return { linkType: block.getUint16(0, little), snapLength: block.getUint32(4, little), resolution, timeOffset, fcsLength, index };
}

function readPacket(bytes: Uint8Array, block: DataView, offset: number, type: number, little: boolean, interfaces: readonly Interface[]): CapturedPacket {
  const header = type === SIMPLE_PACKET ? 4 : 20;
  if (block.byteLength < header) throw new CaptureError('CORRUPT', offset, 'a packet block is too short for its header: cut the file here');
  const id = type === SIMPLE_PACKET ? 0 : type === OLD_PACKET ? block.getUint16(0, little) : block.getUint32(0, little);
  const from = interfaces[id];
  if (from === undefined)
    throw new CaptureError('CORRUPT', offset + 8, `a packet names interface ${id}, of ${interfaces.length} described so far: cut the file here`);
  const original = block.getUint32(type === SIMPLE_PACKET ? 0 : 16, little);
  const limit = from.snapLength === 0 ? LARGEST_PACKET : from.snapLength;
  // A simple packet has no length of its own: what the interface's snapshot length lets through.
  const captured = type === SIMPLE_PACKET ? Math.min(original, limit, block.byteLength - header) : block.getUint32(12, little);
  if (captured > LARGEST_PACKET)
    throw new CaptureError('CORRUPT', offset + 20, `a packet claims ${captured} bytes, more than any packet (${LARGEST_PACKET}): cut the file here`);
  if (header + captured > block.byteLength)
    throw new CaptureError('CORRUPT', offset + 20, `a packet claims ${captured} bytes, more than its block holds: cut the file here`);
  const ticks = type === SIMPLE_PACKET ? 0n : (BigInt(block.getUint32(4, little)) << 32n) | BigInt(block.getUint32(8, little));
  const start = block.byteOffset - bytes.byteOffset + header;
  const fcs = captured >= original ? from.fcsLength : 0;
  return {
    bytes: bytes.subarray(start, start + Math.max(0, captured - fcs)),
    originalLength: Math.max(0, original - from.fcsLength),
    seconds: Number(ticks / from.resolution + (type === SIMPLE_PACKET ? 0n : from.timeOffset)),
    nanoseconds: Number(((ticks % from.resolution) * 1_000_000_000n) / from.resolution),
    interface: from.index,
    linkType: from.linkType,
    offset,
  };
}

export interface PcapngWriterOptions extends CaptureWriterOptions {
  /** Names of the interfaces; packets refer to them by place. Default: one, unnamed. */
  readonly interfaces?: readonly string[];
  /** Program that wrote the file, for its header. */
  readonly application?: string;
}

/** Writes a pcapng file with nanoseconds, as a stream of chunks. */
export class PcapngWriter {
  readonly #out: ChunkWriter;
  readonly #snapLength: number;
  readonly #interfaces: number;

  /** @param write gets the file piece by piece; each piece is its own from then on. */
  constructor(write: (chunk: Uint8Array) => void, options: PcapngWriterOptions = {}) {
    const { snapLength = LARGEST_PACKET, linkType = LINKTYPE_ETHERNET, interfaces = [''], application = 'nicbox' } = options;
    if (!(Number.isSafeInteger(snapLength) && snapLength > 0 && snapLength <= LARGEST_PACKET))
      throw new RangeError(`snapLength ${snapLength}: 1 to ${LARGEST_PACKET}`);
    if (interfaces.length === 0) throw new RangeError('a capture needs at least one interface');
    this.#out = new ChunkWriter(write);
    this.#snapLength = snapLength;
    this.#interfaces = interfaces.length;
    const program = new TextEncoder().encode(application.slice(0, 256));
    const programLength = program.length === 0 ? 0 : 4 + padded(program.length) + 4;
    this.#block(SECTION_HEADER, 16 + programLength, (body) => {
      body.setUint32(0, BYTE_ORDER_MAGIC, true);
      body.setUint16(4, 1, true);
      body.setUint16(6, 0, true);
      // Section length: not known, as the file is a stream.
      body.setUint32(8, 0xffffffff, true);
      body.setUint32(12, 0xffffffff, true);
      if (programLength > 0) writeOption(body, 16, 4, program);
    });
    for (const interfaceName of interfaces) {
      const name = new TextEncoder().encode(interfaceName.slice(0, 256));
      const nameLength = name.length === 0 ? 0 : 4 + padded(name.length);
      this.#block(INTERFACE_DESCRIPTION, 8 + nameLength + 8 + 4, (body) => {
        body.setUint16(0, linkType, true);
        body.setUint16(2, 0, true);
        body.setUint32(4, snapLength, true);
        if (nameLength > 0) writeOption(body, 8, OPTION_NAME, name);
        writeOption(body, 8 + nameLength, OPTION_TIME_RESOLUTION, Uint8Array.of(9));
      });
    }
  }

  /** @param on place of the interface in the list given at the start. */
  packet(bytes: Uint8Array, seconds: number, nanoseconds: number, on = 0): void {
    if (!(on >= 0 && on < this.#interfaces)) throw new RangeError(`interface ${on}: this capture has ${this.#interfaces}`);
    const captured = Math.min(bytes.length, this.#snapLength);
    const length = BLOCK_OVERHEAD + 20 + padded(captured);
    const header = this.#out.record(28);
    header.setUint32(0, ENHANCED_PACKET, true);
    header.setUint32(4, length, true);
    header.setUint32(8, on, true);
    // seconds * 10^9 + nanoseconds needs 61 bits: in two parts that are exact as doubles.
    const upper = Math.floor(seconds / 0x10000) * 1e9;
    const lower = (upper % 0x10000) * 0x10000 + (seconds % 0x10000) * 1e9 + nanoseconds;
    header.setUint32(12, Math.floor(upper / 0x10000) + Math.floor(lower / 2 ** 32), true);
    header.setUint32(16, lower % 2 ** 32, true);
    header.setUint32(20, captured, true);
    header.setUint32(24, bytes.length, true);
    this.#out.bytes(captured === bytes.length ? bytes : bytes.subarray(0, captured), padded(captured) - captured);
    this.#out.record(4).setUint32(0, length, true);
  }

  /** Hands on what is not written yet. */
  flush(): void {
    this.#out.flush();
  }

  #block(type: number, bodyLength: number, fill: (body: DataView) => void): void {
    const length = BLOCK_OVERHEAD + bodyLength;
    const view = this.#out.record(length);
    view.setUint32(0, type, true);
    view.setUint32(4, length, true);
    fill(new DataView(view.buffer, view.byteOffset + 8, bodyLength));
    view.setUint32(length - 4, length, true);
  }
}

function padded(length: number): number {
  return (length + 3) & ~3;
}

function writeOption(body: DataView, at: number, code: number, value: Uint8Array): void {
  body.setUint16(at, code, true);
  body.setUint16(at + 2, value.length, true);
  new Uint8Array(body.buffer, body.byteOffset + at + 4, value.length).set(value);
}
