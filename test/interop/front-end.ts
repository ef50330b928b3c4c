// A small vhost-user front end: what QEMU and DPDK do on the other end of the socket, written from the protocol's description with its own constants, over the synthetic
// guest's rings. Its memory is a memfd that it maps like the back end does.

import { closeSync, unlinkSync } from 'node:fs';
import { setImmediate as turn } from 'node:timers/promises';
import type { LocalGuestBus } from '#core/guest-bus';
import { GuestMemory } from '#core/guest-memory';
import { GuestArena } from '#guest-sim/arena';
import { type FrameSink, ReceiveQueue } from '#guest-sim/net-receive';
import { TransmitQueue } from '#guest-sim/net-transmit';
import { PackedRing } from '#guest-sim/packed-ring';
import type { DriverRing } from '#guest-sim/ring';
import { SplitRing } from '#guest-sim/split-ring';
import { QueueKick } from '#guest-sim/virtio-pci';
import { MappedRegion } from '#interop/mapped-memory';
import { type Native, openNative } from '#interop/native';

export const REQUEST = {
  GET_FEATURES: 1,
  SET_FEATURES: 2,
  SET_OWNER: 3,
  RESET_OWNER: 4,
  SET_MEM_TABLE: 5,
  SET_VRING_NUM: 8,
  SET_VRING_ADDR: 9,
  SET_VRING_BASE: 10,
  GET_VRING_BASE: 11,
  SET_VRING_KICK: 12,
  SET_VRING_CALL: 13,
  SET_VRING_ERR: 14,
  GET_PROTOCOL_FEATURES: 15,
  SET_PROTOCOL_FEATURES: 16,
  GET_QUEUE_NUM: 17,
  SET_VRING_ENABLE: 18,
  SET_LOG_BASE: 6,
  SEND_RARP: 19,
  NET_SET_MTU: 20,
  SET_BACKEND_REQ_FD: 21,
  IOTLB_MSG: 22,
  GET_CONFIG: 24,
  SET_CONFIG: 25,
  GET_INFLIGHT_FD: 31,
  SET_INFLIGHT_FD: 32,
  RESET_DEVICE: 34,
  VRING_KICK: 35,
  GET_MAX_MEM_SLOTS: 36,
  ADD_MEM_REG: 37,
  REM_MEM_REG: 38,
  SET_STATUS: 39,
  GET_STATUS: 40,
  SET_DEVICE_STATE_FD: 42,
  CHECK_DEVICE_STATE: 43,
} as const;

export const FEATURE = {
  MTU: 3,
  MAC: 5,
  MRG_RXBUF: 15,
  CTRL_VQ: 17,
  CTRL_RX: 18,
  CTRL_VLAN: 19,
  CTRL_MAC: 23,
  MQ: 22,
  LOG_ALL: 26,
  INDIRECT: 28,
  EVENT_IDX: 29,
  PROTOCOL: 30,
  VERSION_1: 32,
  ACCESS_PLATFORM: 33,
  PACKED: 34,
  IN_ORDER: 35,
} as const;
export const PROTOCOL = {
  MQ: 0,
  LOG_SHMFD: 1,
  RARP: 2,
  REPLY_ACK: 3,
  MTU: 4,
  BACKEND_REQ: 5,
  CONFIG: 9,
  INFLIGHT: 12,
  RESET: 13,
  INBAND: 14,
  SLOTS: 15,
  STATUS: 16,
  DEVICE_STATE: 19,
  BASE_INFLIGHT: 20,
} as const;
const NEED_REPLY = 8;

/** The bytes of one message. */
export function message(request: number, payload: Uint8Array = new Uint8Array(0), flags = 1, size = payload.length): Uint8Array {
  const bytes = new Uint8Array(new ArrayBuffer(12 + payload.length));
  const view = new DataView(bytes.buffer);
  view.setUint32(0, request, true);
  view.setUint32(4, flags, true);
  view.setUint32(8, size, true);
  bytes.set(payload, 12);
  return bytes;
}

export function u64(value: bigint): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, value, true);
  return bytes;
}

export function words(...values: number[]): Uint8Array {
  const bytes = new Uint8Array(4 * values.length);
  values.forEach((value, i) => {
    new DataView(bytes.buffer).setUint32(4 * i, value, true);
  });
  return bytes;
}

/** u64 fields one after the other. */
export function longs(...values: (number | bigint)[]): Uint8Array {
  const bytes = new Uint8Array(8 * values.length);
  values.forEach((value, i) => {
    new DataView(bytes.buffer).setBigUint64(8 * i, BigInt.asUintN(64, BigInt(value)), true);
  });
  return bytes;
}

export function concat(...parts: Uint8Array[]): Uint8Array {
  return Uint8Array.from(parts.flatMap((part) => [...part]));
}

/** The control socket alone. */
export class FrontSocket {
  readonly native: Native = openNative();
  fd: number;
  #open = true;

  constructor(path: string) {
    this.fd = this.native.sockets.connect(path);
    if (this.fd < 0) throw new Error(`cannot connect to ${path}: ${this.fd}`);
  }

  /** Connects to the next back end, once the last one is gone. */
  reconnect(path: string): void {
    this.#closeSocket();
    this.fd = this.native.sockets.connect(path);
    if (this.fd < 0) throw new Error(`cannot connect to ${path}: ${this.fd}`);
    this.#open = true;
  }

  send(bytes: Uint8Array, fds: readonly number[] = []): void {
    this.native.sockets.send(this.fd, bytes, fds);
  }

  /** Both ends of a connected socket, in place of a pipe. */
  socketPair(path: string): [number, number] {
    const listener = this.native.sockets.listen(path);
    const near = this.native.sockets.connect(path);
    const far = this.native.sockets.accept(listener);
    this.native.close(listener);
    unlinkSync(path);
    return [near, far];
  }

  /** The next bytes of exactly this many, or undefined when the other side hung up. */
  async read(bytes: number, milliseconds = 5000): Promise<DataView | undefined> {
    const into = new Uint8Array(new ArrayBuffer(bytes));
    const deadline = performance.now() + milliseconds;
    for (let have = 0; have < bytes; ) {
      const got = this.native.sockets.receive(this.fd, into, have, bytes - have, []);
      if (got === 0 || got === -104) return undefined;
      if (got > 0) have += got;
      else if (performance.now() > deadline) throw new Error(`waited ${milliseconds} ms for ${bytes} bytes of a reply, have ${have}`);
      else await turn();
    }
    return new DataView(into.buffer);
  }

  /** A reply with a descriptor. */
  async replyWithFd(): Promise<{ readonly payload: DataView; readonly fd: number }> {
    const fds: number[] = [];
    const bytes = new Uint8Array(new ArrayBuffer(256));
    for (const deadline = performance.now() + 5000; ; await turn()) {
      const got = this.native.sockets.receive(this.fd, bytes, 0, bytes.length, fds);
      if (got > 0) return { payload: new DataView(bytes.buffer, 12, got - 12), fd: fds[0] as number };
      if (got === 0 || performance.now() > deadline) throw new Error('no reply');
    }
  }

  /** A reply's payload, or undefined when the other side hung up instead. */
  async reply(): Promise<DataView | undefined> {
    const header = await this.read(12);
    if (header === undefined) return undefined;
    const size = header.getUint32(8, true);
    if ((header.getUint32(4, true) & 7) !== 5) throw new Error(`not a reply: flags ${header.getUint32(4, true)}`);
    return size === 0 ? header : await this.read(size);
  }

  async ask(request: number, payload?: Uint8Array): Promise<DataView> {
    this.send(message(request, payload));
    const reply = await this.reply();
    if (reply === undefined) throw new Error(`request ${request}: the back end hung up`);
    return reply;
  }

  /** With NEED_REPLY; throws unless it was acknowledged. */
  async tell(request: number, payload?: Uint8Array, fds: readonly number[] = []): Promise<void> {
    this.send(message(request, payload, 1 | NEED_REPLY), fds);
    const reply = await this.reply();
    if (reply === undefined) throw new Error(`request ${request}: the back end hung up`);
    const result = reply.getBigUint64(0, true);
    if (result !== 0n) throw new Error(`request ${request}: refused with ${result}`);
  }

  /** Waits until the other side hangs up; throws when it does not. */
  async hangUp(): Promise<void> {
    while ((await this.read(1)) !== undefined);
  }

  #closeSocket(): void {
    if (this.#open) this.native.close(this.fd);
    this.#open = false;
  }

  close(): void {
    this.#closeSocket();
  }
}

class EventKick extends QueueKick {
  readonly fd: number;
  readonly #native: Native;

  constructor(native: Native) {
    super(null as unknown as LocalGuestBus, 0, 0, 'short');
    this.#native = native;
    this.fd = native.events.eventfd();
  }

  override ring(): void {
    this.kicks++;
    this.#native.events.writeEvent(this.fd);
  }
}

export interface FrontEndOptions {
  readonly packed?: boolean;
  readonly mergeable?: boolean;
  readonly eventIdx?: boolean;
  readonly size?: number;
  readonly pairs?: number;
  /** Guest-physical address of the memory, and the address it has "in this process": any numbers will do. */
  readonly base?: number;
  readonly userBase?: number;
  /** More protocol features, and more device features, than every front end here takes. */
  readonly protocol?: readonly number[];
  readonly features?: readonly number[];
  /** Device addresses are an IOMMU's: the memory lies there in guest-physical space, `base` is where the driver sees it. */
  readonly physical?: number;
  /** A control queue behind the data rings. */
  readonly control?: boolean;
}

export const MEMORY_BYTES = 8 * 2 ** 20;
const BUFFER = 2048;

export interface FrontQueue {
  readonly ring: DriverRing;
  readonly kick: EventKick;
  readonly callFd: number;
}

/** A whole front end with a running driver: receive and transmit queues of each pair. */
export class FrontEnd extends FrontSocket {
  readonly memoryFd: number;
  readonly region: MappedRegion;
  readonly arena: GuestArena;
  readonly memory: GuestMemory;
  readonly receive: ReceiveQueue[] = [];
  readonly transmit: TransmitQueue[] = [];
  readonly queues: FrontQueue[] = [];
  readonly options: Required<FrontEndOptions>;

  constructor(path: string, options: FrontEndOptions = {}) {
    super(path);
    this.options = {
      packed: false,
      mergeable: true,
      eventIdx: true,
      size: 256,
      pairs: 1,
      base: 0x10_0000_0000,
      userBase: 0x7f00_1234_5000,
      protocol: [],
      features: [],
      control: false,
      physical: 0,
      ...options,
    };
    this.memoryFd = this.native.memory.memfd('test-guest', MEMORY_BYTES);
    this.region = new MappedRegion(this.native, this.memoryFd, 0, MEMORY_BYTES);
    const part = this.region.parts[0] as { buffer: SharedArrayBuffer; byteOffset: number };
    this.memory = new GuestMemory([{ base: this.options.base, size: MEMORY_BYTES, source: part.buffer, sourceOffset: part.byteOffset }]);
    this.arena = new GuestArena(this.memory);
  }

  async negotiate(): Promise<void> {
    const { protocol } = this.options;
    const mask = (bits: readonly number[]): bigint => bits.reduce((all, bit) => all | (1n << BigInt(bit)), 0n);
    await this.ask(REQUEST.GET_FEATURES);
    await this.ask(REQUEST.GET_PROTOCOL_FEATURES);
    this.send(message(REQUEST.SET_PROTOCOL_FEATURES, u64(mask([PROTOCOL.MQ, PROTOCOL.REPLY_ACK, ...protocol]))));
    await this.tell(REQUEST.SET_OWNER);
    await this.setFeatures();
  }

  async setFeatures(...more: number[]): Promise<void> {
    const { packed, mergeable, eventIdx, pairs, features } = this.options;
    const bits: number[] = [FEATURE.PROTOCOL, FEATURE.VERSION_1, FEATURE.INDIRECT, ...features, ...more];
    if (packed) bits.push(FEATURE.PACKED);
    if (mergeable) bits.push(FEATURE.MRG_RXBUF);
    if (eventIdx) bits.push(FEATURE.EVENT_IDX);
    if (pairs > 1) bits.push(FEATURE.MQ);
    await this.tell(REQUEST.SET_FEATURES, u64(bits.reduce((all, bit) => all | (1n << BigInt(bit)), 0n)));
  }

  get regionPayload(): Uint8Array {
    return longs(this.options.physical || this.options.base, MEMORY_BYTES, this.options.userBase, 0);
  }

  async setMemory(): Promise<void> {
    await this.tell(REQUEST.SET_MEM_TABLE, concat(words(1, 0), this.regionPayload), [this.memoryFd]);
  }

  /** Makes the rings, with receive buffers posted; nobody serves them yet. */
  makeQueues(): void {
    const { packed, eventIdx, size, mergeable, pairs, control } = this.options;
    for (let index = 0; index < 2 * pairs + (control ? 1 : 0); index++) {
      const common = { arena: this.arena, size, eventIdx, indirect: true, inOrder: false, maxSegments: 4 };
      const ring = packed ? new PackedRing(common) : new SplitRing(common);
      const kick = new EventKick(this.native);
      this.queues.push({ ring, kick, callFd: this.native.events.eventfd() });
      if (index === 2 * pairs) continue;
      if (index % 2 === 0) {
        const queue = new ReceiveQueue({
          arena: this.arena,
          ring,
          index,
          mergeable,
          bufferSize: BUFFER,
          pieceSize: BUFFER,
          buffers: size,
          gsoTypes: 0,
          checksum: false,
          ecn: false,
        });
        queue.kick = kick;
        queue.stock();
        ring.publish();
        this.receive.push(queue);
      } else {
        const queue = new TransmitQueue({ arena: this.arena, ring, index, bufferSize: BUFFER, buffers: size, maxSegments: 4, separateHeader: false });
        queue.kick = kick;
        this.transmit.push(queue);
      }
    }
  }

  addressPayload(index: number): Uint8Array {
    const { ring } = this.queues[index] as FrontQueue;
    const user = (guest: number): number => (this.options.physical > 0 ? guest : guest - this.options.base + this.options.userBase);
    const { desc, driver, device } = ring.addresses;
    return concat(words(index, 0), longs(user(desc), user(device), user(driver), 0));
  }

  async startRing(index: number, base = this.options.packed ? 0x80008000 : 0): Promise<void> {
    const { kick, callFd } = this.queues[index] as FrontQueue;
    await this.tell(REQUEST.SET_VRING_NUM, words(index, this.options.size));
    await this.tell(REQUEST.SET_VRING_BASE, words(index, base));
    await this.tell(REQUEST.SET_VRING_ADDR, this.addressPayload(index));
    await this.tell(REQUEST.SET_VRING_KICK, longs(index), [kick.fd]);
    await this.tell(REQUEST.SET_VRING_CALL, longs(index), [callFd]);
  }

  async enable(index: number, on = true): Promise<void> {
    await this.tell(REQUEST.SET_VRING_ENABLE, words(index, on ? 1 : 0));
  }

  async stopRing(index: number): Promise<number> {
    return (await this.ask(REQUEST.GET_VRING_BASE, words(index, 0))).getUint32(4, true);
  }

  /** All of it: a driver whose rings run. */
  async start(): Promise<this> {
    await this.negotiate();
    return this.begin();
  }

  /** After `negotiate`. */
  async begin(): Promise<this> {
    await this.setMemory();
    this.makeQueues();
    for (let index = 0; index < this.queues.length; index++) await this.startRing(index);
    for (let index = 0; index < this.queues.length; index++) await this.enable(index);
    return this;
  }

  /** Runs a command of the control queue; returns its ack. */
  async command(...bytes: number[]): Promise<number> {
    const { ring, kick } = this.queues[2 * this.options.pairs] as FrontQueue;
    const at = this.arena.allocate(bytes.length + 1);
    const ack = at + bytes.length;
    this.arena.u8.set([...bytes, 0xff], at);
    ring.addList(Int32Array.of(at, ack), Int32Array.of(bytes.length, 1), 1, 1, 7);
    if (ring.publish()) kick.ring();
    const deadline = performance.now() + 20_000;
    while (ring.harvest(new Int32Array(1), new Int32Array(1), 1) === 0) {
      if (performance.now() > deadline) throw new Error(`control command ${bytes} was not answered`);
      await turn();
    }
    return this.arena.u8[ack] as number;
  }

  /** Sends every frame on a pair, as room comes; waits for all of them to be completed. */
  async sendFrames(frames: readonly Uint8Array[], pair = 0, milliseconds = 20_000): Promise<void> {
    const queue = this.transmit[pair] as TransmitQueue;
    const deadline = performance.now() + milliseconds;
    const bound = (): void => {
      if (performance.now() > deadline)
        throw new Error(`waited ${milliseconds} ms for transmit buffers to come back: ${queue.ring.outstanding} are out; ${queue.broken}`);
    };
    for (const frame of frames) {
      for (let at = queue.reserve(); ; at = queue.reserve()) {
        if (at >= 0) {
          this.arena.u8.set(frame, at);
          queue.send(frame.length);
          break;
        }
        queue.flush();
        bound();
        await turn();
      }
    }
    queue.flush();
    while (queue.ring.outstanding > 0) {
      queue.reclaim();
      bound();
      await turn();
    }
  }

  /** Receives until there are `count` frames over all pairs. */
  async receiveFrames(count: number, milliseconds = 20_000): Promise<Uint8Array[]> {
    const frames: Uint8Array[] = [];
    const sink: FrameSink = {
      receive: (frame) => {
        frames.push(Uint8Array.from({ length: frame.length }, (_, i) => frame.byte(i)));
      },
    };
    const deadline = performance.now() + milliseconds;
    while (frames.length < count) {
      for (const queue of this.receive) {
        queue.poll(256, sink);
        if (queue.broken !== '') throw new Error(queue.broken);
      }
      if (performance.now() > deadline) throw new Error(`waited ${milliseconds} ms for ${count} frames, have ${frames.length}`);
      await turn();
    }
    return frames;
  }

  override close(): void {
    super.close();
    closeSync(this.memoryFd);
    for (const { kick, callFd } of this.queues) {
      closeSync(kick.fd);
      closeSync(callFd);
    }
    this.region.unmap();
  }
}

/** A frame of `length` bytes that says who sent it, to whom, and which it is. */
export function frame(from: number, to: number, sequence: number, length = 64): Uint8Array {
  const bytes = new Uint8Array(length);
  bytes.set([2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from, 0x88, 0xb5]);
  for (let i = 14; i < length; i++) bytes[i] = (sequence + i * 7) & 0xff;
  new DataView(bytes.buffer).setUint32(14, sequence);
  return bytes;
}
