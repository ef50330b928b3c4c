// One front end on a vhost-user socket: reads its messages one after the other, checks them, carries them out and answers. The peer is not trusted: whatever breaks the
// protocol ends this connection, with every descriptor closed and every mapping gone, and nobody else's.

import type { EventPoll, Watch } from './event-poll.ts';
import { FrontSession, type SessionParts, type SessionState } from './front-session.ts';
import { EAGAIN, errorName } from './interop-error.ts';
import * as wire from './vhost-user-protocol.ts';
import { type Message, ProtocolError } from './vhost-user-protocol.ts';

/** Messages handled before everybody else gets a turn. */
const MESSAGES_PER_TURN = 64;
const HUNG_UP = 'the front end closed it';

export interface ConnectionParts extends Omit<SessionParts, 'fail'> {
  readonly poll: EventPoll;
}

/** Why a connection is over, and whether the peer broke the protocol. */
export interface Ending {
  readonly reason: string;
  readonly fault: boolean;
}

export class VhostUserConnection {
  /** Settles when everything is given back. */
  readonly closed: Promise<Ending>;
  readonly #fd: number;
  readonly #parts: ConnectionParts;
  readonly #session: FrontSession;
  readonly #watch: Watch | undefined;
  readonly #header = new DataView(new ArrayBuffer(wire.HEADER_BYTES));
  #resolve: (ending: Ending) => void = () => {};
  // The message being received.
  #parsed: wire.Header | undefined;
  #bytes: Uint8Array;
  #have = 0;
  #fds: number[] = [];
  #busy = false;
  #again = false;
  #closing = false;
  #ending: Ending = { reason: '', fault: false };

  /** Takes over `fd`. */
  constructor(fd: number, parts: ConnectionParts) {
    this.#fd = fd;
    this.#parts = parts;
    this.#session = new FrontSession({ ...parts, fail: (reason) => this.close(reason, true) });
    this.#bytes = new Uint8Array(this.#header.buffer);
    this.closed = new Promise((resolve) => {
      this.#resolve = resolve;
    });
    const watch = parts.poll.add(fd, () => this.#ready());
    if (typeof watch === 'number') {
      this.#watch = undefined;
      this.close(`cannot be waited for: ${errorName(watch)}`);
    } else this.#watch = watch;
  }

  get state(): SessionState {
    return this.#session.state;
  }

  /** Calls are waiting that go to the front end as messages. */
  relayCalls(): void {
    this.#session.relayCalls();
  }

  /** Ends the connection; `closed` says when that is done. */
  close(reason: string, fault = false): void {
    if (this.#closing) return;
    this.#closing = true;
    this.#ending = { reason, fault };
    this.#watch?.remove();
    // Whoever is at work on a message finishes first.
    if (!this.#busy) void this.#cleanUp();
  }

  async #cleanUp(): Promise<void> {
    const { native } = this.#parts;
    this.#dropFds(this.#fds);
    try {
      await this.#session.close();
    } finally {
      native.close(this.#fd);
      this.#resolve(this.#ending);
    }
  }

  #dropFds(fds: number[]): void {
    for (const fd of fds.splice(0)) this.#parts.native.close(fd);
  }

  // ---- receiving ----

  #ready(): void {
    this.#again = true;
    if (this.#busy || this.#closing) return;
    this.#busy = true;
    void this.#serve().then((reason) => {
      this.#busy = false;
      if (this.#closing) void this.#cleanUp();
      else if (reason !== undefined) this.close(reason, reason !== HUNG_UP);
      else if (this.#again) this.#ready();
    });
  }

  /** Serves what there is; returns why the connection ends, if it does. */
  async #serve(): Promise<string | undefined> {
    let message: Message | undefined;
    try {
      while (this.#again) {
        this.#again = false;
        for (let count = 1; ; count++) {
          const received = this.#receive();
          if (received === 'nothing') break;
          if (received === 'end') return HUNG_UP;
          message = received;
          await this.#handle(message);
          // What the message did not need.
          this.#dropFds(message.fds);
          message = undefined;
          if (this.#closing) return undefined;
          if (count % MESSAGES_PER_TURN === 0) await new Promise((resolve) => setImmediate(resolve));
        }
      }
      return undefined;
    } catch (error) {
      if (message !== undefined) {
        this.#dropFds(message.fds);
        if (message.needsReply && this.#session.acknowledges) this.#parts.native.sockets.send(this.#fd, wire.makeU64Reply(message.request, 1));
      }
      if (error instanceof ProtocolError) return message === undefined ? error.message : `${wire.requestName(message.request)}: ${error.message}`;
      return `internal error, please report it: ${(error as Error).stack ?? String(error)}`;
    }
  }

  /** One step of a message at a time: a peer may send it in any number of pieces. @throws ProtocolError */
  #receive(): Message | 'nothing' | 'end' {
    for (;;) {
      const wanted = this.#bytes.length - this.#have;
      if (wanted > 0) {
        const received = this.#parts.native.sockets.receive(this.#fd, this.#bytes, this.#have, wanted, this.#fds);
        if (received === -EAGAIN) return 'nothing';
        if (received === 0 && this.#have === 0 && this.#parsed === undefined) return 'end';
        if (received <= 0) throw new ProtocolError(received === 0 ? 'the connection ended inside a message' : `receiving failed: ${errorName(received)}`);
        this.#have += received;
        if (this.#have < this.#bytes.length) continue;
      }
      if (this.#parsed === undefined) {
        this.#parsed = wire.readHeader(this.#header);
        this.#bytes = new Uint8Array(new ArrayBuffer(this.#parsed.bytes));
        this.#have = 0;
        if (this.#parsed.bytes > 0) continue;
      }
      const { request, needsReply } = this.#parsed;
      const message: Message = { request, needsReply, payload: new DataView(this.#bytes.buffer), fds: this.#fds };
      this.#parsed = undefined;
      this.#bytes = new Uint8Array(this.#header.buffer);
      this.#have = 0;
      this.#fds = [];
      return message;
    }
  }

  // ---- answering ----

  #send(bytes: Uint8Array, fds: readonly number[] = []): void {
    const sent = this.#parts.native.sockets.send(this.#fd, bytes, fds);
    if (sent !== bytes.length)
      throw new ProtocolError(sent === -EAGAIN ? 'the front end does not read its replies' : `a reply was not taken: ${errorName(sent)}`);
  }

  /** @throws ProtocolError */
  async #handle(message: Message): Promise<void> {
    const reply = await this.#session.carryOut(message);
    if (reply instanceof Uint8Array) this.#send(reply);
    else if (reply !== undefined) {
      try {
        this.#send(reply.bytes, [reply.fd]);
      } finally {
        this.#parts.native.close(reply.fd);
      }
    } else if (message.needsReply && this.#session.acknowledges) this.#send(wire.makeU64Reply(message.request, 0));
  }
}
