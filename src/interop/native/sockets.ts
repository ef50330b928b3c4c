// UNIX sockets with file descriptors in their messages.

import { InteropError } from '../interop-error.ts';
import { fixed, type Libc } from './libc.ts';

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_NONBLOCK = 0o4000;
const SOCK_CLOEXEC = 0o2000000;
const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const MSG_CMSG_CLOEXEC = 0x40000000;
const SHUT_WR = 1;
/** The kernel passes at most so many descriptors in a message (SCM_MAX_FD). */
const MOST_FDS = 253;
const CONTROL_HEADER = 16;
const MESSAGE_HEADER = 56;
const PATH_BYTES = 108;

export class Sockets {
  readonly #libc: Libc;
  // One message header for all: no call here is re-entered.
  readonly #message = fixed(MESSAGE_HEADER);
  readonly #messageView = new DataView(this.#message.buffer);
  readonly #vector = fixed(16);
  readonly #vectorView = new DataView(this.#vector.buffer);
  readonly #control = fixed(CONTROL_HEADER + 4 * MOST_FDS + 4);
  readonly #controlView = new DataView(this.#control.buffer);
  readonly #controlAddress: number;

  constructor(libc: Libc) {
    this.#libc = libc;
    this.#controlAddress = libc.addressOf(this.#control);
    this.#messageView.setBigUint64(16, BigInt(libc.addressOf(this.#vector)), true);
    this.#messageView.setBigUint64(24, 1n, true);
  }

  /** Receives up to `length` bytes into `into` at `offset`, and appends descriptors that came with them to `fds`. Bytes received, 0 at the end, or minus the error. */
  receive(fd: number, into: Uint8Array, offset: number, length: number, fds: number[]): number {
    this.#point(into, offset, length, this.#control.length);
    const received = this.#libc.call('recvmsg', fd, this.#message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
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
    return this.#libc.call('sendmsg', fd, this.#message, MSG_DONTWAIT | MSG_NOSIGNAL);
  }

  #point(bytes: Uint8Array, offset: number, length: number, control: number): void {
    this.#vectorView.setBigUint64(0, BigInt(this.#libc.addressOf(bytes) + offset), true);
    this.#vectorView.setBigUint64(8, BigInt(length), true);
    this.#messageView.setBigUint64(32, control === 0 ? 0n : BigInt(this.#controlAddress), true);
    this.#messageView.setBigUint64(40, BigInt(control), true);
    this.#messageView.setInt32(48, 0, true);
  }

  /** A listening UNIX socket, or minus the error. */
  listen(path: string): number {
    return this.#withSocket((fd) => {
      const bound = this.#libc.call('bind', fd, unixAddress(path), 2 + PATH_BYTES);
      return bound < 0 ? bound : this.#libc.call('listen', fd, 16);
    });
  }

  /** A connected UNIX socket, or minus the error. UNIX sockets connect at once or not at all. */
  connect(path: string): number {
    return this.#withSocket((fd) => this.#libc.call('connect', fd, unixAddress(path), 2 + PATH_BYTES));
  }

  #withSocket(prepare: (fd: number) => number): number {
    const fd = this.#libc.call('socket', AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return fd;
    const result = prepare(fd);
    if (result >= 0) return fd;
    this.#libc.close(fd);
    return result;
  }

  accept(fd: number): number {
    return this.#libc.call('accept4', fd, null, null, SOCK_NONBLOCK | SOCK_CLOEXEC);
  }

  /** No more is sent; the other side reads an end. */
  shutdownWrite(fd: number): number {
    return this.#libc.call('shutdown', fd, SHUT_WR);
  }
}

function unixAddress(path: string): Uint8Array {
  const address = fixed(2 + PATH_BYTES);
  address[0] = AF_UNIX;
  const bytes = new TextEncoder().encode(path);
  if (bytes.length === 0 || bytes.length >= PATH_BYTES) throw new InteropError('NICBOX_SOCKET', `socket path ${path}: 1 to ${PATH_BYTES - 1} bytes`);
  address.set(bytes, 2);
  return address;
}
