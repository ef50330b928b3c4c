// The one module with foreign functions: what Node lacks of Linux to speak vhost-user - file descriptors over UNIX sockets, mappings, eventfds, epoll, ioctl. A thin
// layer over libc by koffi, an optional dependency. Calls return what libc does, or minus the error number; who calls says what it means.

import { closeSync, fstatSync, readlinkSync } from 'node:fs';
import { createRequire } from 'node:module';
import { EventSignals } from './event-signals.ts';

export type InteropErrorCode =
  | 'NICBOX_NATIVE_MISSING'
  | 'NICBOX_NATIVE_PLATFORM'
  | 'NICBOX_NATIVE_CALL'
  | 'NICBOX_SOCKET'
  | 'NICBOX_VHOST_USER_OPTION'
  | 'NICBOX_VHOST_USER_PEER'
  | 'NICBOX_RAM_NOT_SHAREABLE'
  | 'NICBOX_TAP'
  | 'NICBOX_UML_PCI_OPTION';

/** What an embedder or the platform got wrong; `code` is stable. */
export class InteropError extends Error {
  readonly code: InteropErrorCode;

  constructor(code: InteropErrorCode, message: string) {
    super(message);
    this.code = code;
  }
}

type NativeFunction = (...parameters: unknown[]) => number;

interface PollHandle {
  stop(): void;
  close(): void;
  unref(): void;
}

/** As much of koffi as is used here. */
interface Koffi {
  load(path: string): { func(name: string, result: string, parameters: string[]): NativeFunction };
  errno(): number;
  readonly node: { poll(fd: number, options: { readable: boolean }, callback: () => void): PollHandle };
}

const NO_SUCH = 2;
export const EAGAIN = 11;
const EINTR = 4;
const EINVAL = 22;
const EOPNOTSUPP = 95;
const RWF_NOWAIT = 8;

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_NONBLOCK = 0o4000;
const SOCK_CLOEXEC = 0o2000000;
const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const MSG_CMSG_CLOEXEC = 0x40000000;
const PROT_READ_WRITE = 3;
const MAP_SHARED = 1;
const MAP_PRIVATE = 2;
const MAP_FIXED = 0x10;
const MAP_ANONYMOUS = 0x20;
const MAP_NORESERVE = 0x4000;
const SHUT_WR = 1;
const EFD_CLOEXEC_NONBLOCK = SOCK_CLOEXEC | SOCK_NONBLOCK;
const MFD_CLOEXEC_SEALING = 3;
const LOCK_EXCLUSIVE_NOW = 2 | 4;
const F_GETFL = 3;
const F_SETFL = 4;
const F_ADD_SEALS = 1033;
const F_GET_SEALS = 1034;
const F_SEAL_SHRINK = 2;
const EPOLL_CLOEXEC = SOCK_CLOEXEC;
const EPOLL_ADD = 1;
const EPOLL_DEL = 2;
const EPOLLIN = 1;
const EPOLLOUT = 4;
const EPOLLET = 0x80000000;
/** The kernel passes at most so many descriptors in a message (SCM_MAX_FD). */
const MOST_FDS = 253;
const CONTROL_HEADER = 16;
const MESSAGE_HEADER = 56;
const PATH_BYTES = 108;

/** Bytes at an address that stays: a small typed array may live in the engine's heap and move. */
function fixed(bytes: number): Uint8Array {
  return new Uint8Array(new ArrayBuffer(bytes));
}

class Native {
  readonly #koffi: Koffi;
  readonly #call: Readonly<Record<string, NativeFunction>>;
  readonly #one = fixed(8);
  readonly #signals: EventSignals | undefined;
  // One message header for all: no call here is re-entered.
  readonly #message = fixed(MESSAGE_HEADER);
  readonly #messageView = new DataView(this.#message.buffer);
  readonly #vector = fixed(16);
  readonly #vectorView = new DataView(this.#vector.buffer);
  readonly #control = fixed(CONTROL_HEADER + 4 * MOST_FDS + 4);
  readonly #controlView = new DataView(this.#control.buffer);
  readonly #controlAddress: number;

  constructor(koffi: Koffi) {
    this.#koffi = koffi;
    const libc = koffi.load('libc.so.6');
    const f = (name: string, ...parameters: string[]): NativeFunction => libc.func(name, 'intptr_t', parameters);
    const i = (name: string, ...parameters: string[]): NativeFunction => libc.func(name, 'int', parameters);
    this.#call = {
      memcpy: f('memcpy', 'void *', 'void *', 'size_t'),
      recvmsg: f('recvmsg', 'int', 'void *', 'int'),
      sendmsg: f('sendmsg', 'int', 'void *', 'int'),
      read: f('read', 'int', 'void *', 'size_t'),
      write: f('write', 'int', 'void *', 'size_t'),
      readAt: libc.func('read', 'intptr_t', ['int', 'intptr_t', 'size_t']),
      writeAt: libc.func('write', 'intptr_t', ['int', 'intptr_t', 'size_t']),
      preadv2: f('preadv2', 'int', 'void *', 'int', 'int64_t', 'int'),
      system: libc.func('syscall', 'intptr_t', ['intptr_t', 'intptr_t', 'intptr_t', 'intptr_t', 'intptr_t', 'intptr_t']),
      mmap: f('mmap', 'intptr_t', 'size_t', 'int', 'int', 'int', 'int64_t'),
      socket: i('socket', 'int', 'int', 'int'),
      bind: i('bind', 'int', 'void *', 'uint32_t'),
      connect: i('connect', 'int', 'void *', 'uint32_t'),
      shutdown: i('shutdown', 'int', 'int'),
      listen: i('listen', 'int', 'int'),
      accept4: i('accept4', 'int', 'void *', 'void *', 'int'),
      eventfd: i('eventfd', 'uint32_t', 'int'),
      memfd: i('memfd_create', 'str', 'uint32_t'),
      ftruncate: i('ftruncate', 'int', 'int64_t'),
      fcntl: i('fcntl', 'int', 'int', 'int'),
      flock: i('flock', 'int', 'int'),
      ioctl: i('ioctl', 'int', 'uintptr_t', 'void *'),
      ioctlValue: libc.func('ioctl', 'int', ['int', 'uintptr_t', 'uintptr_t']),
      epollCreate: i('epoll_create1', 'int'),
      epollCtl: i('epoll_ctl', 'int', 'int', 'int', 'void *'),
      epollWait: i('epoll_wait', 'int', 'void *', 'int', 'int'),
    };
    this.#one[0] = 1;
    const system = (number: number, a = 0, b = 0, c = 0, d = 0, e = 0): number => this.#do('system', number, a, b, c, d, e);
    this.#signals = EventSignals.open(system, (bytes) => this.addressOf(bytes));
    const vectorAddress = this.addressOf(this.#vector);
    this.#controlAddress = this.addressOf(this.#control);
    this.#messageView.setBigUint64(16, BigInt(vectorAddress), true);
    this.#messageView.setBigUint64(24, 1n, true);
  }

  #do(name: string, ...parameters: unknown[]): number {
    for (;;) {
      const result = (this.#call[name] as NativeFunction)(...parameters);
      if (result !== -1) return result;
      const error = this.#koffi.errno();
      if (error !== EINTR) return -error;
    }
  }

  /** Where the first byte of a view over shared memory, or over an ArrayBuffer of its own, lies. */
  addressOf(view: Uint8Array): number {
    return (this.#call.memcpy as NativeFunction)(view, view, 0);
  }

  close(fd: number): void {
    closeSync(fd);
  }

  // ---- sockets ----

  /** Receives up to `length` bytes into `into` at `offset`, and appends descriptors that came with them to `fds`. Bytes received, 0 at the end, or minus the error. */
  receive(fd: number, into: Uint8Array, offset: number, length: number, fds: number[]): number {
    this.#point(into, offset, length, this.#control.length);
    const received = this.#do('recvmsg', fd, this.#message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (received < 0) return received;
    const control = Number(this.#messageView.getBigUint64(40, true));
    for (let at = 0; at + CONTROL_HEADER <= control; ) {
      const size = Number(this.#controlView.getBigUint64(at, true));
      if (size < CONTROL_HEADER) break;
      if (this.#controlView.getInt32(at + 8, true) === SOL_SOCKET && this.#controlView.getInt32(at + 12, true) === SCM_RIGHTS)
        for (let i = at + CONTROL_HEADER; i + 4 <= at + size; i += 4) fds.push(this.#controlView.getInt32(i, true));
      at += (size + 7) & ~7;
    }
    return received;
  }

  /** Sends all of `bytes` with `fds`, never waiting. Bytes sent, or minus the error. */
  send(fd: number, bytes: Uint8Array, fds: readonly number[] = []): number {
    const size = CONTROL_HEADER + 4 * fds.length;
    this.#point(bytes, 0, bytes.length, fds.length === 0 ? 0 : (size + 7) & ~7);
    if (fds.length > 0) {
      this.#controlView.setBigUint64(0, BigInt(size), true);
      this.#controlView.setInt32(8, SOL_SOCKET, true);
      this.#controlView.setInt32(12, SCM_RIGHTS, true);
      fds.forEach((passed, i) => {
        this.#controlView.setInt32(CONTROL_HEADER + 4 * i, passed, true);
      });
    }
    return this.#do('sendmsg', fd, this.#message, MSG_DONTWAIT | MSG_NOSIGNAL);
  }

  #point(bytes: Uint8Array, offset: number, length: number, control: number): void {
    this.#vectorView.setBigUint64(0, BigInt(this.addressOf(bytes) + offset), true);
    this.#vectorView.setBigUint64(8, BigInt(length), true);
    this.#messageView.setBigUint64(32, control === 0 ? 0n : BigInt(this.#controlAddress), true);
    this.#messageView.setBigUint64(40, BigInt(control), true);
    this.#messageView.setInt32(48, 0, true);
  }

  /** A listening UNIX socket, or minus the error. */
  listen(path: string): number {
    return this.#withSocket((fd) => {
      const bound = this.#do('bind', fd, unixAddress(path), 2 + PATH_BYTES);
      return bound < 0 ? bound : this.#do('listen', fd, 16);
    });
  }

  /** A connected UNIX socket, or minus the error. UNIX sockets connect at once or not at all. */
  connect(path: string): number {
    return this.#withSocket((fd) => this.#do('connect', fd, unixAddress(path), 2 + PATH_BYTES));
  }

  #withSocket(prepare: (fd: number) => number): number {
    const fd = this.#do('socket', AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return fd;
    const result = prepare(fd);
    if (result >= 0) return fd;
    this.close(fd);
    return result;
  }

  accept(fd: number): number {
    return this.#do('accept4', fd, null, null, SOCK_NONBLOCK | SOCK_CLOEXEC);
  }

  /** No more is sent; the other side reads an end. */
  shutdownWrite(fd: number): number {
    return this.#do('shutdown', fd, SHUT_WR);
  }

  // ---- eventfds ----

  eventfd(): number {
    return this.#do('eventfd', 0, EFD_CLOEXEC_NONBLOCK);
  }

  /** Adds one to an eventfd, or sends eight bytes to a socket in its place; never waits. Below 0: minus the error. */
  writeEvent(fd: number): number {
    // Without signals it does not wait as long as nobody takes O_NONBLOCK away.
    if (this.#signals === undefined) return this.#do('write', fd, this.#one, 8);
    const result = this.#signals.add(fd);
    return result === -EINVAL ? this.send(fd, this.#one) : result;
  }

  /** Takes an eventfd's count into `into` (eight bytes); never waits. 8, or minus the error. */
  readEvent(fd: number, into: Uint8Array): number {
    this.#vectorView.setBigUint64(0, BigInt(this.addressOf(into)), true);
    this.#vectorView.setBigUint64(8, 8n, true);
    const result = this.#do('preadv2', fd, this.#vector, 1, -1, RWF_NOWAIT);
    // An old kernel: it does not wait as long as nobody takes O_NONBLOCK away.
    return result === -EOPNOTSUPP ? this.#do('read', fd, into, 8) : result;
  }

  /** What events may go to and come from: an eventfd, or a socket in its place. A file would fill up, a terminal would print them, a pipe could be made to wait. */
  isEvent(fd: number): boolean {
    return fstatSync(fd).isSocket() || readlinkSync(`/proc/self/fd/${fd}`) === 'anon_inode:[eventfd]';
  }

  /** Reads and writes do not wait from here on, unless another holder of the descriptor takes that back. */
  setNonBlocking(fd: number): number {
    const flags = this.#do('fcntl', fd, F_GETFL, 0);
    return flags < 0 ? flags : this.#do('fcntl', fd, F_SETFL, flags | SOCK_NONBLOCK);
  }

  // ---- memory ----

  memfd(name: string, size: number): number {
    const fd = this.#do('memfd', name, MFD_CLOEXEC_SEALING);
    if (fd < 0) return fd;
    const sized = this.truncate(fd, size);
    if (sized >= 0) return fd;
    this.close(fd);
    return sized;
  }

  truncate(fd: number, size: number): number {
    return this.#do('ftruncate', fd, size);
  }

  /** Keeps a memory file from being made shorter under a mapping; false: the file does not allow that. */
  sealShrink(fd: number): boolean {
    this.#do('fcntl', fd, F_ADD_SEALS, F_SEAL_SHRINK);
    const seals = this.#do('fcntl', fd, F_GET_SEALS, 0);
    return seals >= 0 && (seals & F_SEAL_SHRINK) !== 0;
  }

  /** Puts `length` bytes of a file from `offset` on at `address`, in place of what was mapped there. 0, or minus the error. */
  mapAt(address: number, length: number, fd: number, offset: number): number {
    const result = this.#do('mmap', address, length, PROT_READ_WRITE, MAP_SHARED | MAP_FIXED, fd, offset);
    return result === address ? 0 : Math.min(result, -NO_SUCH);
  }

  /** Puts fresh zeroed memory at `address`: what was mapped there is unmapped, and the range stays valid for whoever owns it. */
  unmapAt(address: number, length: number): number {
    const result = this.#do('mmap', address, length, PROT_READ_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    return result === address ? 0 : Math.min(result, -NO_SUCH);
  }

  /** Locks a file against other processes, until the descriptor is closed or this process ends. 0, or minus the error. */
  lockFile(fd: number): number {
    return this.#do('flock', fd, LOCK_EXCLUSIVE_NOW);
  }

  // ---- devices ----

  /** @param argument read and written by the driver. 0 or above, or minus the error. */
  ioctl(fd: number, request: number, argument: Uint8Array): number {
    return this.#do('ioctl', fd, request, argument);
  }

  /** The same where the argument is a number. */
  ioctlValue(fd: number, request: number, argument: number): number {
    return this.#do('ioctlValue', fd, request, argument);
  }

  /** Reads once, up to `length` bytes to where `addressOf` says. Bytes read, 0 at the end, or minus the error. */
  readAt(fd: number, address: number, length: number): number {
    return this.#do('readAt', fd, address, length);
  }

  /** Writes once. Bytes written, or minus the error. */
  writeAt(fd: number, address: number, length: number): number {
    return this.#do('writeAt', fd, address, length);
  }

  // ---- waiting ----

  /** Calls `ready` from the event loop while `fd` is readable. Returns what ends that; call it before closing `fd`. */
  poll(fd: number, ready: () => void): () => void {
    const handle = this.#koffi.node.poll(fd, { readable: true }, ready);
    return () => {
      handle.stop();
      handle.close();
    };
  }

  epollCreate(): number {
    return this.#do('epollCreate', EPOLL_CLOEXEC);
  }

  /** @param edge tell once for each time it becomes (or is made again) readable. @param output the same for writable. */
  epollAdd(epoll: number, fd: number, id: number, edge: boolean, output = false): number {
    const event = fixed(EVENT_BYTES);
    const view = new DataView(event.buffer);
    view.setUint32(0, (EPOLLIN | (output ? EPOLLOUT : 0) | (edge ? EPOLLET : 0)) >>> 0, true);
    view.setUint32(EVENT_ID, id, true);
    return this.#do('epollCtl', epoll, EPOLL_ADD, fd, event);
  }

  epollRemove(epoll: number, fd: number): number {
    return this.#do('epollCtl', epoll, EPOLL_DEL, fd, null);
  }

  /** Fills `ids` with those that are ready; returns how many. Waits for the first at most so many milliseconds, and keeps the thread while it does. */
  epollTake(epoll: number, ids: number[], milliseconds = 0): number {
    const count = this.#do('epollWait', epoll, EVENTS, MOST_EVENTS, milliseconds);
    for (let i = 0; i < count; i++) ids[i] = EVENTS_VIEW.getUint32(i * EVENT_BYTES + EVENT_ID, true);
    return Math.max(0, count);
  }
}

// struct epoll_event is packed on x86-64 and on no other machine.
const EVENT_BYTES = process.arch === 'x64' ? 12 : 16;
const EVENT_ID = process.arch === 'x64' ? 4 : 8;
const MOST_EVENTS = 64;
const EVENTS = fixed(MOST_EVENTS * EVENT_BYTES);
const EVENTS_VIEW = new DataView(EVENTS.buffer);

function unixAddress(path: string): Uint8Array {
  const address = fixed(2 + PATH_BYTES);
  address[0] = AF_UNIX;
  const bytes = new TextEncoder().encode(path);
  if (bytes.length === 0 || bytes.length >= PATH_BYTES) throw new InteropError('NICBOX_SOCKET', `socket path ${path}: 1 to ${PATH_BYTES - 1} bytes`);
  address.set(bytes, 2);
  return address;
}

export type { Native };

let native: Native | undefined;

/** This thread's binding. @throws InteropError when the platform is not one it knows, or koffi is not installed. */
export function openNative(): Native {
  if (native !== undefined) return native;
  if (process.platform !== 'linux' || (process.arch !== 'x64' && process.arch !== 'arm64'))
    throw new InteropError('NICBOX_NATIVE_PLATFORM', `vhost-user and TAP need Linux on x64 or arm64; this is ${process.platform} on ${process.arch}`);
  let koffi: Koffi;
  try {
    koffi = createRequire(import.meta.url)('koffi') as Koffi;
  } catch (error) {
    throw new InteropError(
      'NICBOX_NATIVE_MISSING',
      `vhost-user and TAP need the optional package koffi: npm install koffi (${(error as Error).message.split('\n')[0]})`,
    );
  }
  native = new Native(koffi);
  return native;
}

const ERROR_NAMES: Readonly<Record<number, string>> = {
  1: 'EPERM',
  2: 'ENOENT',
  9: 'EBADF',
  11: 'EAGAIN',
  12: 'ENOMEM',
  13: 'EACCES',
  16: 'EBUSY',
  19: 'ENODEV',
  22: 'EINVAL',
  24: 'EMFILE',
  32: 'EPIPE',
  98: 'EADDRINUSE',
  104: 'ECONNRESET',
  111: 'ECONNREFUSED',
};

/** "EINVAL" for what a call here returned. */
export function errorName(result: number): string {
  return ERROR_NAMES[-result] ?? `error ${-result}`;
}
