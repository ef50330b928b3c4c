// The vhost-user protocol on the wire: requests, their sizes and descriptors, protocol features, and the shapes of payloads. Little-endian, as all supported hosts are.
// A message is checked here for what can be said of it alone; what it means for a connection is vhost-user-connection.ts's.

import type { FeatureSet } from '#virtio/features';

/** Front end to back end. */
export const GET_FEATURES = 1;
export const SET_FEATURES = 2;
export const SET_OWNER = 3;
export const RESET_OWNER = 4;
export const SET_MEM_TABLE = 5;
export const SET_LOG_BASE = 6;
export const SET_LOG_FD = 7;
export const SET_VRING_NUM = 8;
export const SET_VRING_ADDR = 9;
export const SET_VRING_BASE = 10;
export const GET_VRING_BASE = 11;
export const SET_VRING_KICK = 12;
export const SET_VRING_CALL = 13;
export const SET_VRING_ERR = 14;
export const GET_PROTOCOL_FEATURES = 15;
export const SET_PROTOCOL_FEATURES = 16;
export const GET_QUEUE_NUM = 17;
export const SET_VRING_ENABLE = 18;
export const SEND_RARP = 19;
export const NET_SET_MTU = 20;
export const SET_BACKEND_REQ_FD = 21;
export const IOTLB_MSG = 22;
export const GET_CONFIG = 24;
export const SET_CONFIG = 25;
export const GET_INFLIGHT_FD = 31;
export const SET_INFLIGHT_FD = 32;
export const RESET_DEVICE = 34;
export const VRING_KICK = 35;
export const GET_MAX_MEM_SLOTS = 36;
export const ADD_MEM_REG = 37;
export const REM_MEM_REG = 38;
export const SET_STATUS = 39;
export const GET_STATUS = 40;
export const SET_DEVICE_STATE_FD = 42;
export const CHECK_DEVICE_STATE = 43;

/** Back end to front end, on the channel of its own that SET_BACKEND_REQ_FD gives. */
const BACKEND_IOTLB_MSG = 1;
export const BACKEND_VRING_CALL = 4;
export const BACKEND_VRING_ERR = 5;

/** Protocol feature bits. */
export const PROTOCOL_F_MQ = 0;
const PROTOCOL_F_LOG_SHMFD = 1;
export const PROTOCOL_F_RARP = 2;
export const PROTOCOL_F_REPLY_ACK = 3;
export const PROTOCOL_F_MTU = 4;
export const PROTOCOL_F_BACKEND_REQ = 5;
export const PROTOCOL_F_CONFIG = 9;
export const PROTOCOL_F_INFLIGHT_SHMFD = 12;
const PROTOCOL_F_RESET_DEVICE = 13;
export const PROTOCOL_F_INBAND_NOTIFICATIONS = 14;
const PROTOCOL_F_CONFIGURE_MEM_SLOTS = 15;
const PROTOCOL_F_STATUS = 16;
const PROTOCOL_F_DEVICE_STATE = 19;
/** GET_VRING_BASE may leave chains in flight, in the in-flight area: here none ever are. */
export const PROTOCOL_F_GET_VRING_BASE_INFLIGHT = 20;

/** What is offered, besides what is offered on request: each is carried out whole. */
export const PROTOCOL_FEATURES: readonly number[] = [
  PROTOCOL_F_MQ,
  PROTOCOL_F_LOG_SHMFD,
  PROTOCOL_F_RARP,
  PROTOCOL_F_REPLY_ACK,
  PROTOCOL_F_MTU,
  PROTOCOL_F_BACKEND_REQ,
  PROTOCOL_F_CONFIG,
  PROTOCOL_F_INFLIGHT_SHMFD,
  PROTOCOL_F_RESET_DEVICE,
  PROTOCOL_F_CONFIGURE_MEM_SLOTS,
  PROTOCOL_F_STATUS,
  PROTOCOL_F_DEVICE_STATE,
  PROTOCOL_F_GET_VRING_BASE_INFLIGHT,
];

/** SET_DEVICE_STATE_FD: directions, the one phase there is, and the reply's bit for "use the descriptor you gave". */
export const STATE_SAVE = 0;
export const STATE_LOAD = 1;
export const STATE_PHASE_STOPPED = 0;
export const STATE_NO_FD = 0x100;

/** Device feature bit: protocol features may be negotiated. */
export const VHOST_USER_F_PROTOCOL_FEATURES = 30;
/** Device feature bit: what the device writes is logged. */
export const VHOST_F_LOG_ALL = 26;

export const HEADER_BYTES = 12;
const VERSION = 1;
const FLAG_VERSION = 3;
const FLAG_REPLY = 4;
const FLAG_NEED_REPLY = 8;
/** Longer than any payload there is. */
const MOST_BYTES = 512;
const CONFIG_HEADER_BYTES = 12;
const MOST_CONFIG_BYTES = 256;
const IOTLB_BYTES = 32;
/** A description of an in-flight area: 20 bytes, and what C puts behind them. */
const INFLIGHT_BYTES: readonly [number, number] = [20, 24];
export const MOST_REGIONS = 8;
/** Regions that may be added one by one. */
export const MOST_SLOTS = 512;
export const REGION_BYTES = 32;

/** What a peer sent breaks the protocol: the connection ends. */
export class ProtocolError extends Error {}

interface Shape {
  readonly name: string;
  /** Payload bytes: exactly, or at least and at most. */
  readonly bytes: number | readonly [number, number];
  /** Most descriptors that may come along. */
  readonly fds: number;
  /** The protocol feature it belongs to. */
  readonly needs?: number;
}

const SHAPES: Readonly<Record<number, Shape>> = {
  [GET_FEATURES]: { name: 'GET_FEATURES', bytes: 0, fds: 0 },
  [SET_FEATURES]: { name: 'SET_FEATURES', bytes: 8, fds: 0 },
  [SET_OWNER]: { name: 'SET_OWNER', bytes: 0, fds: 0 },
  [RESET_OWNER]: { name: 'RESET_OWNER', bytes: 0, fds: 0 },
  [SET_MEM_TABLE]: { name: 'SET_MEM_TABLE', bytes: [8, 8 + MOST_REGIONS * REGION_BYTES], fds: MOST_REGIONS },
  [SET_VRING_NUM]: { name: 'SET_VRING_NUM', bytes: 8, fds: 0 },
  [SET_VRING_ADDR]: { name: 'SET_VRING_ADDR', bytes: 40, fds: 0 },
  [SET_VRING_BASE]: { name: 'SET_VRING_BASE', bytes: 8, fds: 0 },
  [GET_VRING_BASE]: { name: 'GET_VRING_BASE', bytes: 8, fds: 0 },
  [SET_VRING_KICK]: { name: 'SET_VRING_KICK', bytes: 8, fds: 1 },
  [SET_VRING_CALL]: { name: 'SET_VRING_CALL', bytes: 8, fds: 1 },
  [SET_VRING_ERR]: { name: 'SET_VRING_ERR', bytes: 8, fds: 1 },
  [GET_PROTOCOL_FEATURES]: { name: 'GET_PROTOCOL_FEATURES', bytes: 0, fds: 0 },
  [SET_PROTOCOL_FEATURES]: { name: 'SET_PROTOCOL_FEATURES', bytes: 8, fds: 0 },
  [GET_QUEUE_NUM]: { name: 'GET_QUEUE_NUM', bytes: 0, fds: 0, needs: PROTOCOL_F_MQ },
  [SET_VRING_ENABLE]: { name: 'SET_VRING_ENABLE', bytes: 8, fds: 0 },
  [SET_LOG_BASE]: { name: 'SET_LOG_BASE', bytes: 16, fds: 1, needs: PROTOCOL_F_LOG_SHMFD },
  [SET_LOG_FD]: { name: 'SET_LOG_FD', bytes: [0, 8], fds: 1 },
  [SEND_RARP]: { name: 'SEND_RARP', bytes: 8, fds: 0, needs: PROTOCOL_F_RARP },
  [NET_SET_MTU]: { name: 'NET_SET_MTU', bytes: 8, fds: 0, needs: PROTOCOL_F_MTU },
  [SET_BACKEND_REQ_FD]: { name: 'SET_BACKEND_REQ_FD', bytes: [0, 8], fds: 1, needs: PROTOCOL_F_BACKEND_REQ },
  [IOTLB_MSG]: { name: 'IOTLB_MSG', bytes: IOTLB_BYTES, fds: 0, needs: PROTOCOL_F_BACKEND_REQ },
  [GET_CONFIG]: { name: 'GET_CONFIG', bytes: [CONFIG_HEADER_BYTES, CONFIG_HEADER_BYTES + MOST_CONFIG_BYTES], fds: 0, needs: PROTOCOL_F_CONFIG },
  [SET_CONFIG]: { name: 'SET_CONFIG', bytes: [CONFIG_HEADER_BYTES, CONFIG_HEADER_BYTES + MOST_CONFIG_BYTES], fds: 0, needs: PROTOCOL_F_CONFIG },
  [GET_INFLIGHT_FD]: { name: 'GET_INFLIGHT_FD', bytes: INFLIGHT_BYTES, fds: 0, needs: PROTOCOL_F_INFLIGHT_SHMFD },
  [SET_INFLIGHT_FD]: { name: 'SET_INFLIGHT_FD', bytes: INFLIGHT_BYTES, fds: 1, needs: PROTOCOL_F_INFLIGHT_SHMFD },
  [RESET_DEVICE]: { name: 'RESET_DEVICE', bytes: 0, fds: 0, needs: PROTOCOL_F_RESET_DEVICE },
  [VRING_KICK]: { name: 'VRING_KICK', bytes: 8, fds: 0, needs: PROTOCOL_F_INBAND_NOTIFICATIONS },
  [GET_MAX_MEM_SLOTS]: { name: 'GET_MAX_MEM_SLOTS', bytes: 0, fds: 0, needs: PROTOCOL_F_CONFIGURE_MEM_SLOTS },
  [ADD_MEM_REG]: { name: 'ADD_MEM_REG', bytes: 8 + REGION_BYTES, fds: 1, needs: PROTOCOL_F_CONFIGURE_MEM_SLOTS },
  [REM_MEM_REG]: { name: 'REM_MEM_REG', bytes: 8 + REGION_BYTES, fds: 1, needs: PROTOCOL_F_CONFIGURE_MEM_SLOTS },
  [SET_STATUS]: { name: 'SET_STATUS', bytes: 8, fds: 0, needs: PROTOCOL_F_STATUS },
  [GET_STATUS]: { name: 'GET_STATUS', bytes: 0, fds: 0, needs: PROTOCOL_F_STATUS },
  [SET_DEVICE_STATE_FD]: { name: 'SET_DEVICE_STATE_FD', bytes: 8, fds: 1, needs: PROTOCOL_F_DEVICE_STATE },
  [CHECK_DEVICE_STATE]: { name: 'CHECK_DEVICE_STATE', bytes: 0, fds: 0, needs: PROTOCOL_F_DEVICE_STATE },
};

export function requestName(request: number): string {
  return SHAPES[request]?.name ?? `request ${request}`;
}

/** A whole message. Whoever takes it owns the descriptors: what `takeFd` did not hand out, `fds` still holds. */
export interface Message {
  readonly request: number;
  readonly needsReply: boolean;
  readonly payload: DataView;
  readonly fds: number[];
}

export interface Header {
  readonly request: number;
  readonly needsReply: boolean;
  readonly bytes: number;
}

/** @throws ProtocolError */
export function readHeader(view: DataView): Header {
  const request = view.getUint32(0, true);
  const flags = view.getUint32(4, true);
  const bytes = view.getUint32(8, true);
  const shape = SHAPES[request];
  if ((flags & FLAG_VERSION) !== VERSION) throw new ProtocolError(`${requestName(request)}: protocol version ${flags & FLAG_VERSION}, not ${VERSION}`);
  if ((flags & FLAG_REPLY) !== 0) throw new ProtocolError(`${requestName(request)}: a reply, and nothing was asked`);
  if (shape === undefined) throw new ProtocolError(`request ${request}, which was not offered`);
  const [least, most] = typeof shape.bytes === 'number' ? [shape.bytes, shape.bytes] : shape.bytes;
  if (bytes < least || bytes > most || bytes > MOST_BYTES)
    throw new ProtocolError(`${shape.name}: payload of ${bytes} bytes, not ${least === most ? least : `${least} to ${most}`}`);
  return { request, needsReply: (flags & FLAG_NEED_REPLY) !== 0, bytes };
}

/** Whether a request may be made at all by now, with as many descriptors. @throws ProtocolError */
export function checkRequest(request: number, count: number, agreed: FeatureSet): void {
  const { fds: most = 0, needs } = SHAPES[request] ?? {};
  if (needs !== undefined && !agreed.has(needs)) throw new ProtocolError(`${requestName(request)}: protocol feature bit ${needs} was not negotiated`);
  if (count > most) throw new ProtocolError(`${requestName(request)}: ${count} descriptors, at most ${most} belong to it`);
}

/** A reply with `bytes` of payload, to be filled in. */
function makeReply(request: number, bytes: number): { readonly message: Uint8Array; readonly payload: DataView } {
  const message = new Uint8Array(new ArrayBuffer(HEADER_BYTES + bytes));
  const view = new DataView(message.buffer);
  view.setUint32(0, request, true);
  view.setUint32(4, VERSION | FLAG_REPLY, true);
  view.setUint32(8, bytes, true);
  return { message, payload: new DataView(message.buffer, HEADER_BYTES) };
}

export function makeU64Reply(request: number, low: number, high = 0): Uint8Array {
  const { message, payload } = makeReply(request, 8);
  payload.setUint32(0, low >>> 0, true);
  payload.setUint32(4, high >>> 0, true);
  return message;
}

/** A message to the front end on the back end's channel, which asks for no reply. */
export function makeBackendMessage(request: number, ...payload: number[]): Uint8Array {
  const message = new Uint8Array(new ArrayBuffer(HEADER_BYTES + 4 * payload.length));
  const view = new DataView(message.buffer);
  view.setUint32(0, request, true);
  view.setUint32(4, VERSION, true);
  view.setUint32(8, 4 * payload.length, true);
  payload.forEach((word, i) => {
    view.setUint32(HEADER_BYTES + 4 * i, word, true);
  });
  return message;
}

/** What an IOTLB message says. */
export const IOTLB_MISS = 1;
export const IOTLB_UPDATE = 2;
export const IOTLB_INVALIDATE = 3;
export const IOTLB_ACCESS_FAIL = 4;

export interface IotlbMessage {
  readonly iova: number;
  readonly size: number;
  readonly userAddress: number;
  /** DMA_READ | DMA_WRITE, as the protocol numbers them too. */
  readonly permissions: number;
  readonly type: number;
}

/** Numbers beyond what is exact here come as the largest that is: all of an address space may be meant. */
export function readIotlb(view: DataView): IotlbMessage {
  const u64 = (at: number): number => Math.min(Number.MAX_SAFE_INTEGER, view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32);
  return { iova: u64(0), size: u64(8), userAddress: u64(16), permissions: view.getUint8(24), type: view.getUint8(25) };
}

/** A message about one page, to the front end. */
export function makeIotlbMessage(page: number, type: number, access: number, needsReply: boolean): Uint8Array {
  const message = makeBackendMessage(BACKEND_IOTLB_MSG, page >>> 0, Math.floor(page / 2 ** 32), 4096, 0, 0, 0, access | (type << 8), 0);
  if (needsReply) new DataView(message.buffer).setUint32(4, VERSION | FLAG_NEED_REPLY, true);
  return message;
}

/** Whether a message on the back end's channel answers `request` with a number. */
export function isBackendAnswer(view: DataView, request: number): boolean {
  const flags = view.getUint32(4, true);
  return view.getUint32(0, true) === request && (flags & (FLAG_VERSION | FLAG_REPLY)) === (VERSION | FLAG_REPLY) && view.getUint32(8, true) === 8;
}

export interface ConfigAccess {
  readonly offset: number;
  readonly bytes: number;
}

/** GET_CONFIG's and SET_CONFIG's head: its size says how many bytes follow. @throws ProtocolError */
export function readConfigAccess(view: DataView): ConfigAccess {
  const offset = view.getUint32(0, true);
  const bytes = view.getUint32(4, true);
  if (bytes !== view.byteLength - CONFIG_HEADER_BYTES || offset + bytes > MOST_CONFIG_BYTES)
    throw new ProtocolError(`${bytes} bytes of configuration at ${offset} in a payload of ${view.byteLength}`);
  return { offset, bytes };
}

/** GET_CONFIG's reply: the request's head again, and the bytes, to be filled in. */
export function makeConfigReply(request: DataView, bytes: number): { readonly message: Uint8Array; readonly into: Uint8Array } {
  const { message } = makeReply(GET_CONFIG, CONFIG_HEADER_BYTES + bytes);
  message.set(new Uint8Array(request.buffer, request.byteOffset, CONFIG_HEADER_BYTES), HEADER_BYTES);
  return { message, into: message.subarray(HEADER_BYTES + CONFIG_HEADER_BYTES) };
}

/** A 64-bit number that has to be an exact integer here. @throws ProtocolError */
export function readU64(view: DataView, at: number, what: string): number {
  const value = view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32;
  if (!Number.isSafeInteger(value)) throw new ProtocolError(`${what} 0x${view.getBigUint64(at, true).toString(16)} is out of range`);
  return value;
}

export interface InflightDescription {
  readonly bytes: number;
  readonly offset: number;
  readonly queues: number;
  readonly size: number;
}

/** @throws ProtocolError */
export function readInflight(view: DataView): InflightDescription {
  return {
    bytes: readU64(view, 0, 'in-flight size'),
    offset: readU64(view, 8, 'in-flight offset'),
    queues: view.getUint16(16, true),
    size: view.getUint16(18, true),
  };
}

/** GET_INFLIGHT_FD's reply, as long as the request was. */
export function makeInflightReply(request: DataView, area: InflightDescription): Uint8Array {
  const { message, payload } = makeReply(GET_INFLIGHT_FD, request.byteLength);
  payload.setUint32(0, area.bytes, true);
  payload.setUint16(16, area.queues, true);
  payload.setUint16(18, area.size, true);
  return message;
}

export interface VringAddresses {
  readonly descriptor: number;
  readonly used: number;
  readonly available: number;
}

/** Addresses of the front end's process. @throws ProtocolError */
export function readVringAddresses(view: DataView): VringAddresses {
  return {
    descriptor: readU64(view, 8, 'descriptor table address'),
    used: readU64(view, 16, 'used ring address'),
    available: readU64(view, 24, 'available ring address'),
  };
}

export interface RegionDescription {
  readonly guestAddress: number;
  readonly size: number;
  readonly userAddress: number;
  readonly fileOffset: number;
}

/** @throws ProtocolError */
export function readRegion(view: DataView, at: number): RegionDescription {
  return {
    guestAddress: readU64(view, at, 'guest address'),
    size: readU64(view, at + 8, 'region size'),
    userAddress: readU64(view, at + 16, 'user address'),
    fileOffset: readU64(view, at + 24, 'mmap offset'),
  };
}
