// The vfio-user protocol on the wire (the specification's version 0.0, with device features and migration data): commands, headers, payload sizes, the capabilities
// of the VERSION message. Little-endian, as all supported hosts are. What is wrong with a message as such ends the connection (ProtocolError); what a device will not do
// is answered with an error (Refusal).

import { z } from 'zod';
import { ProtocolError } from './vhost-user-protocol.ts';

export { ProtocolError };

/** Client to server, but DMA_READ and DMA_WRITE, which are ours. */
export const VERSION = 1;
export const DMA_MAP = 2;
export const DMA_UNMAP = 3;
export const DEVICE_GET_INFO = 4;
export const DEVICE_GET_REGION_INFO = 5;
export const DEVICE_GET_REGION_IO_FDS = 6;
export const DEVICE_GET_IRQ_INFO = 7;
export const DEVICE_SET_IRQS = 8;
export const REGION_READ = 9;
export const REGION_WRITE = 10;
export const DMA_READ = 11;
export const DMA_WRITE = 12;
export const DEVICE_RESET = 13;
export const DIRTY_PAGES = 14;
export const REGION_WRITE_MULTI = 15;
export const DEVICE_FEATURE = 16;
export const MIG_DATA_READ = 17;
export const MIG_DATA_WRITE = 18;

const NAMES: Readonly<Record<number, string>> = {
  [VERSION]: 'VERSION',
  [DMA_MAP]: 'DMA_MAP',
  [DMA_UNMAP]: 'DMA_UNMAP',
  [DEVICE_GET_INFO]: 'DEVICE_GET_INFO',
  [DEVICE_GET_REGION_INFO]: 'DEVICE_GET_REGION_INFO',
  [DEVICE_GET_REGION_IO_FDS]: 'DEVICE_GET_REGION_IO_FDS',
  [DEVICE_GET_IRQ_INFO]: 'DEVICE_GET_IRQ_INFO',
  [DEVICE_SET_IRQS]: 'DEVICE_SET_IRQS',
  [REGION_READ]: 'REGION_READ',
  [REGION_WRITE]: 'REGION_WRITE',
  [DMA_READ]: 'DMA_READ',
  [DMA_WRITE]: 'DMA_WRITE',
  [DEVICE_RESET]: 'DEVICE_RESET',
  [DIRTY_PAGES]: 'DIRTY_PAGES',
  [REGION_WRITE_MULTI]: 'REGION_WRITE_MULTI',
  [DEVICE_FEATURE]: 'DEVICE_FEATURE',
  [MIG_DATA_READ]: 'MIG_DATA_READ',
  [MIG_DATA_WRITE]: 'MIG_DATA_WRITE',
};

export function commandName(command: number): string {
  return NAMES[command] ?? `command ${command}`;
}

export const ENOENT = 2;
export const EINVAL = 22;
export const ENOTTY = 25;
export const ENOSPC = 28;
export const EEXIST = 17;
export const EOPNOTSUPP = 95;

/** The device will not do what it was asked: the answer is an error, and the connection goes on. */
export class Refusal extends Error {
  readonly errno: number;

  constructor(errno: number, message: string) {
    super(message);
    this.errno = errno;
  }
}

// ---- messages ----

export const HEADER_BYTES = 16;
const TYPE_MASK = 0xf;
const TYPE_COMMAND = 0;
const TYPE_REPLY = 1;
const NO_REPLY = 0x10;
const ERROR = 0x20;

/** Most data in one message: REGION, DMA and migration data alike. */
export const MOST_DATA = 2 ** 20;
/** A message's payload: data, and what stands before it. */
const MOST_BYTES = MOST_DATA + 64;
/** The first message, before anything was agreed. */
const MOST_VERSION_BYTES = 65_536;
/** Descriptors in a message. */
export const MOST_FDS = 64;
/** Mappings at a time: each change works through all of them. */
export const MOST_MAPS = 4096;
export const MOST_BITMAP = 2 ** 20;

/** A message without its payload. */
export interface Header {
  readonly id: number;
  readonly command: number;
  readonly bytes: number;
  readonly kind: 'command' | 'posted' | 'reply';
  /** Of a reply: 0, or an error. */
  readonly error: number;
}

/** A received message. Whoever keeps a descriptor takes it out of `fds`; the rest is closed. */
export interface Message extends Header {
  readonly payload: DataView;
  readonly fds: number[];
}

/** @throws ProtocolError */
export function readHeader(view: DataView, agreed: boolean): Header {
  const id = view.getUint16(0, true);
  const command = view.getUint16(2, true);
  const size = view.getUint32(4, true);
  const flags = view.getUint32(8, true);
  const type = flags & TYPE_MASK;
  if ((flags & ~(TYPE_MASK | NO_REPLY | ERROR)) !== 0 || type > TYPE_REPLY)
    throw new ProtocolError(`${commandName(command)}: header flags 0x${flags.toString(16)}`);
  const most = agreed ? MOST_BYTES : MOST_VERSION_BYTES;
  if (size < HEADER_BYTES || size - HEADER_BYTES > most)
    throw new ProtocolError(`${commandName(command)}: a message of ${size} bytes; they have ${HEADER_BYTES} to ${HEADER_BYTES + most}`);
  const kind = type === TYPE_REPLY ? 'reply' : (flags & NO_REPLY) !== 0 ? 'posted' : 'command';
  // An error without a number is an error still.
  const error = kind === 'reply' && (flags & ERROR) !== 0 ? view.getUint32(12, true) || EINVAL : 0;
  return { id, command, bytes: size - HEADER_BYTES, kind, error };
}

function message(id: number, command: number, flags: number, error: number, payload: Uint8Array | undefined): Uint8Array {
  const bytes = new Uint8Array(new ArrayBuffer(HEADER_BYTES + (payload?.length ?? 0)));
  const view = new DataView(bytes.buffer);
  view.setUint16(0, id, true);
  view.setUint16(2, command, true);
  view.setUint32(4, bytes.length, true);
  view.setUint32(8, flags, true);
  view.setUint32(12, error, true);
  if (payload !== undefined) bytes.set(payload, HEADER_BYTES);
  return bytes;
}

export function makeReply({ id, command }: Header, payload?: Uint8Array): Uint8Array {
  return message(id, command, TYPE_REPLY, 0, payload);
}

export function makeErrorReply({ id, command }: Header, errno: number): Uint8Array {
  return message(id, command, TYPE_REPLY | ERROR, errno, undefined);
}

export function makeCommand(id: number, command: number, payload: Uint8Array): Uint8Array {
  return message(id, command, TYPE_COMMAND, 0, payload);
}

// ---- numbers ----

/** A payload of `bytes` bytes to fill. */
export function payloadOf(bytes: number): DataView {
  return new DataView(new ArrayBuffer(bytes));
}

export function bytesOf(view: DataView): Uint8Array {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}

/** A u64 that is exact. @throws Refusal when it is larger: nothing here has such addresses. */
export function readU64(view: DataView, offset: number): number {
  const value = view.getUint32(offset, true) + view.getUint32(offset + 4, true) * 2 ** 32;
  if (!Number.isSafeInteger(value)) throw new Refusal(EINVAL, `0x${view.getBigUint64(offset, true).toString(16)} is no address or size of ours`);
  return value;
}

export function writeU64(view: DataView, offset: number, value: number): void {
  view.setUint32(offset, value % 2 ** 32, true);
  view.setUint32(offset + 4, Math.floor(value / 2 ** 32), true);
}

/** @throws Refusal when a payload has not exactly, or not at least, so many bytes. */
export function requireBytes(payload: DataView, bytes: number, atLeast = false): void {
  if (atLeast ? payload.byteLength < bytes : payload.byteLength !== bytes)
    throw new Refusal(EINVAL, `${payload.byteLength} bytes of payload in place of ${atLeast ? 'at least ' : ''}${bytes}`);
}

/** What fits a client that gave room for `argsz` bytes: all of it, or the first `fixed` bytes, where argsz says how much there is. */
export function fitting(reply: DataView, argsz: number, fixed: number): Uint8Array {
  reply.setUint32(0, reply.byteLength, true);
  return bytesOf(reply).subarray(0, argsz >= reply.byteLength ? reply.byteLength : fixed);
}

// ---- VERSION ----

const count = z.number().int().min(0).max(Number.MAX_SAFE_INTEGER);

const VersionData = z.looseObject({
  capabilities: z
    .looseObject({
      max_msg_fds: count.optional(),
      max_data_xfer_size: count.min(1).optional(),
      pgsizes: count.optional(),
      max_dma_maps: count.optional(),
      write_multiple: z.boolean().optional(),
      migration: z.looseObject({ pgsize: count.optional(), max_bitmap_size: count.optional() }).optional(),
    })
    .optional(),
});

/** What a client can do, as far as it matters here. */
export interface Client {
  readonly minor: number;
  /** Most data in a message to it. */
  readonly mostData: number;
}

const MAJOR = 0;
const MINOR = 0;
const PAGE = 4096;
const DEFAULT_DATA = 2 ** 20;

/** @throws ProtocolError */
export function readVersion(payload: DataView): { readonly client: Client; readonly reply: Uint8Array } {
  if (payload.byteLength < 4) throw new ProtocolError(`VERSION: ${payload.byteLength} bytes of payload`);
  const major = payload.getUint16(0, true);
  const minor = payload.getUint16(2, true);
  if (major !== MAJOR) throw new ProtocolError(`VERSION: the client speaks ${major}.${minor}, this is ${MAJOR}.${MINOR}`);
  const given = capabilities(new Uint8Array(payload.buffer, payload.byteOffset + 4, payload.byteLength - 4));
  const least = (ours: number, theirs: number | undefined, byDefault: number): number => Math.min(ours, theirs ?? byDefault);
  const ours = {
    max_msg_fds: least(MOST_FDS, given.max_msg_fds, 1),
    max_data_xfer_size: least(MOST_DATA, given.max_data_xfer_size, DEFAULT_DATA),
    pgsizes: PAGE,
    max_dma_maps: least(MOST_MAPS, given.max_dma_maps, 65_535),
    ...(given.write_multiple === true && { write_multiple: true }),
    ...(given.migration && { migration: { pgsize: PAGE, max_bitmap_size: least(MOST_BITMAP, given.migration.max_bitmap_size, 2 ** 28) } }),
  };
  const json = new TextEncoder().encode(`${JSON.stringify({ capabilities: ours })}\0`);
  const reply = payloadOf(4 + json.length);
  reply.setUint16(0, MAJOR, true);
  reply.setUint16(2, Math.min(minor, MINOR), true);
  bytesOf(reply).set(json, 4);
  return { client: { minor: Math.min(minor, MINOR), mostData: given.max_data_xfer_size ?? DEFAULT_DATA }, reply: bytesOf(reply) };
}

function capabilities(data: Uint8Array): NonNullable<z.infer<typeof VersionData>['capabilities']> {
  if (data.length === 0) return {};
  if (data.indexOf(0) !== data.length - 1) throw new ProtocolError('VERSION: its data does not end with the one NUL');
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(data.subarray(0, -1)));
  } catch (error) {
    throw new ProtocolError(`VERSION: its data is no JSON: ${(error as Error).message}`);
  }
  const parsed = VersionData.safeParse(value);
  if (!parsed.success) throw new ProtocolError(`VERSION: ${z.prettifyError(parsed.error).replaceAll('\n', ' ')}`);
  return parsed.data.capabilities ?? {};
}
