// How a vhost-user front end comes by a connection: it calls the back end's socket, or listens for the back end on one of its own, again whenever the last one ended.

import { unlinkSync } from 'node:fs';
import type { Log } from '#core/log';
import type { EventPoll, Watch } from './event-poll.ts';
import { errorName, InteropError } from './interop-error.ts';
import type { Native } from './native.ts';

/** Waits between attempts, in milliseconds: doubled from the first to the last. */
const FIRST_RETRY = 50;
const LAST_RETRY = 2000;
const ECONNREFUSED = 111;
const EADDRINUSE = 98;

export interface DialParts {
  readonly native: Native;
  readonly poll: EventPoll;
  readonly path: string;
  readonly listen: boolean;
  readonly log: Log;
  /** A connection is there: `fd` is the caller's, who says `over` when it is done with it. */
  readonly onConnection: (fd: number) => void;
}

export class VhostUserDial {
  readonly #parts: DialParts;
  #listener = -1;
  #watch: Watch | undefined;
  #retry: NodeJS.Timeout | undefined;
  #wait = FIRST_RETRY;
  #busy = false;
  #since = 0;
  #closed = false;
  /** Why the last call was in vain. */
  trouble = 'no answer';

  constructor(parts: DialParts) {
    this.#parts = parts;
  }

  /** @throws InteropError when the socket cannot be listened on */
  open(): void {
    if (this.#parts.listen) this.#listen();
    else this.#call();
  }

  /** The connection has ended: makes another. */
  over(): void {
    this.#busy = false;
    if (this.#closed) return;
    // One that served for a while is worth a call at once; one that fails again and again is not.
    if (performance.now() - this.#since > LAST_RETRY) this.#wait = FIRST_RETRY;
    if (this.#parts.listen) this.#later(() => this.#accept());
    else this.#later(() => this.#call());
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#retry);
    this.#watch?.remove();
    if (this.#listener < 0) return;
    this.#parts.native.close(this.#listener);
    try {
      unlinkSync(this.#parts.path);
    } catch {
      // Somebody else has removed it.
    }
  }

  #later(attempt: () => void): void {
    this.#retry = setTimeout(attempt, this.#wait);
    this.#wait = Math.min(LAST_RETRY, 2 * this.#wait);
  }

  #call(): void {
    const { native, path, log } = this.#parts;
    const fd = native.sockets.connect(path);
    if (fd >= 0) {
      this.#adopt(fd);
      return;
    }
    this.trouble = errorName(fd);
    log.trace(`nobody answers (${this.trouble}): trying again in ${this.#wait} ms`);
    this.#later(() => this.#call());
  }

  #listen(): void {
    const { native, poll, path } = this.#parts;
    let fd = native.sockets.listen(path);
    if (fd === -EADDRINUSE) {
      // A socket that nobody listens on is what a killed process left behind.
      const probe = native.sockets.connect(path);
      if (probe >= 0) native.close(probe);
      if (probe === -ECONNREFUSED) {
        unlinkSync(path);
        fd = native.sockets.listen(path);
      }
    }
    if (fd < 0) throw new InteropError('NICBOX_SOCKET', `cannot listen on ${path}: ${errorName(fd)}`);
    this.#listener = fd;
    const watch = poll.add(fd, () => this.#accept());
    if (typeof watch === 'number') throw new InteropError('NICBOX_SOCKET', `cannot wait on ${path}: ${errorName(watch)}`);
    this.#watch = watch;
  }

  /** A device has one back end: a second one waits in the socket's queue. */
  #accept(): void {
    if (this.#busy || this.#closed) return;
    const fd = this.#parts.native.sockets.accept(this.#listener);
    if (fd >= 0) this.#adopt(fd);
  }

  #adopt(fd: number): void {
    clearTimeout(this.#retry);
    this.#busy = true;
    this.#since = performance.now();
    this.#parts.onConnection(fd);
  }
}
