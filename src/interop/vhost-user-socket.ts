// One vhost-user socket: listens for front ends, or connects to one, and keeps at most one connection at a time. A front end that comes while another is served
// waits in the socket's queue: a device has one driver.

import type { Watch } from './event-poll.ts';
import type { SessionState } from './front-session.ts';
import { errorName, InteropError } from './interop-error.ts';
import { listenAt, removeSocket } from './listener.ts';
import { type ConnectionParts, VhostUserConnection } from './vhost-user-connection.ts';

/** Waits between attempts to connect, in milliseconds: doubled from the first to the last. */
const FIRST_RETRY = 50;
const LAST_RETRY = 2000;

export interface SocketParts extends ConnectionParts {
  readonly path: string;
  readonly client: boolean;
}

export class VhostUserSocket {
  readonly path: string;
  /** Front ends so far, and how many of them were sent away for what they sent. */
  connections = 0;
  refused = 0;
  readonly #parts: SocketParts;
  #listener = -1;
  #watch: Watch | undefined;
  #connection: VhostUserConnection | undefined;
  #retry: NodeJS.Timeout | undefined;
  #wait = FIRST_RETRY;
  #closing = false;

  constructor(parts: SocketParts) {
    this.#parts = parts;
    this.path = parts.path;
  }

  get session(): SessionState | undefined {
    return this.#connection?.state;
  }

  /** Calls are waiting that go to front ends as messages. */
  relayCalls(): void {
    this.#connection?.relayCalls();
  }

  /** @throws InteropError */
  open(): void {
    if (this.#parts.client) this.#connect();
    else this.#listen();
  }

  async close(): Promise<void> {
    this.#closing = true;
    clearTimeout(this.#retry);
    const connection = this.#connection;
    connection?.close('this side closed it');
    await connection?.closed;
    this.#watch?.remove();
    if (this.#listener < 0) return;
    this.#parts.native.close(this.#listener);
    this.#listener = -1;
    removeSocket(this.path);
  }

  // ---- server mode ----

  #listen(): void {
    const { native, poll } = this.#parts;
    const fd = listenAt(native, this.path);
    this.#listener = fd;
    const watch = poll.add(fd, () => this.#accept());
    if (typeof watch === 'number') throw new InteropError('NICBOX_SOCKET', `cannot wait on ${this.path}: ${errorName(watch)}`);
    this.#watch = watch;
  }

  #accept(): void {
    if (this.#connection !== undefined || this.#closing) return;
    const fd = this.#parts.native.sockets.accept(this.#listener);
    // Nobody is there, or went away again.
    if (fd < 0) return;
    this.#adopt(fd);
  }

  // ---- client mode ----

  #connect(): void {
    const fd = this.#parts.native.sockets.connect(this.path);
    if (fd >= 0) {
      this.#wait = FIRST_RETRY;
      this.#adopt(fd);
      return;
    }
    this.#retryLater(`not there yet (${errorName(fd)})`);
  }

  #retryLater(why: string): void {
    this.#parts.log.trace(`${why}: trying again in ${this.#wait} ms`);
    this.#retry = setTimeout(() => this.#connect(), this.#wait);
    this.#wait = Math.min(LAST_RETRY, 2 * this.#wait);
  }

  // ---- both ----

  #adopt(fd: number): void {
    const { log } = this.#parts;
    this.connections++;
    log.trace('a front end connected');
    const connection = new VhostUserConnection(fd, this.#parts);
    this.#connection = connection;
    void connection.closed.then(({ reason, fault }) => {
      this.#connection = undefined;
      if (fault) {
        this.refused++;
        log.guestError(`connection closed: ${reason}`);
      } else log.trace(`connection closed: ${reason}`);
      if (this.#closing) return;
      if (this.#parts.client) this.#retryLater('the front end is gone');
      else this.#accept();
    });
  }
}
