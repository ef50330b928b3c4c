// A vfio-user client: what QEMU is on the other end of the socket, written from the protocol's description with its own constants. Its memory is a memfd and, for what it
// lends by message only, an array.

import { closeSync } from 'node:fs';
import { setImmediate as turn } from 'node:timers/promises';
import { GuestMemory } from '#core/guest-memory';
import { type EventPoll, givePollBack, takePoll, type Watch } from '#interop/event-poll';
import { MappedRegion } from '#interop/mapped-memory';
import { type Native, openNative } from '#interop/native';

export const COMMAND = {
  VERSION: 1,
  DMA_MAP: 2,
  DMA_UNMAP: 3,
  GET_INFO: 4,
  GET_REGION_INFO: 5,
  GET_REGION_IO_FDS: 6,
  GET_IRQ_INFO: 7,
  SET_IRQS: 8,
  REGION_READ: 9,
  REGION_WRITE: 10,
  DMA_READ: 11,
  DMA_WRITE: 12,
  RESET: 13,
  DIRTY_PAGES: 14,
  WRITE_MULTI: 15,
  FEATURE: 16,
  MIG_READ: 17,
  MIG_WRITE: 18,
} as const;

export const CONFIG = 7;
export const STATE = { ERROR: 0, STOP: 1, RUNNING: 2, STOP_COPY: 3, RESUMING: 4, PRE_COPY: 6 } as const;
export const IRQ = { NONE: 1, BOOL: 2, EVENTFD: 4, MASK: 8, UNMASK: 16, TRIGGER: 32 } as const;
export const FEATURE = { GET: 0x10000, SET: 0x20000, PROBE: 0x40000, MIGRATION: 1, STATE: 2, LOG_START: 6, LOG_STOP: 7, LOG_REPORT: 8 } as const;

/** Fields one after the other: numbers are u32, bigints u64. */
export function pack(...fields: (number | bigint | Uint8Array)[]): Uint8Array {
  const parts = fields.map((field) => {
    if (field instanceof Uint8Array) return field;
    const bytes = new Uint8Array(typeof field === 'bigint' ? 8 : 4);
    const view = new DataView(bytes.buffer);
    if (typeof field === 'bigint') view.setBigUint64(0, field, true);
    else view.setUint32(0, field >>> 0, true);
    return bytes;
  });
  const all = new Uint8Array(new ArrayBuffer(parts.reduce((sum, part) => sum + part.length, 0)));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

export interface Frame {
  readonly id: number;
  readonly command: number;
  readonly flags: number;
  readonly error: number;
  readonly payload: DataView;
}

/** A message's bytes; `size` says something else than is true. */
export function frame(id: number, command: number, flags: number, payload: Uint8Array = new Uint8Array(0), size = 16 + payload.length, error = 0): Uint8Array {
  const bytes = new Uint8Array(new ArrayBuffer(16 + payload.length));
  const view = new DataView(bytes.buffer);
  view.setUint16(0, id, true);
  view.setUint16(2, command, true);
  view.setUint32(4, size, true);
  view.setUint32(8, flags, true);
  view.setUint32(12, error, true);
  bytes.set(payload, 16);
  return bytes;
}

const CAPABILITIES = { max_msg_fds: 16, max_data_xfer_size: 1_048_576, max_dma_maps: 65_535, pgsizes: 4096, write_multiple: true, migration: { pgsize: 4096 } };

export function versionPayload(capabilities: unknown = CAPABILITIES, major = 0, minor = 0): Uint8Array {
  const text = new TextEncoder().encode(`${JSON.stringify({ capabilities })}\0`);
  return pack(new Uint8Array([major, 0, minor, 0]), text);
}

/** The server refused. */
class Refused extends Error {
  readonly errno: number;

  constructor(command: number, errno: number) {
    super(`command ${command} was refused with ${errno}`);
    this.errno = errno;
  }
}

export const MEMORY_BYTES = 4 * 2 ** 20;

export class VfioClient {
  readonly native: Native = openNative();
  readonly fd: number;
  /** Lent by message: bytes from `remoteBase` on. */
  remote = new Uint8Array(new ArrayBuffer(2 ** 20));
  remoteBase = 0x4000_0000;
  dmaReads = 0;
  dmaWrites = 0;
  /** Called before a DMA message is answered; false: it is not answered. */
  onDma: ((request: Frame) => boolean) | undefined;
  memoryFd = -1;
  memory: GuestMemory | undefined;
  #region: MappedRegion | undefined;
  #next = 1;
  #open = true;
  readonly #replies = new Map<number, Frame>();
  readonly #waiting = new Map<number, (reply: Frame) => void>();
  /** The server hung up. */
  ended = false;
  #bytes = new Uint8Array(new ArrayBuffer(16));
  #have = 0;
  readonly #poll: EventPoll;
  readonly #watch: Watch;
  readonly #eventfds: number[] = [];

  constructor(path: string) {
    this.fd = this.native.sockets.connect(path);
    if (this.fd < 0) throw new Error(`cannot connect to ${path}: ${this.fd}`);
    // The server's own set: what lets a server on this thread wait for this client.
    this.#poll = takePoll(this.native);
    const watch = this.#poll.add(this.fd, this.#pump);
    if (typeof watch === 'number') throw new Error(`cannot wait: ${watch}`);
    this.#watch = watch;
  }

  // ---- bytes ----

  sendBytes(bytes: Uint8Array, fds: readonly number[] = []): void {
    for (let at = 0; at < bytes.length; ) {
      const sent = this.native.sockets.send(this.fd, bytes.subarray(at), at === 0 ? fds : []);
      if (sent < 0) throw new Error(`sending failed: ${sent}`);
      at += sent;
    }
  }

  /** Takes what has come: answers are kept, or given to who waits for them; the server's DMA is served. Also called while the server waits on this thread. */
  #pump = (): void => {
    while (this.#open && !this.ended) {
      const wanted = this.#bytes.length - this.#have;
      const got = wanted === 0 ? 0 : this.native.sockets.receive(this.fd, this.#bytes, this.#have, wanted, []);
      if (got === -11) return;
      if (wanted > 0 && got <= 0) {
        this.ended = true;
        return;
      }
      this.#have += got;
      if (this.#have < this.#bytes.length) continue;
      const view = new DataView(this.#bytes.buffer);
      const size = view.getUint32(4, true);
      if (this.#have < size) {
        const bytes = new Uint8Array(new ArrayBuffer(size));
        bytes.set(this.#bytes);
        this.#bytes = bytes;
        continue;
      }
      const payload = new DataView(this.#bytes.buffer, 16);
      this.#bytes = new Uint8Array(new ArrayBuffer(16));
      this.#have = 0;
      this.#take({ id: view.getUint16(0, true), command: view.getUint16(2, true), flags: view.getUint32(8, true), error: view.getUint32(12, true), payload });
    }
  };

  #take(message: Frame): void {
    if ((message.flags & 0xf) !== 1) {
      this.#serveDma(message);
      return;
    }
    const waiting = this.#waiting.get(message.id);
    this.#waiting.delete(message.id);
    if (waiting !== undefined) waiting(message);
    else this.#replies.set(message.id, message);
  }

  async #until(what: string, holds: () => boolean): Promise<void> {
    const deadline = performance.now() + 20_000;
    for (this.#pump(); !holds(); this.#pump()) {
      if (performance.now() > deadline) throw new Error(`waited 20 s for ${what}`);
      await turn();
    }
  }

  /** Waits until the server hangs up; throws when it does not. */
  hangUp(): Promise<void> {
    return this.#until('the server to hang up', () => this.ended);
  }

  // ---- requests ----

  post(command: number, payload?: Uint8Array, fds: readonly number[] = [], flags = 0): number {
    const id = this.#next;
    this.#next = (this.#next + 1) & 0x7fff;
    this.sendBytes(frame(id, command, flags, payload), fds);
    return id;
  }

  async answer(id: number): Promise<DataView> {
    await this.#until('an answer', () => this.#replies.has(id) || this.ended || !this.#open);
    const reply = this.#replies.get(id);
    this.#replies.delete(id);
    if (reply === undefined) throw new Error('the server hung up');
    if ((reply.flags & 0x20) !== 0) throw new Refused(reply.command, reply.error);
    return reply.payload;
  }

  /** Calls `then` with the answer as soon as it is there, whoever keeps the thread. */
  whenAnswered(id: number, then: (reply: Frame) => void): void {
    this.#waiting.set(id, then);
  }

  /** The same while keeping the thread: a server on this thread answers within the wait. */
  askNow(command: number, payload?: Uint8Array): DataView {
    let reply: Frame | undefined;
    const deadline = performance.now() + 20_000;
    this.whenAnswered(this.post(command, payload), (frame) => {
      reply = frame;
    });
    for (this.#pump(); reply === undefined; this.#pump()) {
      if (this.ended || performance.now() > deadline) throw new Error(`command ${command} is not answered`);
      this.#poll.wait(100);
    }
    if ((reply.flags & 0x20) !== 0) throw new Refused(command, reply.error);
    return reply.payload;
  }

  loadNow(region: number, offset: number, size: number): number {
    const reply = this.askNow(COMMAND.REGION_READ, pack(BigInt(offset), region, size));
    let value = 0;
    for (let i = size - 1; i >= 0; i--) value = value * 256 + reply.getUint8(16 + i);
    return value;
  }

  async ask(command: number, payload?: Uint8Array, fds: readonly number[] = []): Promise<DataView> {
    return this.answer(this.post(command, payload, fds));
  }

  #serveDma(request: Frame): void {
    const address = Number(request.payload.getBigUint64(0, true));
    const count = Number(request.payload.getBigUint64(8, true));
    if (this.onDma?.(request) === false) return;
    const at = address - this.remoteBase;
    if (request.command === COMMAND.DMA_READ) {
      this.dmaReads++;
      this.sendBytes(frame(request.id, request.command, 1, pack(BigInt(address), BigInt(count), this.remote.slice(at, at + count))));
    } else if (request.command === COMMAND.DMA_WRITE) {
      this.dmaWrites++;
      this.remote.set(new Uint8Array(request.payload.buffer, request.payload.byteOffset + 16, count), at);
      this.sendBytes(frame(request.id, request.command, 1, pack(BigInt(address), count)));
    } else throw new Error(`the server asks for command ${request.command}`);
  }

  async hello(capabilities?: unknown): Promise<{ capabilities: Record<string, unknown> }> {
    const reply = await this.ask(COMMAND.VERSION, versionPayload(capabilities ?? CAPABILITIES));
    const text = new TextDecoder().decode(new Uint8Array(reply.buffer, reply.byteOffset + 4));
    if (!text.endsWith('\0')) throw new Error('VERSION does not end with NUL');
    return JSON.parse(text.slice(0, -1));
  }

  // ---- memory ----

  makeMemory(base: number, bytes = MEMORY_BYTES): GuestMemory {
    this.memoryFd = this.native.memory.memfd('vfio-client', bytes);
    this.#region = new MappedRegion(this.native, this.memoryFd, 0, bytes);
    const part = this.#region.parts[0] as { buffer: SharedArrayBuffer; byteOffset: number };
    this.memory = new GuestMemory([{ base, size: bytes, source: part.buffer, sourceOffset: part.byteOffset }]);
    return this.memory;
  }

  mapDma(iova: number, size: number, options: { fd?: number; offset?: number; flags?: number } = {}): Promise<DataView> {
    const { fd, offset = 0, flags = 3 } = options;
    return this.ask(COMMAND.DMA_MAP, pack(32, flags, BigInt(offset), BigInt(iova), BigInt(size)), fd === undefined ? [] : [fd]);
  }

  unmapDma(iova: number, size: number): Promise<DataView> {
    return this.ask(COMMAND.DMA_UNMAP, pack(24, 0, BigInt(iova), BigInt(size)));
  }

  mapRemote(): Promise<DataView> {
    return this.mapDma(this.remoteBase, this.remote.length);
  }

  // ---- regions ----

  async load(region: number, offset: number, size: number): Promise<number> {
    const reply = await this.ask(COMMAND.REGION_READ, pack(BigInt(offset), region, size));
    let value = 0;
    for (let i = size - 1; i >= 0; i--) value = value * 256 + reply.getUint8(16 + i);
    return value;
  }

  storePayload(region: number, offset: number, size: number, value: number): Uint8Array {
    const data = Uint8Array.from({ length: size }, (_, i) => Math.floor(value / 2 ** (8 * i)) & 0xff);
    return pack(BigInt(offset), region, size, data);
  }

  store(region: number, offset: number, size: number, value: number): Promise<DataView> {
    return this.ask(COMMAND.REGION_WRITE, this.storePayload(region, offset, size, value));
  }

  postStore(region: number, offset: number, size: number, value: number): void {
    this.post(COMMAND.REGION_WRITE, this.storePayload(region, offset, size, value), [], 0x10);
  }

  // ---- interrupts ----

  eventfd(): number {
    const fd = this.native.events.eventfd();
    this.#eventfds.push(fd);
    return fd;
  }

  setIrqs(flags: number, index: number, start: number, count: number, fds: readonly number[] = [], data = new Uint8Array(0)): Promise<DataView> {
    return this.ask(COMMAND.SET_IRQS, pack(20 + data.length, flags, index, start, count, data), fds);
  }

  /** What an eventfd has counted; 0: nothing. */
  count(fd: number): number {
    const into = new Uint8Array(new ArrayBuffer(8));
    return this.native.events.readEvent(fd, into) === 8 ? Number(new DataView(into.buffer).getBigUint64(0, true)) : 0;
  }

  // ---- features ----

  async feature(flags: number, data: Uint8Array = new Uint8Array(0), argsz = 2 ** 20): Promise<DataView> {
    return this.ask(COMMAND.FEATURE, pack(argsz, flags, data));
  }

  setState(state: number): Promise<DataView> {
    return this.feature(FEATURE.SET | FEATURE.STATE, pack(state, 0xffff_ffff));
  }

  async state(): Promise<number> {
    return (await this.feature(FEATURE.GET | FEATURE.STATE)).getUint32(8, true);
  }

  /** Reads migration data until there is no more. */
  async takeState(piece = 1000): Promise<Uint8Array> {
    const pieces: Uint8Array[] = [];
    for (;;) {
      const reply = await this.ask(COMMAND.MIG_READ, pack(8 + piece, piece));
      const size = reply.getUint32(4, true);
      pieces.push(new Uint8Array(reply.buffer, reply.byteOffset + 8, size));
      if (size < piece) return pack(...pieces);
    }
  }

  async giveState(bytes: Uint8Array, piece = 777): Promise<void> {
    for (let at = 0; at < bytes.length; at += piece) {
      const part = bytes.slice(at, at + piece);
      await this.ask(COMMAND.MIG_WRITE, pack(8, part.length, part));
    }
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#watch.remove();
    givePollBack();
    this.native.close(this.fd);
    for (const fd of this.#eventfds) closeSync(fd);
    if (this.memoryFd >= 0) closeSync(this.memoryFd);
    this.#region?.unmap();
  }
}
