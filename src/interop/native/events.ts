// Event descriptors, signalled and read in ways that never wait, and descriptors that are waited for.

import { fstatSync, readlinkSync } from 'node:fs';
import { EventSignals } from '../event-signals.ts';
import { fixed, type Libc } from './libc.ts';
import type { Sockets } from './sockets.ts';

const EINVAL = 22;
const EOPNOTSUPP = 95;
const RWF_NOWAIT = 8;
const O_NONBLOCK = 0o4000;
const EFD_CLOEXEC_NONBLOCK = 0o2000000 | O_NONBLOCK;
const F_GETFL = 3;
const F_SETFL = 4;
const EPOLL_CLOEXEC = 0o2000000;
const EPOLL_ADD = 1;
const EPOLL_DEL = 2;
const EPOLLIN = 1;
const EPOLLOUT = 4;
const EPOLLET = 0x80000000;
// struct epoll_event is packed on x86-64 and on no other machine.
const EVENT_BYTES = process.arch === 'x64' ? 12 : 16;
const EVENT_ID = process.arch === 'x64' ? 4 : 8;
const MOST_EVENTS = 64;
const EVENTS = fixed(MOST_EVENTS * EVENT_BYTES);
const EVENTS_VIEW = new DataView(EVENTS.buffer);

export class Events {
  readonly #libc: Libc;
  readonly #sockets: Sockets;
  readonly #one = fixed(8);
  readonly #vector = fixed(16);
  readonly #vectorView = new DataView(this.#vector.buffer);
  readonly #signals: EventSignals | undefined;

  constructor(libc: Libc, sockets: Sockets) {
    this.#libc = libc;
    this.#sockets = sockets;
    this.#one[0] = 1;
    const system = (number: number, a = 0, b = 0, c = 0, d = 0, e = 0): number => libc.call('system', number, a, b, c, d, e);
    this.#signals = EventSignals.open(system, (bytes) => libc.addressOf(bytes));
  }

  eventfd(): number {
    return this.#libc.call('eventfd', 0, EFD_CLOEXEC_NONBLOCK);
  }

  /** Adds one to an eventfd, or sends eight bytes to a socket in its place; never waits. Below 0: minus the error. */
  writeEvent(fd: number): number {
    // Without signals it does not wait as long as nobody takes O_NONBLOCK away.
    if (this.#signals === undefined) return this.#libc.call('write', fd, this.#one, 8);
    const result = this.#signals.add(fd);
    return result === -EINVAL ? this.#sockets.send(fd, this.#one) : result;
  }

  /** Takes an eventfd's count into `into` (eight bytes); never waits. 8, or minus the error. */
  readEvent(fd: number, into: Uint8Array): number {
    this.#vectorView.setBigUint64(0, BigInt(this.#libc.addressOf(into)), true);
    this.#vectorView.setBigUint64(8, 8n, true);
    const result = this.#libc.call('preadv2', fd, this.#vector, 1, -1, RWF_NOWAIT);
    // An old kernel: it does not wait as long as nobody takes O_NONBLOCK away.
    return result === -EOPNOTSUPP ? this.#libc.call('read', fd, into, 8) : result;
  }

  /** What events may go to and come from: an eventfd, or a socket in its place. A file would fill up, a terminal would print them, a pipe could be made to wait. */
  isEvent(fd: number): boolean {
    return fstatSync(fd).isSocket() || readlinkSync(`/proc/self/fd/${fd}`) === 'anon_inode:[eventfd]';
  }

  /** Reads and writes do not wait from here on, unless another holder of the descriptor takes that back. */
  setNonBlocking(fd: number): number {
    const flags = this.#libc.call('fcntl', fd, F_GETFL, 0);
    return flags < 0 ? flags : this.#libc.call('fcntl', fd, F_SETFL, flags | O_NONBLOCK);
  }

  /** Calls `ready` from the event loop while `fd` is readable. Returns what ends that; call it before closing `fd`. */
  poll(fd: number, ready: () => void): () => void {
    return this.#libc.poll(fd, ready);
  }

  epollCreate(): number {
    return this.#libc.call('epollCreate', EPOLL_CLOEXEC);
  }

  /** @param edge tell once for each time it becomes (or is made again) readable. @param output the same for writable. */
  epollAdd(epoll: number, fd: number, id: number, edge: boolean, output = false): number {
    const event = fixed(EVENT_BYTES);
    const view = new DataView(event.buffer);
    view.setUint32(0, (EPOLLIN | (output ? EPOLLOUT : 0) | (edge ? EPOLLET : 0)) >>> 0, true);
    view.setUint32(EVENT_ID, id, true);
    return this.#libc.call('epollCtl', epoll, EPOLL_ADD, fd, event);
  }

  epollRemove(epoll: number, fd: number): number {
    return this.#libc.call('epollCtl', epoll, EPOLL_DEL, fd, null);
  }

  /** Fills `ids` with those that are ready; returns how many. Waits for the first at most so many milliseconds, and keeps the thread while it does. */
  epollTake(epoll: number, ids: number[], milliseconds = 0): number {
    const count = this.#libc.call('epollWait', epoll, EVENTS, MOST_EVENTS, milliseconds);
    for (let i = 0; i < count; i++) ids[i] = EVENTS_VIEW.getUint32(i * EVENT_BYTES + EVENT_ID, true);
    return Math.max(0, count);
  }
}
